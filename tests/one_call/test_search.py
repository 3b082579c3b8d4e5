"""A search of a Python function in one call: its trials, failures, interruptions, threads, and its folder read back."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.evaluators.from_function import FromFunction
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trial import Status
from lanas_jax.study import StudyError

ROOT = Path(__file__).parents[2]
SPACE = lx.SearchSpace([lx.Choice(f"op{i}", "abcd") for i in range(4)])
HOW = {"searcher": lx.RandomSearch(SPACE), "seed": 3, "verbose": False}


CHECKED = pytest.mark.skipif(os.environ.get("LANAS_CHECK_SHAPES") == "1", reason="beartype refuses it first")


def distance(**options):
    return -float(sum(abs(ord(option) - ord("c")) for option in options.values()))


def essence(study):
    """All of the trials that does not depend on the clock."""
    return [(t.id, t.batch, t.code, t.key, t.status, t.value, t.reason) for t in study.trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return lx.search(distance, SPACE, 9, tmp_path_factory.mktemp("whole"), **HOW)


def test_the_best_options_are_those_of_the_highest_value(whole):
    options = [whole.options(trial) for trial in whole.trials]
    assert [trial.value for trial in whole.trials] == [distance(**one) for one in options]
    assert len({tuple(one.values()) for one in options}) == len(whole.trials) == whole.budget == 9
    assert whole.best_value == distance(**whole.best_options) == max(trial.value for trial in whole.trials)
    assert (whole.directory / "report.html").exists()
    assert f"distance: 9 of 9 trials\nbest: trial {whole.best.id}, value {whole.best_value:g}\nop0" in repr(whole)


def test_a_folder_is_read_back(whole):
    again = lx.load(str(whole.directory))
    assert essence(again) == essence(whole)
    assert (again.space.choices, again.best_options) == (SPACE.choices, whole.best_options)
    assert repr(again) == repr(whole)


def test_options_keep_their_types_and_leave_out_inactive_choices(tmp_path):
    when = {"depth": (2,)}
    space = lx.SearchSpace([lx.Choice("depth", (1, 2)), lx.Choice("rate", (0.5, None, True, "<a&b>"), when=when)])
    taken = []

    def value(depth, rate="absent"):
        taken.append((depth, rate))
        return depth

    study = lx.search(value, space, 9, tmp_path, searcher=lx.RandomSearch(space), verbose=False)
    assert sorted(map(repr, taken)) == sorted(map(repr, [(1, "absent"), (2, 0.5), (2, None), (2, True), (2, "<a&b>")]))
    assert [study.options(trial) for trial in lx.load(tmp_path).trials] == [
        {"depth": depth} if rate == "absent" else {"depth": depth, "rate": rate} for depth, rate in taken
    ]
    assert "5 of 9 trials" in repr(study)


def test_the_same_call_continues_an_interrupted_search(tmp_path, whole):
    calls = []

    def distance(**options):
        calls.append(options)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return globals()["distance"](**options)

    with pytest.raises(KeyboardInterrupt):
        lx.search(distance, SPACE, 9, tmp_path, **HOW)
    assert [trial.status for trial in lx.load(tmp_path).trials] == [Status.DONE] * 4 + [Status.PENDING]
    assert essence(lx.search(distance, SPACE, 9, tmp_path, **HOW)) == essence(whole)
    assert len(calls) == 10  # one twice
    assert essence(lx.search(distance, SPACE, 9, tmp_path, **HOW)) == essence(whole)
    assert len(calls) == 10


def test_a_larger_budget_extends_a_finished_search(tmp_path, whole):
    lx.search(distance, SPACE, 4, tmp_path, **HOW)
    assert essence(lx.search(distance, SPACE, 9, tmp_path, **HOW)) == essence(whole)
    with pytest.raises(RunError, match="already has 9 trials"):
        lx.search(distance, SPACE, 8, tmp_path, **HOW)


KILLED = """
import os, signal, sys
import lanas_jax as lx
space = lx.SearchSpace([lx.Choice(f"op{i}", "abcd") for i in range(4)])
calls = []
def distance(**options):
    calls.append(options)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return -float(sum(abs(ord(option) - ord("c")) for option in options.values()))
lx.search(distance, space, 9, sys.argv[1], seed=3, searcher=lx.RandomSearch(space))
"""


@pytest.mark.slow
def test_a_killed_process_loses_no_finished_trial(tmp_path, whole):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for finished in (3, 6):
        killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert sum(trial.value is not None for trial in lx.load(tmp_path).trials) == finished
    assert essence(lx.search(distance, SPACE, 9, tmp_path, **HOW)) == essence(whole)


def test_failures_are_results(tmp_path):
    answers = iter([0.5, ArithmeticError("too large"), float("nan"), np.inf, None, "1", (1.0, 2.0), np.float32(0.25)])

    def faulty(**options):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    study = lx.search(faulty, SPACE, 8, tmp_path, **HOW)
    assert [trial.value for trial in study.trials] == [0.5, *[None] * 6, 0.25]
    reasons = [trial.reason for trial in study.trials]
    for reason, part in zip(
        reasons[1:7],
        (
            "ArithmeticError: too large (test_search.py, line",
            "the value is nan",
            "the value is inf",
            "the objective returned None; expected a number",
            "the objective's value must be a number or None; got '1' of type str",
            "got (1.0, 2.0) of type tuple",
        ),
        strict=True,
    ):
        assert part in reason
    assert "8 of 8 trials, 6 failed" in repr(study)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_objective_stops_the_search(tmp_path, workers):
    def broken(**options):
        raise NameError("learning_rate")

    with pytest.raises(StudyError, match="raised an error for each of the last 8 trials: NameError: learning_rate"):
        lx.search(broken, SPACE, 50, tmp_path, workers=workers, **HOW)
    trials = lx.load(tmp_path).trials
    assert [trial.status for trial in trials[:7]] == [Status.FAILED] * 7 or workers == 2
    assert {trial.status for trial in trials[8:]} <= {Status.PENDING}


@pytest.mark.parametrize("workers", [1, 3])
def test_an_objective_that_exits_stops_the_search(tmp_path, workers):
    with pytest.raises(StudyError, match=r"called sys.exit\(3\)"):
        lx.search(lambda **options: sys.exit(3), SPACE, 5, tmp_path, workers=workers, **HOW)
    assert {trial.status for trial in lx.load(tmp_path).trials} == {Status.PENDING}


def test_costs_are_recorded(tmp_path):
    study = lx.search(
        lambda **options: {"value": 0.5, "multiply_adds": 7, "parameters": np.int64(3), "steps": 2},
        SPACE, 2, tmp_path, **HOW,
    )  # fmt: skip
    assert [(t.value, t.multiply_adds, t.parameters, t.steps) for t in study.trials] == [(0.5, 7, 3, 2)] * 2


def test_costs_that_the_space_knows_are_recorded_unless_the_objective_returns_them():
    cells, code = lx.NASBench201Space(), np.array([[0, 1, 4, 0, 1, 4]], np.int32)
    keys = jax.random.split(jax.random.key(0), 1)
    for returned, parameters in ((1, 73_306), ({"value": 1, "parameters": 5}, 5)):
        (outcome,) = FromFunction(cells, lambda returned=returned, **options: returned).evaluate(code, keys)
        assert (outcome.value, outcome.parameters) == (1.0, parameters)
        assert outcome.multiply_adds == cells.cost(code).multiply_adds[0]


def test_the_front_of_a_dictionary_is_searched(tmp_path):
    def objective(**options):
        first, *others = (list(choice.options).index(options[choice.name]) for choice in SPACE.choices)
        return {"value": float(first), "energy": first + sum(others)}

    names = ("value", "-energy")
    how = {**HOW, "objectives": names, "searcher": lx.NSGA2(SPACE, names)}
    found = lx.search(objective, SPACE, 12, tmp_path, **how)
    assert found.best in found.front == lx.load(tmp_path).front
    assert [trial.outcomes["energy"] for trial in found.trials] == [float(sum(trial.code)) for trial in found.trials]
    assert any(trial.outcomes["energy"] != trial.value for trial in found.trials)


def test_an_objective_that_is_never_returned_stops_the_search(tmp_path):
    how = {**HOW, "objectives": ("value", "-energy"), "searcher": lx.NSGA2(SPACE, ("value", "-energy"))}
    with pytest.raises(StudyError, match="the objective returned no 'energy': return a dictionary with it"):
        lx.search(lambda **options: 0.9, SPACE, 20, tmp_path, **how)


@pytest.mark.parametrize(
    ("returned", "message"),
    [({"value": 1.0, "latency": 2.0}, "with the key 'latency'.*objectives="), ({"loss": 1}, "the key 'loss'")],
)
def test_other_dictionaries_stop_the_search_at_the_first_trial(tmp_path, returned, message):
    with pytest.raises(StudyError, match=message):
        lx.search(lambda **options: returned, SPACE, 5, tmp_path, **HOW)
    assert [trial.status for trial in lx.load(tmp_path).trials] == [Status.PENDING]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"objective": 3}, "the objective must be a function; got 3", marks=CHECKED),
        ({"objective": lambda op0, op1, op2: 0}, "got an unexpected keyword argument 'op3'"),
        ({"objective": lambda op0, op1, op2, op3, width: 0}, "missing a required argument: 'width'"),
        pytest.param({"space": SPACE.choices}, "space must be a SearchSpace", marks=CHECKED),
        ({"budget": 0}, "budget must be at least 1; got 0"),
        pytest.param({"budget": 2.5}, "budget must be an integer", marks=CHECKED),
        ({"workers": 0}, "workers must be at least 1"),
        pytest.param({"searcher": lx.RandomSearch}, "searcher must be a searcher", marks=CHECKED),
        pytest.param({"searcher": "lanas"}, "searcher must be a searcher.*; got 'lanas'", marks=CHECKED),
        ({"searcher": lx.RandomSearch(lx.SearchSpace([lx.Choice("op", "ab")]))}, "the searcher's space is not"),
    ],
)
def test_bad_calls_are_refused_before_anything_is_written(tmp_path, change, message):
    given = {"objective": distance, "space": SPACE, "budget": 3, "directory": tmp_path / "run"} | HOW | change
    with pytest.raises(ValueError, match=message):
        lx.search(**given)
    assert not (tmp_path / "run").exists()


def test_conditional_arguments_need_defaults():
    space = lx.SearchSpace([lx.Choice("a", "xy"), lx.Choice("b", "xy", when={"a": "x"})])
    with pytest.raises(ValueError, match="only the options that every code has, a: missing a required argument: 'b'"):
        lx.search(lambda a, b: 0, space, 1)


def test_folders_of_other_searches_are_refused(tmp_path, whole):
    other = lx.SearchSpace([lx.Choice(f"op{i}", "abce") for i in range(4)])
    with pytest.raises(RunError, match="belong to another space"):
        lx.search(distance, other, 9, whole.directory, **HOW | {"searcher": lx.RandomSearch(other)})
    with pytest.raises(RunError, match="a run of the experiment 'distance', not of '<lambda>'"):
        lx.search(lambda **options: 0, SPACE, 9, whole.directory, **HOW)
    with pytest.raises(RunError, match="it has no config"):
        lx.load(tmp_path)


def test_a_run_is_read_while_it_runs(tmp_path):
    seen = []

    def look(**options):
        study = lx.load(tmp_path)
        seen.append([trial.status.value for trial in study.trials])
        return 0.0

    lx.search(look, SPACE, 3, tmp_path, **HOW)
    assert seen == [["done"] * n + ["pending"] for n in range(3)]


def test_workers_run_at_the_same_time_and_repeat_no_code(tmp_path):
    meeting = threading.Barrier(3, timeout=60)

    def meet(**options):
        meeting.wait()  # returns once three calls have arrived
        return distance(**options)

    study = lx.search(meet, SPACE, 6, tmp_path, workers=3, **HOW)
    assert [trial.status for trial in study.trials] == [Status.DONE] * 6
    assert len({trial.code for trial in study.trials}) == 6
    assert len({trial.told for trial in study.trials}) == 6  # each as soon as it is finished
    fewer = lx.search(distance, SPACE, 6, tmp_path / "again", workers=1, **HOW)
    assert {t.value for t in fewer.trials} == {distance(**fewer.options(t)) for t in fewer.trials}


def test_an_interrupted_search_by_workers_continues(tmp_path):
    started, again = [], threading.Event()

    def stop(**options):
        started.append(options)
        if len(started) == 4 and not again.is_set():
            sys.exit(1)
        return distance(**options)

    with pytest.raises(StudyError):
        lx.search(stop, SPACE, 9, tmp_path, workers=3, **HOW)
    before = {t.id: t.code for t in lx.load(tmp_path).trials}
    again.set()
    study = lx.search(stop, SPACE, 9, tmp_path, workers=2, **HOW)
    assert [trial.status for trial in study.trials] == [Status.DONE] * 9
    assert {i: study.trials[i].code for i in before} == before


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    one, several = (
        lx.search(distance, SPACE, 9, tmp_path / str(workers), batch=4, workers=workers, **HOW) for workers in (1, 3)
    )
    assert essence(one) == essence(several)
    assert {trial.told for trial in one.trials[:4]} == {1}


def test_without_a_folder_a_new_one_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = lx.search(distance, SPACE, 2, **HOW | {"verbose": True})
    assert study.directory.parent == tmp_path / "runs"
    assert study.directory.name.startswith("distance-")
    said = capsys.readouterr().out
    assert f"distance: 2 trials, in runs/{study.directory.name}" in said
    assert "trials 2/2 · best" in said


@pytest.mark.slow
def test_the_library_imports_no_models_and_no_experiments():
    code = (
        "import sys, lanas_jax as lx; assert not {'jax', 'numpy'} & set(sys.modules); "
        "from lanas_jax.report import LiveReport; assert 'matplotlib' not in sys.modules; lx.search; lx.load; "
        "found = [name for name in sys.modules if name.startswith(('lanas_jax.models', 'lanas_jax.experiments'))]; "
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


IN_JAX = """
import sys, threading, time
import jax
import lanas_jax as lx
from lanas_jax.study import StudyError
product, began = jax.jit(lambda x: x @ x), threading.Event()
def objective(op):
    if began.is_set():
        sys.exit(3)
    began.set()
    end, x = time.monotonic() + 1.5, jax.numpy.ones((300, 300))
    while time.monotonic() < end:
        product(x).block_until_ready()
    return 1.0
space = lx.SearchSpace([lx.Choice("op", "abc")])
try:
    lx.search(objective, space, 3, sys.argv[1], searcher=lx.RandomSearch(space), workers=2, verbose=False)
except StudyError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_call_that_outlives_its_search_does_not_abort_the_process(tmp_path):
    """Before Python 3.14, finalization ends its thread, and C++ frames of JAX abort the process (exit code -6)."""
    done = subprocess.run(
        [sys.executable, "-c", IN_JAX, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "sys.exit(3)" in done.stdout
    if sys.version_info < (3, 14):
        assert "waiting for running calls of the objective (1)" in done.stderr
