"""A run as a study of Optuna: parameters, values, states, times and reasons, and what is refused."""

import contextlib
import datetime
import sqlite3

import pytest

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

import lanas_jax as lx
from lanas_jax.cli import main
from lanas_jax.evaluators.base import Outcome
from lanas_jax.evaluators.from_function import FromFunction
from lanas_jax.integrations.optuna_study import distribution_of
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import run_folder
from lanas_jax.study.experiment import Experiment

SPACE = lx.SearchSpace(
    [
        lx.Choice("kind", ("a", None, True)),
        lx.Range("rate", 1e-3, 1e-1, log=True, steps=3),
        lx.Range("depth", 1, 3, when={"kind": "a"}),
    ]
)


@pytest.fixture
def run(tmp_path):
    """A run of a finished, a failed and a running trial, without a search."""
    evaluator = FromFunction(SPACE, lambda **options: 0.0)
    made = run_folder.create(tmp_path / "run", Experiment("mine", SPACE, lx.RandomSearch(SPACE), evaluator, 3, 3, 0))
    with TrialStore.open(made.trials) as store:
        store.add_pending(0, [(0, 1, 2), (1, 2, 0), (2, 0, 0)], ["00"] * 3, {"jax": "1"})
        outcomes = [Outcome(0.5, parameters=7, train_seconds=2.0), Outcome(None, "out of memory")]
        store.finish([0, 1], outcomes, {"jax": "1"}, 1e9)
    return made.directory


@pytest.mark.slow
def test_the_dashboard_sees_a_run(run, tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/run.db"
    for _ in range(2):  # the second time, the study is replaced
        assert main(["trials", str(run), "--optuna", url]) == 0
        assert f"3 trials: study 'run' in {url}" in capsys.readouterr().out
    study = optuna.load_study(study_name="run", storage=url)
    done, failed, running = study.trials
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    assert [trial.params for trial in study.trials] == [
        {"kind": "a", "rate": pytest.approx(1e-2), "depth": 3},
        {"kind": None, "rate": 0.1},
        {"kind": True, "rate": 1e-3},
    ]
    assert (study.best_value, study.direction.name) == (0.5, "MAXIMIZE")
    assert done.datetime_start == datetime.datetime.fromtimestamp(1e9)
    assert done.datetime_complete > done.datetime_start
    assert (done.user_attrs["parameters"], done.user_attrs["train_seconds"], done.user_attrs["code"]) == (
        7,
        2,
        [0, 1, 2],
    )
    assert failed.user_attrs["reason"] == "out of memory"
    assert "reason" not in running.user_attrs
    assert study.user_attrs == {"lanas run": str(run), "objective": "mine", "budget": 3}


def test_a_run_with_objectives_is_a_study_with_directions(tmp_path):
    names = ("accuracy", "parameters")
    evaluator, searcher = FromFunction(SPACE, lambda **options: 0.0), lx.RandomSearch(SPACE, objectives=2)
    experiment = Experiment("mine", SPACE, searcher, evaluator, 2, 2, 0, objectives=names)
    made = run_folder.create(tmp_path / "run", experiment)
    with TrialStore.open(made.trials) as store:
        store.add_pending(0, [(0, 1, 2), (1, 2, 0)], ["00"] * 2, {"jax": "1"})
        store.finish(
            [0, 1], [Outcome(0.5, parameters=7), Outcome(None, "the evaluator reports no parameters")], {}, 1e9
        )
    url = f"sqlite:///{tmp_path}/run.db"
    assert main(["trials", str(made.directory), "--optuna", url]) == 0
    study = optuna.load_study(study_name="run", storage=url)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [trial.values for trial in study.trials] == [[0.5, 7], None]
    assert [trial.number for trial in study.best_trials] == [0]
    assert study.user_attrs["objectives"] == ["accuracy", "parameters"]


def test_other_studies_and_storages_are_left_alone(run, tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/run.db"
    optuna.create_study(study_name="run", storage=url)
    for given, message in (
        (url, f"{url} has another study named 'run', which is not of {run}"),
        ("run.db", "'run.db' is not the URL of a storage: give one such as sqlite:///run.db"),
        ("sqlite:////no/such/folder/run.db", "the storage sqlite:////no/such/folder/run.db cannot be opened: "),
    ):
        assert main(["trials", str(run), "--optuna", given]) == 2
        assert message in capsys.readouterr().err
    assert not optuna.load_study(study_name="run", storage=url).trials


@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite+pysqlite:///{}?timeout=5", "sqlite:///file:{}?uri=true"])
def test_the_trials_of_a_run_are_left_alone(run, capsys, form):
    file = run / "trials.sqlite"
    before = file.read_bytes()
    assert main(["trials", str(run), "--optuna", form.format(file)]) == 2
    message = f"{file} has the trials of a run, which a study would damage: give the URL of another file"
    assert message in " ".join(capsys.readouterr().err.split())
    assert file.read_bytes() == before


def test_a_storage_that_cannot_be_written_is_one_sentence(run, tmp_path, capsys):
    file = tmp_path / "run.db"
    url = f"sqlite:///{file}?timeout=0.1"
    optuna.create_study(study_name="other", storage=url)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert main(["trials", str(run), "--optuna", url]) == 2
    message = f"the storage {url} cannot be written: (sqlite3.OperationalError) database is locked"
    assert message in capsys.readouterr().err
    assert optuna.get_all_study_names(url) == ["other"]


@pytest.mark.parametrize(
    ("choice", "distribution"),
    [
        (lx.Range("x", 1, 8), IntDistribution(1, 8)),
        (lx.Choice("x", (64, 16, 32)), IntDistribution(16, 64, log=True)),
        (lx.Range("x", 0.0, 1.0, steps=5), FloatDistribution(0, 1)),
        (lx.Range("x", 1e-5, 1e-1, log=True, steps=33), FloatDistribution(1e-5, 1e-1, log=True)),
        (lx.Choice("x", ("1", "2", "3"), ordered=True), CategoricalDistribution(("1", "2", "3"))),
        (lx.Choice("x", (1, 2, 4), ordered=False), CategoricalDistribution((1, 2, 4))),
        (lx.Choice("x", (True, False)), CategoricalDistribution((True, False))),
    ],
)
def test_a_choice_is_shown_as(choice, distribution):
    assert distribution_of(choice) == distribution
