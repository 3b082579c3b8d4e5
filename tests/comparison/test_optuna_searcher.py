"""Optuna's TPE as a searcher: what it proposes, that it learns, and that a run of it is resumed by replay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax import study
from lanas_jax.comparison.optuna_searcher import OptunaTPE
from lanas_jax.comparison.peers import MissingPeerError
from lanas_jax.evaluators.base import Outcome
from lanas_jax.spaces.base import Choice, SearchSpace
from lanas_jax.study import Experiment


class Halved(SearchSpace):
    """Nine letters, of which the first may not be the last one and whose second and third may be swapped."""

    def __init__(self):
        super().__init__([Choice(str(i), "abcd") for i in range(9)] + [Choice("width", (8, 16, 32))])

    def valid(self, codes):
        codes = jnp.asarray(codes)
        return super().valid(codes) & (codes[:, 0] != 3)

    def canonical(self, codes):
        codes = jnp.asarray(codes, jnp.int32)
        return codes.at[:, 1:3].set(jnp.sort(codes[:, 1:3], axis=1))


SPACE = Halved()


def worth(codes):
    return np.asarray(codes)[:, 3:].sum(axis=1).astype(np.float32)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPeerError, match=r"tpe needs optuna, which is not installed: pip install 'lanas-jax\[p"):
        OptunaTPE(SPACE)


@pytest.fixture(scope="module")
def optuna():
    """The package; without it, tests that need it are skipped."""
    return pytest.importorskip("optuna", reason="optuna is not installed")


@pytest.fixture(scope="module")
def searched(optuna):
    """Forty codes in batches of four, by two searches of one key; every eighth fails."""
    assert optuna
    return [search(OptunaTPE(SPACE), jax.random.key(1)) for _ in range(2)]


def search(searcher, key, batches=10, n=4):
    state, found = searcher.init(key), []
    for batch in range(batches):
        state, codes = searcher.ask(state, n)
        values = worth(codes)
        values[0] = np.nan if batch % 2 else values[0]
        state = searcher.tell(state, codes, jnp.asarray(values))
        found.append(np.asarray(codes))
    assert state.told == batches * n
    return np.concatenate(found)


def test_codes_are_distinct_valid_and_canonical(searched):
    codes = searched[0]
    assert codes.shape == (40, 10)
    assert codes.dtype == np.int32
    assert len(np.unique(codes, axis=0)) == 40
    assert np.asarray(SPACE.valid(codes)).all()
    np.testing.assert_array_equal(SPACE.canonical(codes), codes)


def test_a_key_decides(searched):
    np.testing.assert_array_equal(*searched)
    assert (search(OptunaTPE(SPACE), jax.random.key(2)) != searched[0]).any()


def test_it_learns(searched):
    """Six letters and a width: random codes have a mean of 10.0 and a deviation of 2.9, so 20 of them 0.65."""
    assert worth(searched[0][-20:]).mean() > 10 + 4 * 0.65


TINY = SearchSpace([Choice("a", "xy"), Choice("b", "uvw")])


@pytest.mark.usefixtures("optuna")
def test_what_was_told_from_elsewhere_is_not_asked_for():
    searcher = OptunaTPE(TINY)
    told = np.array([[0, 1], [1, 2]], np.int32)
    state = searcher.tell(searcher.init(jax.random.key(0)), told, jnp.array([1.0, jnp.nan]))
    state, codes = searcher.ask(state, 2)
    state, more = searcher.ask(state, 2)  # while the first two are pending
    asked = np.concatenate([codes, more])
    np.testing.assert_array_equal(np.unique(np.concatenate([asked, told]), axis=0), TINY.enumerate())


@pytest.mark.usefixtures("optuna")
def test_a_space_that_is_used_up_gives_empty_rows():
    searcher = OptunaTPE(TINY)
    state = searcher.tell(searcher.init(jax.random.key(0)), TINY.enumerate(), jnp.arange(6.0))
    _, codes = searcher.ask(state, 3)
    np.testing.assert_array_equal(codes, np.full((3, 2), -1))


class Worth:
    """Values codes; stops, as Ctrl-C would, before a call."""

    def __init__(self, stop=None):
        self.stop, self.calls = stop, 0

    def evaluate(self, codes, keys):
        self.calls += 1
        if self.calls - 1 == self.stop:
            raise KeyboardInterrupt
        return [Outcome(float(value)) for value in worth(codes)]


def run(directory, evaluator):
    experiment = Experiment("tpe", SPACE, OptunaTPE(SPACE), evaluator, budget=24, batch=4, seed=5)
    result = study.run(experiment, directory)
    return [(trial.code, trial.value) for trial in result.trials]


@pytest.mark.usefixtures("optuna")
def test_a_run_is_resumed_by_replay_to_the_same_trials(tmp_path):
    """There are checkpoints of its state, but not of the study, so they must be passed over."""
    whole = run(tmp_path / "whole", Worth())
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "part", Worth(stop))
    assert any((tmp_path / "part" / "checkpoint" / "searcher").iterdir())
    evaluator = Worth()
    assert run(tmp_path / "part", evaluator) == whole
    assert evaluator.calls == 6 - 1 - 3


@pytest.mark.usefixtures("optuna")
def test_no_checkpoint_is_taken_for_a_new_study():
    """A structure stands in each checkpoint; that of a study with trials is not that of one without."""
    searcher = OptunaTPE(TINY)
    structures = set()
    for told in (0, 2, 5):
        state = searcher.init(jax.random.key(0))
        state = searcher.tell(state, TINY.enumerate()[:told], jnp.arange(float(told)))
        structures.add(str(jax.tree.structure(state)))
    assert len(structures) == 3
