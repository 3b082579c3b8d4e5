"""The course of a search whose trials come back in any order: walked again, it leads to the same future."""

import dataclasses
import functools
import shutil

import jax
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.storage.checkpoints import Checkpoints
from lanas_jax.storage.trial import Status, Trial
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import Experiment, StudyError
from lanas_jax.study import replay as courses
from lanas_jax.study.replay import SearchLog

SPACE = lx.SearchSpace([lx.Choice(f"op{i}", "abcd") for i in range(4)])
SEARCHERS = {"lanas": lx.LaNAS(SPACE, initial=5), "evolution": lx.RegularizedEvolution(SPACE)}
BUDGET, WORKERS = 30, 6
LAST = BUDGET * 10  # more events than there are


SEARCHES = [  # searchers and sizes of batches; LaNAS compiles anew for each size
    pytest.param((name, batch), marks=[pytest.mark.slow] * (name == "lanas" and batch > 1), id=f"{name}-{batch}")
    for name in SEARCHERS
    for batch in (1, 4)
]


@dataclasses.dataclass(frozen=True)
class Walk:
    """Where a walk through a search came to."""

    trials: list
    pending: list
    state: list
    exhausted: bool


class Nothing:
    """Values no code: these walks have outcomes of their own."""

    def evaluate(self, codes, keys):
        raise NotImplementedError


def experiment(searcher, batch=1, budget=BUDGET):
    return Experiment("walk", searcher.space, searcher, evaluator=Nothing(), budget=budget, batch=batch, seed=7)


def walk(directory, searcher, events=LAST, *, batch=1, budget=BUDGET, seed=0):
    """Takes so many events more; which trials come back depends on `seed` and what is pending, not on the clock."""
    directory.mkdir(exist_ok=True)
    path = directory / "trials.sqlite"
    store = TrialStore.open(path) if path.exists() else TrialStore.create(path)
    with store, Checkpoints(directory / "checkpoint") as checkpoints:
        search_log = SearchLog(experiment(searcher, batch, budget), store, checkpoints)
        while events:
            events -= 1
            if len(search_log.pending) < WORKERS and search_log.ask():
                continue
            if not search_log.pending:
                break
            back = coming_back(search_log.pending, seed)
            search_log.tell(back, [outcome(trial) for trial in back], started=0.0)
        trials = [dataclasses.replace(trial, finished=None) for trial in store.trials()]
        return Walk(trials, [trial.id for trial in search_log.pending], arrays(search_log._state), search_log.exhausted)


def coming_back(pending, seed):
    """One or two of the pending trials."""
    rng = np.random.default_rng([seed, *(trial.id for trial in pending)])
    chosen = rng.choice(len(pending), min(len(pending), int(rng.integers(1, 3))), replace=False)
    return [pending[i] for i in sorted(chosen)]


def outcome(trial):
    if trial.code[0] == 3:
        return lx.Outcome(None, "out of memory")
    return lx.Outcome(-float(np.abs(np.array(trial.code) - 1).sum()) + int(trial.key[-2:], 16) / 1000)


def arrays(state):
    leaves = jax.tree.leaves(state)
    return [
        np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x) for x in leaves
    ]


def assert_same(one, other):
    assert one.trials == other.trials
    assert (one.pending, one.exhausted) == (other.pending, other.exhausted)
    for mine, its in zip(one.state, other.state, strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted walk of a searcher, asked for so many codes at a time."""

    @functools.cache
    def whole(searcher, batch=1):
        return walk(tmp_path_factory.mktemp("whole") / "run", searcher, batch=batch)

    return whole


@pytest.mark.parametrize("search", SEARCHES)
def test_trials_come_back_in_another_order_than_they_were_asked(whole, search):
    searcher, batch = SEARCHERS[search[0]], search[1]
    trials = whole(searcher, batch).trials
    order = [trial.told for trial in trials]
    assert len(trials) == BUDGET
    assert order != sorted(order)
    assert len({trial.code for trial in trials}) == BUDGET
    assert [trial.batch for trial in trials] == [i // batch for i in range(BUDGET)]
    for trial in trials:  # an ask knows only what was told before it
        assert trial.told > trial.asked
    under_way = [sum(t.asked <= event < t.told for t in trials) for event in range(max(order))]
    assert max(under_way) >= WORKERS


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    "stops", [(7, 1, 1, 2), (13, 20), *(pytest.param(x, marks=pytest.mark.slow) for x in ((1,), (38,)))]
)
def test_a_search_interrupted_anywhere_continues_to_the_same_trials(whole, search, tmp_path, stops):
    searcher, batch = SEARCHERS[search[0]], search[1]
    for events in stops:
        walk(tmp_path / "run", searcher, events, batch=batch)
    assert_same(walk(tmp_path / "run", searcher, batch=batch), whole(searcher, batch))


@pytest.mark.parametrize(
    ("searcher", "what"),
    [
        pytest.param(
            searcher, what, id=f"{name}-{what}", marks=[pytest.mark.slow] * ((name == "lanas") is not (what == "none"))
        )
        for name, searcher in SEARCHERS.items()
        for what in ("none", "all but the first", "damaged")
    ],
)
def test_the_state_does_not_depend_on_checkpoints(whole, searcher, tmp_path, monkeypatch, what):
    run = tmp_path / "run"
    with monkeypatch.context() as every:
        every.setattr(courses, "SAVING_SHARE", 1e9)  # a checkpoint after every tell
        walk(run, searcher, 12)
        kept = shutil.copytree(run / "checkpoint", tmp_path / "kept")
        before = walk(run, searcher, 10)
    shutil.rmtree(run / "checkpoint")
    if what == "all but the first":
        shutil.copytree(kept, run / "checkpoint")
    if what == "damaged":
        shutil.copytree(kept, run / "checkpoint")
        for file in (run / "checkpoint").rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert_same(walk(run, searcher, 0), before)
    if what == "damaged":  # and is replaced by others of the same numbers
        monkeypatch.setattr(courses, "SAVING_SHARE", 1e9)
    assert_same(walk(run, searcher), whole(searcher))


def test_a_checkpoint_of_other_outcomes_is_passed_over(tmp_path, monkeypatch):
    """Of a store that was put in the place of another one."""
    monkeypatch.setattr(courses, "SAVING_SHARE", 1e9)
    searcher = SEARCHERS["evolution"]
    walk(tmp_path / "one", searcher, 20, seed=0)
    expected = walk(tmp_path / "other", searcher, 20, seed=1)
    shutil.copytree(tmp_path / "one" / "checkpoint", tmp_path / "other" / "checkpoint", dirs_exist_ok=True)
    assert_same(walk(tmp_path / "other", searcher, 0), expected)


def test_a_value_of_zero_is_a_result_and_a_failure_is_none():
    zero = Trial(0, 0, (0,), "", Status.DONE, value=0.0)
    failed = Trial(1, 0, (1,), "", Status.FAILED, reason="out of memory")
    np.testing.assert_array_equal(courses.values_to_tell([zero, failed]), [0.0, np.nan])


def test_an_exhausted_space_ends_the_search_when_the_last_trial_is_back(tmp_path):
    space = lx.SearchSpace([lx.Choice("a", "xyz"), lx.Choice("b", "xyz")])
    searcher = lx.RandomSearch(space)
    for events in (11, LAST):
        result = walk(tmp_path / "run", searcher, events, budget=20)
    assert len(result.trials) == 9
    assert result.pending == []
    assert result.exhausted


def test_another_searcher_is_noticed(tmp_path):
    walk(tmp_path / "run", SEARCHERS["evolution"], 20)
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    with pytest.raises(
        StudyError, match=r"the recorded trials of batch \d differ from those the searcher now proposes"
    ):
        walk(tmp_path / "run", lx.RandomSearch(SPACE), 1)
