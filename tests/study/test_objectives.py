"""Studies with several objectives: what is told, stored and resumed, the front, its knee, and what is refused."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import lanas_jax as lx
from lanas_jax import study
from lanas_jax.cli import main
from lanas_jax.commands import summary
from lanas_jax.evaluators.base import Outcome
from lanas_jax.runtime.console import terminal
from lanas_jax.spaces.latency import LatencyTable
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_costs import _layers_of
from lanas_jax.spaces.mobilenet_settings import MobileNetStage
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trial import Status, Trial
from lanas_jax.study import Experiment, objectives
from tests.searchers.canonical import POOL_SPACE, additive

TWO = ("accuracy", "parameters")


class Evaluator:
    """Values that follow from the codes, with parameters, which every fifth code lacks; may stop at a call."""

    def __init__(self, stop=None):
        self.calls, self.stop = 0, stop

    def evaluate(self, codes, keys):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return [outcome(code) for code in codes]


def outcome(code):
    total = int(code.sum())
    return Outcome(float(additive(code[None])[0]), parameters=None if total % 5 == 0 else total)


def experiment(evaluator, searcher=None, names=TWO, **more):
    searcher = searcher or lx.NSGA2(POOL_SPACE, TWO, population=6)
    return Experiment("pairs", POOL_SPACE, searcher, evaluator, 24, 4, 3, objectives=names, **more)


class EnergyEvaluator(Evaluator):
    """Reports energies that follow from the codes; those of sum 5 have none, those of sum 6 infinite ones."""

    outcomes = ("energy", "memory")

    def evaluate(self, codes, keys):
        energies = {5: {}, 6: {"energy": np.inf, "memory": 2}}
        made = super().evaluate(codes, keys)
        totals = codes.sum(axis=1).tolist()
        return [
            dataclasses.replace(one, outcomes=energies.get(total, {"energy": np.float32(total / 4), "unknown": 1.0}))
            for one, total in zip(made, totals, strict=True)
        ]


def trial(number, value, parameters):
    return Trial(number, 0, (number,), "", Status.DONE, value=value, parameters=parameters)


# Trial 2 is beaten by 1, and 4 equals 0. The line through the extremes 3 and 5 is farthest from 1.
TRIALS = [
    trial(0, 0.5, 40),
    trial(1, 0.9, 50),
    trial(2, 0.8, 60),
    trial(3, 1.0, 100),
    trial(4, 0.5, 40),
    trial(5, 0.1, 10),
    Trial(6, 0, (6,), "", Status.FAILED, reason="it broke"),
]


def test_a_study_tells_all_objectives_and_fails_trials_that_lack_one(tmp_path, capsys):
    result = study.run(experiment(Evaluator()), tmp_path / "run")
    assert len(result.trials) == 24
    lacking = [one for one in result.trials if sum(one.code) % 5 == 0]
    assert lacking
    assert {(one.status, one.reason) for one in lacking} == {("failed", "the evaluator reports no parameters")}
    told = objectives.values_to_tell(result.trials, TWO)
    for one, row in zip(result.trials, told, strict=True):
        expected = [np.nan] * 2 if one in lacking else [np.float32(one.value), -sum(one.code)]
        np.testing.assert_array_equal(row, np.float32(expected))
    assert result.best in result.front
    assert result.front == objectives.front(result.trials, TWO)
    assert main(["front", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    done = sum(one.value is not None for one in result.trials)
    assert f"objectives: accuracy, parameters. {len(result.front)} of {done} trials are on the front" in said
    assert f"{result.best.id} knee" in said
    summary.show_result(terminal(), POOL_SPACE, result.trials, None, result.front, result.best)
    assert f"knee of the front of 24 trials ({done} done" in capsys.readouterr().out


def test_a_run_is_resumed_to_the_same_trials_but_not_with_other_objectives(tmp_path):
    whole = study.run(experiment(Evaluator()), tmp_path / "whole").trials
    with pytest.raises(KeyboardInterrupt):
        study.run(experiment(Evaluator(stop=3)), tmp_path / "part")
    rest = Evaluator()
    part = study.run(experiment(rest), tmp_path / "part").trials
    assert [(one.code, one.value, one.status) for one in part] == [(one.code, one.value, one.status) for one in whole]
    assert rest.calls == 4
    others = ("accuracy", "multiply_adds")
    other = experiment(Evaluator(), lx.NSGA2(POOL_SPACE, others, population=6), others)
    with pytest.raises(RunError, match="objectives accuracy, parameters, not accuracy, multiply_adds"):
        study.run(other, tmp_path / "part")


@pytest.mark.usefixtures("unchecked")  # its energies are NumPy's numbers
def test_outcomes_of_the_evaluator_are_objectives_and_columns(tmp_path, capsys):
    names = ("accuracy", "-energy")
    searcher = lx.NSGA2(POOL_SPACE, names, population=6)
    whole = study.run(experiment(EnergyEvaluator(), searcher, names), tmp_path / "whole")
    for one in whole.trials:
        total = sum(one.code)
        reason = {5: "the evaluator reports no energy", 6: "the energy is inf"}.get(total)
        assert (one.value is None, one.reason) == (reason is not None, reason)
        assert dict(one.outcomes) == {"energy": None if reason else total / 4, "memory": 2.0 if total == 6 else None}
    assert {sum(one.code) for one in whole.trials} >= {5, 6}
    done = [one for one in whole.trials if one.value is not None]
    told = objectives.values_to_tell(done, names)
    np.testing.assert_array_equal(told[:, 1], [-np.float32(sum(one.code) / 4) for one in done])
    assert min(done, key=lambda one: one.outcomes["energy"]).outcomes["energy"] == whole.front[-1].outcomes["energy"]
    with pytest.raises(KeyboardInterrupt):
        study.run(experiment(EnergyEvaluator(stop=3), searcher, names), tmp_path / "part")
    part = study.run(experiment(EnergyEvaluator(), searcher, names), tmp_path / "part")
    assert [(one.code, one.outcomes) for one in part.trials] == [(one.code, one.outcomes) for one in whole.trials]
    assert objectives.pick_trial(whole.trials, names, "energy<=1e9").value == max(one.value for one in whole.front)
    with pytest.raises(ValueError, match=r"choose from accuracy, value, multiply_adds, parameters, energy, memory"):
        objectives.pick_trial(whole.trials, names, "power<=1")
    assert main(["front", str(tmp_path / "whole")]) == 0
    said = capsys.readouterr().out
    assert "objectives: accuracy, -energy." in said
    assert "memory" in said
    assert main(["trials", str(tmp_path / "whole"), "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("software,energy,memory")


@pytest.mark.slow
def test_latencies_are_those_of_the_table_whatever_the_evaluator_reports(tmp_path):
    sizes = {
        "stages": (MobileNetStage(16, 2, "relu"),),
        "depths": (1, 2),
        "resolutions": (16,),
        "stem": 8,
        "classes": 4,
    }
    free = MobileNetSpace(**sizes)
    fixed, chosen = _layers_of(free)
    layers = [layer.name for layer in (*fixed[0], *chosen)]
    space = MobileNetSpace(
        **sizes, latency=LatencyTable("a device", 1, {n: 1_007 * i for i, n in enumerate(layers, 1)})
    )
    names = ("accuracy", "latency")
    assert lx.ParetoLaNAS(space, names).is_exact == (False, True)
    assert lx.ParetoLaNAS(free, names).is_exact == (False, False)
    searcher = lx.NSGA2(space, names, population=6)
    one = Experiment("fast", space, searcher, Evaluator(), 6, 6, 0, objectives=names)
    found = study.run(one, tmp_path / "run").trials
    expected = space.nanoseconds(np.array([trial.code for trial in found])) / 1e6
    assert [trial.outcomes["latency"] for trial in found] == expected.tolist()
    codes = np.array([trial.code for trial in found])
    np.testing.assert_allclose(space.traced_cost(codes), space.known_costs(codes), rtol=1e-6)
    with pytest.raises(ValueError, match=r"no objective 'latency'; .* latency needs a space with a latency table"):
        experiment(Evaluator(), lx.NSGA2(POOL_SPACE, names), names)


@hypothesis.given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), max_size=24))
def test_the_front_is_what_nothing_beats(given):
    trials = [trial(number, value / 8, parameters) for number, (value, parameters) in enumerate(given)]
    beaten = [any((v >= value and c <= cost) and (v > value or c < cost) for v, c in given) for value, cost in given]
    expected = sorted({point for point, is_beaten in zip(given, beaten, strict=True) if not is_beaten}, reverse=True)
    assert [one.id for one in objectives.front(trials, TWO)] == [given.index(point) for point in expected]


def test_the_front_and_its_knee_are_those_of_geometry():
    members = objectives.front(TRIALS, TWO)
    assert [one.id for one in members] == [3, 1, 0, 5]
    assert objectives.knee(members, TWO) is TRIALS[1]
    assert objectives.winner_among(TRIALS, TWO) is TRIALS[1]
    assert objectives.winner_among(TRIALS, ()) is TRIALS[3]
    assert objectives.winner_among(TRIALS[6:], TWO) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("knee", 1), ("trial 2", 2), ("parameters<=45", 0), ("parameters <= 1e2", 3), ("accuracy>=0.6", 3)],
)
def test_a_trial_is_picked_by_name_number_or_condition(text, number):
    assert objectives.pick_trial(TRIALS, TWO, text).id == number
    assert objectives.pick_trial(TRIALS, TWO[::-1], text).id == number  # the order of the objectives does not matter


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters<=5", "no trial on the front has parameters<=5; the nearest is trial 5 with 10"),
        ("accuracy>=2", "no trial on the front has accuracy>=2; the nearest is trial 3 with 1"),
        ("trial 9", "trial 9 does not exist: there are 7; those on the front are 3, 1, 0, 5"),
        ("trial 6", "trial 6 has no value; those on the front are 3, 1, 0, 5"),
        (
            "colour<=5",
            "there is no objective 'colour' to pick by; choose from accuracy, value, multiply_adds, parameters",
        ),
        ("multiply_adds<=5", "the trials of this run have no multiply_adds"),
        ("best", "pick must be such as knee, 'trial 17' or 'multiply_adds<=3e8'; got 'best'"),
        ("parameters<=many", "pick must be such as"),
    ],
)
def test_what_cannot_be_picked_is_refused_with_the_nearest_that_can(text, message):
    with pytest.raises(ValueError, match=message):
        objectives.pick_trial(TRIALS, TWO, text)


@pytest.mark.parametrize(
    ("searcher", "names", "message"),
    [
        (
            None,
            ("accuracy", "colour"),
            "there is no objective 'colour'; choose from accuracy, value, multiply_adds, par",
        ),
        (None, ("parameters", "parameters"), "the objective 'parameters' is given twice"),
        (None, ("value", "accuracy"), "accuracy and value are the same objective"),
        (None, ("accuracy", "energy"), "no objective 'energy'; choose from accuracy, value, multiply_adds, parameters"),
        (None, ("-accuracy", "parameters"), "the value of an evaluator is maximised; leave out the minus"),
        (None, ("accuracy", "-parameters"), "parameters is a cost, which is minimised anyway: leave out the minus"),
        (None, ("accuracy", "a", "b", "c", "d"), "a search for a front has 2 to 4 objectives; got 5: accuracy, a, b"),
        (
            None,
            (),
            "NSGA2 searches the objectives accuracy, parameters, but the experiment has none: give both the same",
        ),
        (lx.LocalSearch(POOL_SPACE), TWO, "LocalSearch searches one objective; use ParetoLaNAS, NSGA2 or RandomSearch"),
        (lx.RandomSearch(POOL_SPACE), TWO, r"RandomSearch\(objectives=1\) does not fit 2 objectives"),
    ],
)
def test_objectives_that_do_not_fit_are_refused_at_once(searcher, names, message):
    with pytest.raises(ValueError, match=message):
        experiment(Evaluator(), searcher, names)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (("value",), "an outcome cannot be called 'value'"),
        (("peak memory",), "an outcome must have a lower-case name such as energy or peak_memory; got 'peak memory'"),
        (("energy", "energy"), "the outcome 'energy' is declared twice"),
        ("energy", "the outcomes of an evaluator must be a sequence of names"),
    ],
)
def test_outcomes_that_cannot_be_columns_are_refused(declared, message):
    evaluator = Evaluator()
    evaluator.outcomes = declared
    with pytest.raises(ValueError, match=message):
        experiment(evaluator)


def test_names_on_a_command_line_may_have_hyphens():
    one = experiment(Evaluator(), lx.NSGA2(POOL_SPACE, ("accuracy", "multiply_adds")), ("accuracy", "multiply-adds"))
    assert one.objectives == ("accuracy", "multiply_adds")
    assert dataclasses.replace(one, seed=4).objectives == one.objectives
