"""Which run may continue with what: the same experiment and space, another budget, other versions of packages."""

import dataclasses
import functools
import json

import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax import study
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.storage import software
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.results import network_results
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import Experiment, StudyError, run_folder
from lanas_jax.study.experiment import Silence, WinnerTraining
from tests.study.linear_winner import winner_training
from tests.toy_experiment import OPTIONS, Sum, space_of


class Notes(Silence):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def experiment(
    options=OPTIONS, *, name="toy", budget=4, batch=2, searcher=lx.RandomSearch, evaluator=None, winner=None
):
    space = space_of(options) if isinstance(options, dict) else options
    return Experiment(name, space, searcher(space), evaluator or Sum(), budget, batch, 0, winner)


def essence(trials):
    return [(trial.id, trial.batch, trial.code, trial.key, trial.status, trial.value) for trial in trials]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("toy") / "run"
    study.run(experiment(), directory)
    return directory


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (experiment(name="second"), "is a run of the experiment 'toy', not of 'second': choose another folder"),
        (
            experiment({"a": (1, 2, 3), "b": "xyz"}),
            "another space: options of choice 'a': '?1'?, '?2'?, '?3'?, '?4'?, now",
        ),
        (experiment({"a": (4, 3, 2, 1), "b": "xyz"}), "now '?4'?, '?3'?, '?2'?, '?1'?"),
        (experiment({"b": "xyz", "a": (1, 2, 3, 4)}), "the order of the choices: a, b, now b, a"),
        (experiment({"a": (1, 2, 3, 4), "c": "xyz"}), "options of choice 'b': 'x', 'y', 'z', now absent"),
        (experiment(batch=1), "was started with batch 2, not 1: choose another folder"),
        (experiment(budget=9), r"was started with budget 4, not 9: extend the run \(extend=True\), or choose another"),
    ],
)
def test_another_experiment_or_space_is_refused_and_the_run_stays(run, other, message):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=message):
        study.run(other, run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_fields_of_a_space_are_part_of_it(tmp_path):
    run_folder.create(tmp_path / "run", experiment(NASNetSpace(2, channels=8)))
    with pytest.raises(RunError, match="another space: its channels is 8, now 16"):
        study.run(experiment(NASNetSpace(2, channels=16)), tmp_path / "run")


def test_the_same_experiment_continues_and_a_run_without_a_recorded_space_too(run, tmp_path):
    assert len(study.run(experiment(), run).trials) == 4
    record = json.loads((run / "config.json").read_text())
    assert record["space"]["choices"][0]["name"] == "a"
    older = run_folder.create(tmp_path / "older", experiment())
    older.config.write_text(json.dumps({key: older.record[key] for key in older.record if key != "space"}))
    assert len(study.run(experiment(), tmp_path / "older").trials) == 4


@pytest.mark.parametrize(
    "searcher",
    [
        functools.partial(lx.LaNAS, initial=4),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (lx.RandomSearch, lx.RegularizedEvolution)),
    ],
)
def test_an_extended_run_has_the_trials_of_one_with_that_budget_from_the_start(searcher, tmp_path):
    whole = study.run(experiment(budget=10, searcher=searcher), tmp_path / "whole")
    first = study.run(experiment(budget=4, searcher=searcher), tmp_path / "run")
    extended = study.run(experiment(budget=10, searcher=searcher), tmp_path / "run", extend=True)
    assert extended.trials[:4] == first.trials  # down to the clock
    assert essence(extended.trials) == essence(whole.trials)
    (change,) = run_folder.open_run(tmp_path / "run").extensions
    assert (change["from"], change["to"], change["trials"]) == (4, 10, 4)
    assert len(study.run(experiment(budget=10, searcher=searcher), tmp_path / "run").trials) == 10


def test_an_interrupted_run_may_be_extended_or_shortened_but_not_below_its_trials(tmp_path):
    class Stopped(Sum):
        def evaluate(self, codes, keys):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(experiment(budget=8, evaluator=Stopped()), tmp_path / "run")
    with pytest.raises(RunError, match="already has 2 trials: the budget must be at least that; got 1"):
        study.run(experiment(budget=1), tmp_path / "run", extend=True)
    assert run_folder.open_run(tmp_path / "run").record["budget"] == 8
    assert len(study.run(experiment(budget=6), tmp_path / "run", extend=True).trials) == 6


def test_another_winner_is_trained_and_the_training_of_the_earlier_one_remains(tmp_path):
    notes, winner = Notes(), winner_training()
    first = study.run(experiment(winner=winner), tmp_path / "run", notes)
    assert tuple(first.final["code"]) == first.best.code
    again = study.run(experiment(budget=12, winner=winner), tmp_path / "run", notes, extend=True)
    assert tuple(again.final["code"]) == again.best.code == (3, 2) != first.best.code  # the largest sum of all
    assert any(f"the training of another network is now in {tmp_path / 'run' / 'final-1'}" in x for x in notes.lines)
    assert json.loads((tmp_path / "run" / "final-1" / "final.json").read_text()) == first.final
    assert [one.final for one in network_results(tmp_path / "run")] == [first.final, again.final]
    assert again.final["networks_tested_before"] == 1
    assert study.run(experiment(budget=12, winner=winner), tmp_path / "run", notes).final == again.final


def test_a_winner_that_stays_keeps_its_training(tmp_path):
    class Falling(Sum):
        def __init__(self):
            self.calls = 0

        def evaluate(self, codes, keys):
            self.calls -= 1
            return [lx.Outcome(float(self.calls)) for _ in codes]

    winner, notes, evaluator = winner_training(), Notes(), Falling()
    study.run(experiment(evaluator=evaluator, winner=winner), tmp_path / "run")
    study.run(experiment(budget=8, evaluator=evaluator, winner=winner), tmp_path / "run", notes, extend=True)
    assert len(network_results(tmp_path / "run")) == 1
    assert "the winner is the same as before the extension: its training stays" in notes.lines


def other_versions(directory, *, codes=False):
    """Rewrites the trials as if another jax had recorded them, with codes that this one does not propose first."""
    with TrialStore.open(directory / "trials.sqlite") as store:
        trials = store.trials()
        mixed = [trial.code for trial in reversed(trials)] if codes else [trial.code for trial in trials]
        for trial, code in zip(trials, mixed, strict=True):
            old = dict(trial.software) | {"jax": "0.10.1"}
            store._write("REPLACE", dataclasses.replace(trial, code=code, software=old))


def interrupted(directory, **how):
    class Second(Sum):
        calls = 0

        def evaluate(self, codes, keys):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().evaluate(codes, keys)

    with pytest.raises(KeyboardInterrupt):
        study.run(experiment(budget=10, evaluator=Second(), **how), directory)


@pytest.mark.parametrize("searcher", [lx.RandomSearch, lx.LaNAS])
@pytest.mark.parametrize("codes", [False, True], ids=["same proposals", "other proposals"])
def test_other_versions_continue_only_if_the_user_says_so(searcher, codes, tmp_path):
    directory = tmp_path / "run"
    interrupted(directory, searcher=searcher)
    other_versions(directory, codes=codes)
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "gone")
    with TrialStore.open(directory / "trials.sqlite") as store:
        before = store.trials()
    rest = experiment(budget=10, searcher=searcher)
    with pytest.raises(RunError, match=r"recorded with other versions \(jax 0\.10\.1, now .*accept_versions=True"):
        study.run(rest, directory)
    found = study.run(rest, directory, accept_versions=True).trials
    assert found[:4] == before[:4]
    assert [trial.code for trial in found[4:6]] == [trial.code for trial in before[4:6]]  # pending: evaluated first
    assert len({trial.code for trial in found}) == len(found) == 10
    assert {trial.software["jax"] for trial in found[4:]} == {software.versions()["jax"]}
    (accepted,) = run_folder.open_run(directory).accepted
    assert accepted["changed"].startswith("jax 0.10.1, now ")
    assert accepted["events"] == 5
    # A later resume, without a checkpoint, comes to the same trials.
    (directory / "checkpoint").rename(tmp_path / "gone too")
    assert study.run(rest, directory).trials == found


def test_a_finished_run_needs_no_versions(tmp_path):
    study.run(experiment(), tmp_path / "run")
    other_versions(tmp_path / "run")
    assert len(study.run(experiment(), tmp_path / "run").trials) == 4
    assert run_folder.open_run(tmp_path / "run").accepted == []


def test_versions_are_listed_by_trial():
    recorded = {0: {"jax": "1", "numpy": "2"}, 1: {"jax": "1", "numpy": "2"}, 2: {"jax": "1.1", "numpy": "2"}}
    assert software.versions_by_trial(recorded) == "jax 1 (trials 0-1), 1.1 (trial 2)"
    assert software.versions_by_trial({0: {"jax": "1"}, 1: {"jax": "1"}}) == software.versions_by_trial({}) == ""
    alternating = {i: {"jax": str(i % 2)} for i in range(12)}
    assert software.versions_by_trial(alternating).startswith("jax 0 (trials 0, 2, 4, 6 and 2 more ranges), 1 (")
    assert software.versions_in_common(recorded.values()) == {"numpy": "2"}


@pytest.mark.parametrize(
    ("code", "text"), [(3, r"sys\.exit\(3\)"), (None, r"sys\.exit\(\)"), ("bad", r"sys\.exit\('bad'\)")]
)
def test_an_evaluator_that_exits_stops_the_study_and_its_trials_stay_pending(code, text, tmp_path):
    class Exits(Sum):
        def evaluate(self, codes, keys):
            if codes[0, 0] or len(codes) == 2:
                raise SystemExit(code)
            return super().evaluate(codes, keys)

    with pytest.raises(
        StudyError, match=rf"the evaluator called {text} \(test_continuing.py, line \d+\); its trials stay"
    ):
        study.run(experiment(evaluator=Exits()), tmp_path / "run")
    with TrialStore.open(tmp_path / "run" / "trials.sqlite") as store:
        assert [trial.status for trial in store.trials()] == ["pending", "pending"]
    assert len(study.run(experiment(), tmp_path / "run").trials) == 4


def test_exits_and_errors_elsewhere_are_named_too(tmp_path):
    class Preparing(Sum):
        def prepare(self, directory, note):
            raise ValueError("no images")

    def leaves(config, settings, code):
        raise SystemExit(1)

    with pytest.raises(StudyError, match="preparation of the evaluator failed: ValueError: no images"):
        study.run(experiment(evaluator=Preparing()), tmp_path / "run")
    with pytest.raises(StudyError, match=r"the winner could not be trained: ExperimentError: final.* called sys\.exit"):
        study.run(experiment(winner=WinnerTraining(leaves)), tmp_path / "run")
    assert np.isfinite(study.run(experiment(), tmp_path / "run").best.value)
