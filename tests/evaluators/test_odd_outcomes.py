"""Evaluators that return other things than they should: a failed trial or one sentence, and the run can go on."""

import asyncio
import dataclasses
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.cli import main
from lanas_jax.commands import summary
from lanas_jax.evaluators.base import NotPreparedError, Outcome
from lanas_jax.evaluators.faults import MAX_FAILED_IN_A_ROW, BrokenEvaluatorError, describe_error, outcomes_or_errors
from lanas_jax.evaluators.from_function import FromFunction
from lanas_jax.storage.plain import LARGEST_VALUE
from lanas_jax.storage.trial import Status
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import Experiment, StudyError, discovery, replay, run, run_folder
from lanas_jax.study.experiment import WinnerTraining
from lanas_jax.study.local_workers import LocalWorkers

SPACE = lx.SearchSpace([lx.Choice(f"op{i}", "abcd") for i in range(3)])
SEARCHER = lx.RandomSearch(SPACE)
GOOD = Outcome(0.5, multiply_adds=3, parameters=4, compile_seconds=0.25, train_seconds=0.5, steps=6)


@dataclasses.dataclass(frozen=True)
class ReturnsAtOnce:
    """Gives one object for a whole batch."""

    odd: object

    def evaluate(self, codes, keys):
        return self.odd


def experiment(evaluator, **changes):
    return Experiment("odd", SPACE, SEARCHER, evaluator, **{"budget": 8, "batch": 4, "seed": 0} | changes)


pytestmark = pytest.mark.usefixtures("unchecked")


def odd_outcome(*arguments, **settings):
    """An Outcome of any types, also where types are checked, as they are when the tests are collected."""
    outcome = object.__new__(Outcome)
    fields = dataclasses.fields(Outcome)
    given = dict(zip([field.name for field in fields], arguments, strict=False))
    defaults = {field.name: field.default for field in fields} | {"outcomes": {}}
    for name, value in (defaults | given | settings).items():
        object.__setattr__(outcome, name, value)
    return outcome


ODD = [
    (0.5, "the evaluator returned 0.5 of type float for a code; expected an Outcome"),
    ((0.5, None), "the evaluator returned (0.5, None) of type tuple for a code; expected an Outcome"),
    (None, "the evaluator returned None of type NoneType for a code; expected an Outcome"),
    ("good", "the evaluator returned 'good' of type str for a code; expected an Outcome"),
    ({"value": 1}, "the evaluator returned {'value': 1} of type dict for a code; expected an Outcome"),
    (Outcome, "of type type for a code; expected an Outcome"),
    (np.arange(40.0), "... of type ndarray for a code; expected an Outcome"),
    (odd_outcome("high"), "impossible Outcome: value must be a number or None; got 'high' of type str"),
    (odd_outcome([0.5]), "value must be a number or None; got [0.5] of type list"),
    (odd_outcome(np.ma.masked), "value must be a number or None; got masked of type MaskedConstant"),
    (odd_outcome(1j), "value must be a number or None; got 1j of type complex"),
    (odd_outcome(np.float32([0.5, 0.6])), "value must be a number or None; got"),
    (odd_outcome(0.5, multiply_adds=math.nan), "multiply_adds must be a whole number or None; got nan of type float"),
    (odd_outcome(0.5, multiply_adds=math.inf), "multiply_adds must be a whole number or None; got inf of type float"),
    (odd_outcome(0.5, parameters=2**70), "parameters must be 0 to 2**63 - 1; got 1180591620717411303424 of type int"),
    (odd_outcome(0.5, parameters=-1), "parameters must be 0 to 2**63 - 1; got -1 of type int"),
    (odd_outcome(0.5, parameters="many"), "parameters must be a whole number or None; got 'many' of type str"),
    (odd_outcome(0.5, steps=1.5), "steps must be a whole number or None; got 1.5 of type float"),
    (odd_outcome(0.5, train_seconds="long"), "train_seconds must be a number or None; got 'long' of type str"),
    (odd_outcome(0.5, outcomes={"energy": "low"}), "energy must be a number or None; got 'low' of type str"),
    (odd_outcome(0.5, outcomes=None), "outcomes must be a dictionary of numbers; got None of type NoneType"),
    (odd_outcome(0.5, outcomes=3.0), "outcomes must be a dictionary of numbers; got 3.0 of type float"),
    (odd_outcome(None), "no reason given"),
    (odd_outcome(None, ""), "no reason given"),
    (odd_outcome(None, ValueError("of [a, b]")), "ValueError: of [a, b]"),
    (odd_outcome(None, 7), "7"),
    (odd_outcome(None, os.fsdecode(b"no file /tmp/\xff")), "no file /tmp/\\udcff"),
    (odd_outcome(math.nan), "the value is nan"),
    (odd_outcome(-math.inf), "the value is -inf"),
    (odd_outcome(10**400), "the value is inf"),
    (odd_outcome(1e300), "the value is 1e+300, beyond the numbers of float32 in which searchers compute"),
    (odd_outcome(np.float64(-1e39)), "the value is -1e+39, beyond the numbers of float32"),
]


@dataclasses.dataclass
class ReturnsEach:
    """Gives three of the odd outcomes and a good one in each batch of four."""

    left: list[object] = dataclasses.field(default_factory=lambda: [odd for odd, _ in ODD])

    def evaluate(self, codes, keys):
        given = [self.left.pop(0) if self.left else GOOD for _ in range(3)]
        return [GOOD, *given]


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory):
    """The trials of a run in which each odd outcome is returned once, and the folder."""
    folder = tmp_path_factory.mktemp("odd") / "run"
    return run(experiment(ReturnsEach(), budget=-(-len(ODD) // 3) * 4), folder).trials, folder


def test_a_run_with_every_odd_outcome_is_whole_and_can_be_read(odd_run):
    trials, folder = odd_run
    failed = [trial.id for trial in trials if trial.status == Status.FAILED]
    assert failed == [i for i in range(len(trials)) if i % 4][: len(ODD)]
    assert all(trial.status == Status.DONE for trial in trials if trial.id not in failed)
    again = run(experiment(ReturnsAtOnce(None), budget=len(trials)), folder)
    assert again.trials == trials
    summary.trials_csv(trials)


@pytest.mark.parametrize(("number", "reason"), list(enumerate(reason for _, reason in ODD)))
def test_an_odd_outcome_fails_its_trial_with_a_sentence(odd_run, number, reason):
    trials, _ = odd_run
    assert reason in trials[number // 3 * 4 + 1 + number % 3].reason


class Series:
    """One number as pandas holds it, whose `mask` is a method."""

    size = 1

    def mask(self):
        raise AssertionError

    def item(self):
        return 0.5


@pytest.mark.parametrize(
    "value",
    [
        Series(),
        0.5,
        1,
        True,
        np.float16(0.5),
        np.int64(3),
        jnp.float32(0.5),
        jnp.array([0.5]),
        np.array([[0.25]]),
        LARGEST_VALUE,
    ],
)
@pytest.mark.parametrize("count", [6, 6.0, np.int32(6), np.float64(6), jnp.int32(6), np.array([6])])
def test_numbers_of_any_kind_are_stored_as_plain_ones(value, count):
    (found,) = outcomes_or_errors(
        ReturnsAtOnce([Outcome(value, None, count, count, value, value, count, {"energy": value})]),
        np.zeros((1, 3), np.int32),
        None,
    )
    number = float(value.item() if hasattr(value, "item") else value)
    assert found == Outcome(number, None, 6, 6, number, number, 6, {"energy": number})
    assert all(type(item) in (float, int, type(None)) for item in dataclasses.astuple(found)[:-1])
    assert type(found.outcomes["energy"]) is float


def test_seconds_that_are_none_or_not_finite_are_no_reason_to_fail(tmp_path):
    odd = [Outcome(0.5, train_seconds=None), Outcome(0.5, compile_seconds=math.nan, train_seconds=math.inf)]
    trials = run(experiment(ReturnsAtOnce(odd), budget=2, batch=2), tmp_path / "run").trials
    assert [(trial.status, trial.train_seconds) for trial in trials] == [(Status.DONE, 0.0), (Status.DONE, None)]
    assert trials[1].compile_seconds is None


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (None, "the evaluator returned None of type NoneType for 4 codes; expected one per code"),
        (0.5, "the evaluator returned 0.5 of type float for 4 codes; expected one per code"),
        (GOOD, "for 4 codes; expected one per code"),
        ([GOOD] * 3, "the evaluator returned 3 outcomes for 4 codes; expected one per code"),
        ([GOOD] * 5, "the evaluator returned 5 outcomes for 4 codes; expected one per code"),
        ((), "the evaluator returned 0 outcomes for 4 codes; expected one per code"),
        ("a string", "the evaluator returned 8 outcomes for 4 codes; expected one per code"),
        (np.float32(0.5), "of type float32 for 4 codes; expected one per code"),
    ],
)
def test_a_wrong_number_of_outcomes_is_one_sentence(odd, message):
    with pytest.raises(BrokenEvaluatorError) as raised:
        outcomes_or_errors(ReturnsAtOnce(odd), np.zeros((4, 3), np.int32), None)
    assert message in str(raised.value)


def test_a_wrong_number_of_outcomes_leaves_the_batch_pending(tmp_path):
    for _ in range(2):  # the same at each resume
        with pytest.raises(StudyError, match="the evaluator returned None of type NoneType for 4 codes"):
            run(experiment(ReturnsAtOnce(None)), tmp_path / "run")
    with TrialStore.open(tmp_path / "run" / "trials.sqlite") as store:
        assert [trial.status for trial in store.trials()] == [Status.PENDING] * 4
    assert len(run(experiment(ReturnsAtOnce([GOOD] * 4)), tmp_path / "run").trials) == 8  # mended


def test_an_array_of_one_float_per_code_fails_trials_until_the_evaluator_counts_as_broken(tmp_path):
    with pytest.raises(
        StudyError, match=f"each of the last {MAX_FAILED_IN_A_ROW} trials: the evaluator returned .*of type float"
    ):
        run(experiment(ReturnsAtOnce([0.5] * 4), budget=12), tmp_path / "run")
    with TrialStore.open(tmp_path / "run" / "trials.sqlite") as store:
        assert [trial.status for trial in store.trials()] == [Status.FAILED] * 4 + [Status.PENDING] * 4


def test_generators_are_read_and_an_error_in_one_fails_the_faulty_code_alone():
    class Generator:
        def evaluate(self, codes, keys):
            for code in codes:
                if code[0] == 1:
                    raise ArithmeticError("no such network")
                yield GOOD

    found = outcomes_or_errors(Generator(), np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]], np.int32), np.zeros(3))
    assert [isinstance(one, ArithmeticError) for one in found] == [False, True, False]


def test_a_batch_of_another_size_stops_what_asked_for_it():
    with pytest.raises(BrokenEvaluatorError, match="2 outcomes for 1 codes"):
        outcomes_or_errors(ReturnsAtOnce([GOOD, GOOD]), np.zeros((1, 3), np.int32), None)


@pytest.mark.parametrize("value", [1e300, -1e300, 3.5e38, LARGEST_VALUE, -LARGEST_VALUE, 1e-300, 0.0])
def test_store_and_searcher_agree_on_what_is_a_result(value, tmp_path):
    (trial,) = run(experiment(ReturnsAtOnce([Outcome(value)]), budget=1, batch=1), tmp_path / "run").trials
    with np.errstate(over="raise"):
        (told,) = replay.values_to_tell([trial])
    assert (trial.status == Status.DONE) == bool(np.isfinite(told)) == bool(abs(value) <= LARGEST_VALUE)


@pytest.mark.parametrize("returned", [None, 0.9, (0.9, 0.8)])
def test_an_odd_winner_training_is_one_sentence_before_the_search(returned, tmp_path):
    winner = WinnerTraining(lambda config, settings, code: returned)
    with pytest.raises(discovery.ExperimentError, match=r"final\(\.\.\.\) returned .*; expected a FinalTraining"):
        run(experiment(ReturnsAtOnce([GOOD] * 4), budget=4, winner=winner), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [NotPreparedError("no data"), FileNotFoundError("no data"), KeyError("no data")])
def test_an_error_of_a_preparation_is_one_sentence(error, tmp_path):
    class Preparing(ReturnsAtOnce):
        def prepare(self, directory, note):
            raise error

    with pytest.raises(StudyError, match="no data"):
        run(experiment(Preparing(GOOD)), tmp_path / "run")


EXPERIMENT = """
import dataclasses, os
import numpy as np
import lanas_jax as lx
from lanas_jax.study import Experiment

@dataclasses.dataclass(frozen=True)
class Config:
    odd: str = "[0.5] * 4"

class Evaluator:
    def __init__(self, odd):
        self.odd = odd

    def evaluate(self, codes, keys):
        return eval(os.environ.get("ODD", self.odd))

def build(config):
    space = lx.SearchSpace([lx.Choice(f"op{i}", "abcd") for i in range(3)])
    return Experiment("odd", space, lx.RandomSearch(space), Evaluator(config.odd), budget=4, batch=4, seed=0)
"""


@pytest.mark.parametrize(
    "odd", ["[0.5] * 4", "None", "[lx.Outcome(2**2000)] * 4", "[lx.Outcome(None, e) for e in 'abcd']"]
)
def test_commands_say_a_sentence_of_odd_outcomes_and_read_the_run(odd, tmp_path, capsys, monkeypatch):
    file, out = tmp_path / "odd.py", str(tmp_path / "run")
    file.write_text(EXPERIMENT)
    code = main(["search", str(file), "--odd", odd, "--out", out])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert code == (1 if odd == "None" else 0)
    for command in ("resume", "trials", "report", "resume"):
        assert main([command, out]) == (code if command == "resume" else 0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
    monkeypatch.setenv("ODD", "[lx.Outcome(0.5)] * 4")
    assert main(["resume", out]) == 0
    assert run_folder.open_run(tmp_path / "run").record["experiment"] == "odd"


class OwnError(BaseException):
    """No `Exception`."""


class NoTextError(Exception):
    """An error that cannot be printed."""

    def __str__(self):
        raise ValueError


@dataclasses.dataclass(frozen=True)
class Raises:
    """Overwrites its codes, and raises an error for batches, or for every call."""

    error: BaseException
    always: bool = True

    def evaluate(self, codes, keys):
        values = [float(sum(code)) for code in codes.tolist()]
        codes[:] = 0
        if self.always or len(codes) > 1:
            raise self.error
        return [Outcome(value) for value in values]


@pytest.mark.parametrize(
    "error",
    [GeneratorExit("x"), asyncio.CancelledError("x"), OwnError("x"), BaseExceptionGroup("x", [KeyboardInterrupt()])],
    ids=repr,
)
def test_what_is_no_exception_stops_the_search_with_a_sentence(error, tmp_path):
    message = f"^the evaluator raised {type(error).__name__}: x.* its trials stay pending"
    with pytest.raises(StudyError, match=message):
        run(experiment(Raises(error)), tmp_path / "run")
    with TrialStore.open(tmp_path / "run" / "trials.sqlite") as store:
        assert [trial.status for trial in store.trials()] == [Status.PENDING] * 4


def test_an_interrupt_that_an_evaluator_raises_in_a_thread_reaches_the_caller(tmp_path):
    search = experiment(Raises(KeyboardInterrupt()), batch=1)
    with pytest.raises(KeyboardInterrupt):
        run(search, tmp_path / "run", workers=LocalWorkers(search, 2))


def test_an_error_without_a_text_fails_its_trial():
    (found,) = outcomes_or_errors(Raises(NoTextError()), np.zeros((1, 3), np.int32), None)
    assert describe_error(found).startswith("NoTextError: (its text cannot be read) (test_odd_outcomes.py, line ")


def test_codes_that_an_evaluator_overwrites_are_valued_as_they_were():
    codes = np.array([[1, 2, 3], [3, 0, 1]], np.int32)
    found = outcomes_or_errors(Raises(ValueError(), always=False), codes, np.zeros(2))
    assert found == [Outcome(6.0), Outcome(4.0)]


class Async:
    """Evaluates concurrently, as its author thinks."""

    async def evaluate(self, codes, keys):
        return [GOOD for _ in codes]


class AsyncGenerator:
    """Yields outcomes to nobody."""

    async def evaluate(self, codes, keys):
        yield GOOD


class PreparedLater(ReturnsAtOnce):
    """Would be evaluated before it is prepared."""

    async def prepare(self, directory, note):
        raise AssertionError


async def objective(op0, op1, op2):
    """A function to be awaited."""
    return 0.5


@pytest.mark.parametrize(
    ("evaluator", "message"),
    [
        (Async(), "evaluate of Async is an async function: define it with def"),
        (AsyncGenerator(), "evaluate of AsyncGenerator is an async function"),
        (PreparedLater([GOOD] * 4), "prepare of the evaluator is an async function"),
        (FromFunction(SPACE, objective), "the objective is an async function"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_async_functions_are_refused_at_their_first_call(evaluator, message, tmp_path):
    search = experiment(evaluator, batch=1)
    with pytest.raises(StudyError, match=message):
        run(search, tmp_path / "run", workers=LocalWorkers(search))


def test_a_build_that_yields_is_refused_in_one_line():
    class Module:
        __loader__, __file__ = None, "mine.py"

        def build(self, config):
            yield experiment(Async())

    with pytest.raises(discovery.ExperimentError) as raised:
        run_folder.build_experiment(Module(), None)
    assert str(raised.value).startswith("mine.py: build(config) returned [Experiment(name='odd', ")
    assert str(raised.value).endswith("... of type list; expected an Experiment")
    assert len(str(raised.value)) < 200


def test_an_async_build_is_refused(tmp_path):
    class Module:
        __loader__, __file__ = None, "mine.py"

        async def build(self):
            return None

    with pytest.raises(discovery.ExperimentError, match=r"mine.py: build\(config\) is an async function"):
        discovery.call_experiment(Module(), "build(config)")
