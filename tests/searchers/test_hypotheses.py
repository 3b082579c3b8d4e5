"""The choice among priors by the evidence of trials, and what codes of a pool have in common."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.searchers import hypotheses, sampling
from lanas_jax.searchers.hypotheses import HYPOTHESES, TYPICAL
from lanas_jax.spaces.base import Cost

TRIALS = 60


@dataclasses.dataclass(frozen=True, init=False)
class Sized(lx.SearchSpace):
    """Five choices of five options. Multiply-adds are random, and parameters are always the same."""

    def __init__(self):
        super().__init__([lx.Choice(f"c{i}", "abcde") for i in range(5)])

    def cost(self, codes):
        sizes = np.random.default_rng(0).lognormal(size=(5,) * 5)
        return Cost(sizes[tuple(np.asarray(codes).T)], np.full(len(codes), 7))


@pytest.fixture(scope="module")
def pool():
    return lx.LaNAS(Sized()).pool


def learned(pool, values_of):
    rows = np.random.default_rng(1).permutation(len(pool.codes))[:TRIALS]
    e = pool.embedded.shape[1]
    start = hypotheses.prior(TRIALS, e, e - Sized().embedding_size)

    @jax.jit
    def run(model, embedded, targets):
        add = lambda model, one: (model.extend(one, jnp.bool_(True), Sized().dims), None)  # noqa: E731
        return jax.lax.scan(add, model, embedded)[0].learn(targets)

    values = np.asarray(values_of(rows))
    targets = np.pad((values - values.mean()) / values.std(), (0, start.rows - TRIALS)).astype(np.float32)
    return run(start, pool.embedded[rows], jnp.asarray(targets))


def test_the_typical_prior_is_used_without_evidence(pool):
    e = pool.embedded.shape[1]
    model = hypotheses.prior(8, e, 2)
    assert (int(model.chosen), model.rows, int(model.count)) == (HYPOTHESES.index(TYPICAL), 64, 0)


def test_values_that_follow_the_sizes_of_networks_make_sizes_count(pool):
    sizes = np.asarray(Sized().cost(pool.codes).multiply_adds)
    model = learned(pool, lambda rows: np.log(sizes[rows]))
    assert HYPOTHESES[int(model.chosen)].sizes > 0
    others = np.setdiff1d(np.arange(len(pool.codes)), np.random.default_rng(1).permutation(len(pool.codes))[:TRIALS])
    predicted = pool.embedded[others] @ model.best.weights
    assert np.corrcoef(predicted, np.log(sizes[others]))[0, 1] > 0.9


def test_smooth_values_leave_sizes_out_and_rough_ones_raise_the_decay(pool):
    codes = np.asarray(pool.codes)
    additive = learned(pool, lambda rows: codes[rows] @ [1.0, 0.7, -0.5, 0.3, 0.2])
    assert HYPOTHESES[int(additive.chosen)].sizes == 0
    rough = learned(pool, lambda rows: -((codes[rows] != codes[rows[0]]).sum(axis=1) ** 0.25))
    decays = [HYPOTHESES[int(model.chosen)].decay for model in (additive, rough)]
    assert decays[1] > decays[0]


def test_hypotheses_without_sizes_are_all_there_is_in_a_space_without_costs():
    model = hypotheses.prior(8, 5, 0)
    assert model.log_prior.shape == (sum(not one.sizes for one in HYPOTHESES),)
    np.testing.assert_array_equal(model.processes.columns, np.ones((3, 5)))


def test_a_pool_has_standardised_sizes_and_a_constant_cost_says_nothing(pool):
    sizes = np.asarray(pool.embedded)[:, -2:]
    np.testing.assert_allclose(sizes.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(sizes.std(axis=0), [1, 0], atol=1e-5)
    logs = np.log1p(np.asarray(Sized().cost(pool.codes).multiply_adds))
    assert np.corrcoef(sizes[:, 0], logs)[0, 1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("wrong", [np.nan, -2.0, np.inf])
def test_costs_that_are_no_sizes_are_left_out(wrong):
    class Wrong(Sized):
        def cost(self, codes):
            return super().cost(codes)._replace(parameters=np.where(np.arange(len(codes)) == 3, wrong, 7.0))

    pool = lx.LaNAS(Wrong()).pool
    assert pool.embedded.shape[1] == Wrong().embedding_size
    assert np.isfinite(pool.embedded).all()


def test_costs_are_computed_for_the_model_alone():
    class Odd(Sized):
        def cost(self, codes):
            raise RuntimeError("no cost")

    for make in (lx.RandomSearch, lx.LocalSearch, lx.LaNAS.paper):
        make(Odd())
    with pytest.raises(RuntimeError, match="no cost"):
        lx.LaNAS(Odd())


def test_cells_of_one_function_are_one_place_wherever_they_are_seen():
    space = lx.NASBench201Space()
    pool = lx.LaNAS(space).pool
    # input + conv3x3(conv3x3(input)) + conv1x1(input), with the input passed on by different edges
    same = np.array([[1, 3, 0, 2, 1, 3], [3, 1, 3, 2, 0, 1], [3, 2, 3, 1, 0, 1]])
    e = space.embedding_size
    own = np.asarray(space.embed(same))
    assert np.abs(own[0] - own[2]).max() > 0.1
    embedded = np.asarray(sampling.embed(space, pool, jnp.asarray(same), pool.embedded.shape[1]))
    np.testing.assert_allclose(embedded[:, :e], np.broadcast_to(embedded[0, :e], (3, e)), atol=1e-6)
    members = space.functions(np.asarray(pool.codes)) == space.functions(same[:1])[0]
    np.testing.assert_allclose(embedded[0, :e], space.embed(np.asarray(pool.codes)[members]).mean(axis=0), atol=1e-6)
