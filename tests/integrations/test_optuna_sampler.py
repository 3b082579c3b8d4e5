"""The sampler inside Optuna: what it proposes, what it learns from, and that a study alone determines its proposals."""

import importlib
import os
import pickle
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from lanas_jax.integrations.grid import Grid
from lanas_jax.integrations.optuna import INFEASIBLE, LaNASSampler, Search

SPACE = {
    "act": CategoricalDistribution(("relu", None, True)),
    "depth": IntDistribution(1, 5),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "width": IntDistribution(16, 64, step=16),
}
GRID = Grid.of(SPACE, steps=5)


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def sampler(**settings):
    """A sampler with few values and few first trials; all tests share its compiled programs."""
    return LaNASSampler(**{"seed": 3, "steps": 5, "n_startup_trials": 4} | settings)


def suggest(trial):
    return {
        "act": trial.suggest_categorical("act", ("relu", None, True)),
        "depth": trial.suggest_int("depth", 1, 5),
        "rate": trial.suggest_float("rate", 1e-4, 1.0, log=True),
        "width": trial.suggest_int("width", 16, 64, step=16),
    }


def loss(params):
    """Zero for one of 300 combinations."""
    act = {None: 0.0, True: 1.0, "relu": 2.0}[params["act"]]
    return act + abs(params["depth"] - 4) + abs(np.log10(params["rate"]) + 2) + (64 - params["width"]) / 16


def objective(trial):
    return loss(suggest(trial))


def params_of(study):
    return [trial.params for trial in study.trials]


def codes_of(study):
    return [GRID.code(params) for params in params_of(study)]


@pytest.fixture(scope="module")
def minimized():
    """A study of 40 trials."""
    study = optuna.create_study(sampler=sampler())
    study.optimize(objective, n_trials=40)
    return study


@pytest.mark.slow
def test_it_finds_the_best_combination_and_repeats_none(minimized):
    """Forty uniform draws without replacement find it with a probability of 13 %."""
    assert minimized.best_value == pytest.approx(0.0, abs=1e-9)
    assert len(set(codes_of(minimized)[1:])) == 39  # the first has any values: its parameters were not known


def test_maximizing_the_negative_is_the_same(minimized):
    study = optuna.create_study(direction="maximize", sampler=sampler())
    study.optimize(lambda trial: -objective(trial), n_trials=12)
    assert params_of(study) == params_of(minimized)[:12]
    other = optuna.create_study(sampler=sampler(seed=4))
    other.optimize(objective, n_trials=2)
    assert params_of(other) != params_of(minimized)[:2]


@pytest.mark.slow
def test_a_study_in_a_database_continues_as_without_interruption(tmp_path, minimized):
    """Each part has a sampler of its own, as in a new process, which is pickled as for another machine."""
    storage = f"sqlite:///{tmp_path}/study.db"
    for n in (5, 3):
        part = optuna.create_study(
            storage=storage, study_name="a", load_if_exists=True, sampler=pickle.loads(pickle.dumps(sampler()))
        )
        part.optimize(objective, n_trials=n)
    assert params_of(part) == params_of(minimized)[:8]


@pytest.mark.slow
def test_running_trials_count_as_pending_also_for_other_processes(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    studies = [
        optuna.create_study(storage=storage, study_name="a", load_if_exists=True, sampler=sampler(seed=seed))
        for seed in (3, 3, 5)
    ]
    studies[0].optimize(objective, n_trials=6)
    trials = [studies[i % 3].ask() for i in range(6)]
    codes = [GRID.code(suggest(trial)) for trial in trials]
    assert len({*codes, *codes_of(studies[0])[:6]}) == 12
    for trial in trials:
        studies[1].tell(trial, loss(trial.params))
    assert GRID.code(suggest(studies[2].ask())) not in codes


def test_threads():
    study = optuna.create_study(sampler=sampler())
    study.optimize(objective, n_trials=16, n_jobs=3)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    known = [GRID.code(trial.params) for trial in study.trials if "lanas:params" in trial.system_attrs]
    assert len(set(known)) == len(known) >= 12


class SlowStorage(optuna.storages.InMemoryStorage):
    def set_trial_system_attr(self, *arguments):
        time.sleep(0.01)
        super().set_trial_system_attr(*arguments)


def test_threads_see_a_proposal_before_they_make_their_own():
    space = {"x": IntDistribution(0, 15)}
    slow = sampler(search_space=space, steps=16, n_startup_trials=99)
    study = optuna.create_study(storage=SlowStorage(), sampler=slow)
    study.optimize(lambda trial: time.sleep(0.005) or trial.suggest_int("x", 0, 15), n_trials=16, n_jobs=4)
    assert sorted(trial.params["x"] for trial in study.trials) == list(range(16))


@pytest.mark.parametrize("place", ["memory", "other memory", "sqlite"])
def test_another_study_of_the_same_name_is_forgotten(tmp_path, place):
    """A database numbers a study as a deleted one."""
    same = optuna.storages.get_storage(f"sqlite:///{tmp_path}/study.db" if place == "sqlite" else None)
    reused, proposed = sampler(n_startup_trials=99), []
    for storage in (same, None if place == "other memory" else same):
        study = optuna.create_study(study_name="a", storage=storage, sampler=reused)
        study.optimize(objective, n_trials=4)
        proposed.append(params_of(study))
        optuna.delete_study(study_name="a", storage=study._storage)
    assert proposed[0] == proposed[1]


def test_enqueued_trials_are_run_and_learned_from():
    study = optuna.create_study(sampler=sampler())
    best = {"act": None, "depth": 4, "rate": 0.01, "width": 64}
    study.enqueue_trial(best)
    study.optimize(objective, n_trials=5)
    study.enqueue_trial({"depth": 3})
    study.enqueue_trial({**best, "depth": 5})
    study.optimize(objective, n_trials=8)
    assert study.trials[0].params == best
    assert [trial.params["depth"] for trial in study.trials[5:7]] == [3, 5]
    assert codes_of(study).count(GRID.code(best)) == 1
    assert len(set(codes_of(study)[2:])) == 11


def finished(params, value=None, state=TrialState.COMPLETE, **more):
    kept = {name: params[name] for name in SPACE}
    return create_trial(params=kept, distributions=SPACE, value=value, state=state, **more)


def test_what_finished_trials_teach():
    study = optuna.create_study()
    codes = [(0, 0, 0, i) for i in range(4)] + [(1, 0, 0, i) for i in range(3)]
    params = [GRID.params(code) for code in codes]
    for trial in (
        finished(params[0], 1.0),
        finished(params[1], 3.0),
        finished(params[2], 0.5, TrialState.PRUNED),  # at best the median of 1 and 3
        finished(params[3], 7.0, TrialState.PRUNED),
        finished(params[4], state=TrialState.FAIL),
        finished(params[5], 0.0, system_attrs={"constraints": [-1.0, 2.0]}),
        finished(params[6], 0.0, system_attrs={"constraints:a": 5.0}),  # as Trial.set_constraint of Optuna 5
        finished({**params[0], "rate": 1.5e-4}, float("inf")),  # counts as the nearest code
    ):
        study.add_trial(trial)
    part = {"params": {"depth": 1}, "distributions": {"depth": IntDistribution(1, 5)}}
    study.add_trial(create_trial(**part, value=0.0))
    proposed = {"lanas:params": GRID.params((2, 0, 1, 0))}  # it failed before it had suggested all
    study.add_trial(create_trial(**part, state=TrialState.FAIL, system_attrs=proposed))
    other = {"params": {"kind": 1}, "distributions": {"kind": IntDistribution(1, 5)}}
    branch = {"lanas:params": GRID.params((2, 0, 1, 1))}  # it failed in a branch without these parameters
    study.add_trial(create_trial(**other, state=TrialState.FAIL, system_attrs=branch))
    search = Search(GRID, seed=0, startup=4, allowed=None)
    for _ in range(2):  # the second time, nothing is new
        search.observe(study.trials, minimize=True)
    found, values = zip(*search._results, strict=True)
    assert list(found) == [*codes, codes[0], (2, 0, 1, 0)]
    np.testing.assert_allclose([*values[:5], values[8]], [-1, -3, -2, -7, np.nan, np.nan])
    assert values[6] < values[5] < INFEASIBLE < values[7] < -1e6


def test_constraints():
    """Every combination with a depth above 2 is infeasible, and the more so the deeper."""
    settings = {"constraints_func": lambda trial: (trial.params["depth"] - 2.0,)}
    study = optuna.create_study(sampler=sampler(**settings))
    study.optimize(objective, n_trials=40)
    feasible = [trial for trial in study.trials if trial.params["depth"] <= 2]
    assert all(trial.system_attrs["constraints"] == (trial.params["depth"] - 2.0,) for trial in study.trials)
    assert len(feasible) > 40 * 2 / 5 + 3 * (40 * 2 / 5 * 3 / 5) ** 0.5  # three deviations more than by chance
    assert min(trial.value for trial in feasible) == pytest.approx(2.0)


@pytest.mark.parametrize("startup", [99, pytest.param(4, marks=pytest.mark.slow)])
def test_what_is_not_allowed_is_never_proposed(startup):
    def allowed(params):
        return params["depth"] * params["width"] <= 128

    study = optuna.create_study(sampler=sampler(search_space=SPACE, allowed=allowed, n_startup_trials=startup))
    study.optimize(objective, n_trials=20)
    assert all(map(allowed, params_of(study)))
    assert len(set(codes_of(study))) == 20


@pytest.mark.parametrize("startup", [0, 99])
def test_a_condition_that_allows_nothing_is_refused(startup):
    settings = {"search_space": SPACE, "allowed": lambda params: False, "n_startup_trials": startup}
    study = optuna.create_study(sampler=sampler(**settings))
    with pytest.raises(ValueError, match="allowed rejects all 300 combinations of act, depth, rate, width"):
        suggest(study.ask())


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_condition_on_fixed_parameters_is_refused():
    base = sampler(search_space=SPACE, allowed=lambda params: params["depth"] * params["width"] <= 128)
    study = optuna.create_study(sampler=optuna.samplers.PartialFixedSampler({"depth": 5, "width": 64}, base))
    with pytest.raises(ValueError, match=r"allowed needs all parameters .*, but another sampler fixes depth, width:"):
        suggest(study.ask())


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_categories_without_a_hash():
    study = optuna.create_study(sampler=sampler(n_startup_trials=99))
    study.optimize(lambda trial: len(trial.suggest_categorical("layers", ([64], [64, 32]))), n_trials=4)
    assert {len(trial.params["layers"]) for trial in study.trials[1:]} == {1, 2}


def test_groups_of_a_conditional_space():
    def conditional(trial):
        if trial.suggest_categorical("kind", ("a", "b")) == "a":
            return trial.suggest_int("x", 0, 3)
        return 1 + trial.suggest_int("y", 0, 3) + trial.suggest_int("z", 0, 3)

    study = optuna.create_study(sampler=sampler(group=True))
    study.optimize(conditional, n_trials=4)
    groups = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert set(groups) == {"kind", "x", "y", "z"}
    alone = optuna.create_study(sampler=sampler())
    alone.optimize(conditional, n_trials=4)
    assert set(alone.sampler.infer_relative_search_space(alone, alone.trials[-1])) == {"kind"}
    assert all(trial.state == TrialState.COMPLETE for trial in [*study.trials, *alone.trials])


def test_a_grid_that_is_used_up_gets_finer_and_categories_repeat():
    study = optuna.create_study(sampler=sampler(n_startup_trials=99))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=12)
    proposed = {trial.params["x"] for trial in study.trials[1:]}
    assert len(proposed) == 11
    assert proposed - {0.0, 0.25, 0.5, 0.75, 1.0} <= set(np.linspace(0, 1, 17))
    study = optuna.create_study(sampler=sampler(n_startup_trials=99))
    study.optimize(lambda trial: float(trial.suggest_categorical("x", (1, 2))), n_trials=5)
    assert {trial.params["x"] for trial in study.trials[1:3]} | {study.trials[0].params["x"]} == {1, 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1}, "steps must be at least 2; got 1"),
        ({"steps": 10**6}, "steps must be at most 4,096; got 1000000"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"n_startup_trials": -2}, "n_startup_trials must be at least 0; got -2"),
        ({"allowed": bool}, "allowed needs search_space: without it, the parameters are unknown before a trial"),
        ({"group": True, "search_space": SPACE}, "leave out group or search_space"),
        pytest.param(
            {"search_space": {"x": (1, 2)}},
            r"search_space must map names to Optuna's distributions; got \(1, 2\) for 'x'",
            marks=pytest.mark.skipif(os.environ.get("LANAS_CHECK_SHAPES") == "1", reason="beartype refuses it first"),
        ),
    ],
)
def test_bad_settings_are_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        LaNASSampler(**settings)


def test_several_objectives_are_refused():
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler())
    with pytest.raises(ValueError, match="multi-objective"):
        suggest(study.ask())


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "lanas_jax.integrations.optuna")
    with pytest.raises(ImportError, match=r"LaNASSampler needs optuna.*pip install 'lanas-jax\[optuna\]'"):
        importlib.import_module("lanas_jax.integrations.optuna")


@pytest.mark.slow
def test_the_code_of_the_page_runs(capsys):
    page = Path(__file__).parents[2] / "docs" / "optuna.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(compile("\n".join(blocks), "docs/optuna.md", "exec"), {"__name__": "page"})
    best, allowed = capsys.readouterr().out.splitlines()
    assert float(best.split()[0]) < 0.1
    assert allowed == "True"
