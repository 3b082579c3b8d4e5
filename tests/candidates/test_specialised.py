import jax
import numpy as np
import pytest

from lanas_jax.candidates.halving import Halving, train_with_halving
from lanas_jax.candidates.population import Population
from lanas_jax.candidates.specialised import QUICK_STEPS, Specialised, compile_options, take_turns
from lanas_jax.candidates.strategies import Strategies
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.small_network import BuildableNetwork, SmallNetwork, stripes

CONFIG = TrainConfig(epochs=3, batch_size=8, learning_rate=0.05)
DATA = SearchData(Split(*stripes(30)), Split(*stripes(21, seed=1)), 3)
CODES = np.array([[0, 0], [1, 1], [2, 0], [0, 1]], np.int32)
KEYS = jax.random.split(jax.random.key(3), len(CODES))
TOTAL = CONFIG.steps(30)


@pytest.fixture(scope="module")
def shared():
    return Population(SmallNetwork(), CONFIG, jax.devices()[:2], 2, steps_per_dispatch=5).compile(DATA)


@pytest.fixture(scope="module")
def specialised():
    return Specialised(BuildableNetwork(), CONFIG, DATA, jax.devices()[:3], steps_per_dispatch=5)


@pytest.fixture(scope="module")
def results(specialised):
    return specialised.train(CODES, KEYS)[0]


@pytest.mark.slow
def test_both_plans_give_the_same_results(shared, results):
    theirs = shared.run(CODES, KEYS)
    np.testing.assert_array_equal(results.steps, theirs.steps)
    # Float32 sums in another order, over a dozen steps; candidates differ by more than a tenth.
    np.testing.assert_allclose(results.train_loss, theirs.train_loss, rtol=1e-3)
    np.testing.assert_allclose(results.loss, theirs.loss, rtol=1e-3)
    assert len(set(results.loss)) == len(CODES)


@pytest.mark.slow
def test_the_number_of_devices_and_neighbours_do_not_matter(results):
    one = Specialised(BuildableNetwork(), CONFIG, DATA, jax.devices()[:1], steps_per_dispatch=5)
    alone, _ = one.train(CODES[2:3], KEYS[2:3])
    np.testing.assert_array_equal(alone.loss, results.loss[2:3])


@pytest.mark.slow
def test_short_trainings_on_tpus_are_optimized_less(results):
    """An option that XLA knows: the results are the same."""
    quick = compile_options("tpu", QUICK_STEPS - 1)
    assert quick != compile_options("tpu", QUICK_STEPS) == compile_options("cpu", 1) == {}
    population = Population(BuildableNetwork().for_code(CODES[2]), CONFIG, jax.devices()[:1], 1, steps_per_dispatch=5)
    found = population.compile(DATA, share=False, options=quick).run(CODES[2:3], KEYS[2:3])
    np.testing.assert_allclose(found.loss, results.loss[2:3], rtol=1e-3)


def test_all_strategies_read_one_copy_of_the_data_on_each_device():
    def unaligned(array):  # on CPUs, JAX reads aligned arrays in place
        moved = np.empty(array.size + 1, array.dtype)[1:].reshape(array.shape)
        moved[:] = array
        return moved

    train, validation = (Split(*map(unaligned, stripes(n))) for n in (30, 21))
    strategies = Strategies(BuildableNetwork(), CONFIG, SearchData(train, validation, 3), jax.devices()[:3])
    whole, each = strategies._placed, strategies.specialised.places
    for part in ("train", "held_out"):
        for i, array in enumerate(getattr(whole, part)):
            copies = [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]
            assert [getattr(place, part)[i].unsafe_buffer_pointer() for place in each] == copies
            assert len(set(copies)) == 3


@pytest.mark.slow
def test_programs_are_cached_until_other_codes_come():
    built = []

    class Counting(BuildableNetwork):
        def for_code(self, code):
            built.append(code.tolist())
            return super().for_code(code)

    trainer = Specialised(Counting(), CONFIG, DATA, jax.devices()[:2], steps_per_dispatch=5)
    for codes in (CODES[:2], CODES[1:2], CODES[:1]):
        trainer.train(codes, KEYS[: len(codes)], until=1)
    assert sorted(built) == [[0, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize("name", ["shared", "specialised"])
def test_a_training_that_pauses_is_the_same_training(name, request):
    trainer = request.getfixturevalue(name)
    whole, _ = trainer.train(CODES[:3], KEYS[:3])
    half, states = trainer.train(CODES[:3], KEYS[:3], until=7)
    assert set(half.steps) == {7}
    rest, _ = trainer.train(CODES[:3], KEYS[:3], states=states)
    np.testing.assert_array_equal(rest.loss, whole.loss)
    np.testing.assert_array_equal(rest.train_loss, whole.train_loss)


@pytest.mark.parametrize("name", ["shared", "specialised"])
def test_halving_trains_the_better_ones_to_the_end(name, request):
    trainer = request.getfixturevalue(name)
    whole, _ = trainer.train(CODES, KEYS)
    rung, _ = trainer.train(CODES, KEYS, until=6)
    halved = train_with_halving(trainer, Halving((0.5,), 0.5), TOTAL, CODES, KEYS)
    better = np.sort(np.argsort(-rung.accuracy, kind="stable")[:2])
    assert np.flatnonzero(halved.steps == TOTAL).tolist() == better.tolist()
    np.testing.assert_array_equal(halved.loss[better], whole.loss[better])
    stopped = np.setdiff1d(np.arange(4), better)
    np.testing.assert_array_equal(halved.loss[stopped], rung.loss[stopped])
    assert set(halved.steps[stopped]) == {6}


def test_a_failed_candidate_never_continues(shared):
    images, labels = stripes(30)
    images[:8] = 3.0
    data = SearchData(Split(images, labels), DATA.validation, 3)
    programs = Population(SmallNetwork(), CONFIG, jax.devices()[:1], 3, steps_per_dispatch=5).compile(data)
    codes = np.array([[3, 0], [1, 1], [3, 1]], np.int32)
    halved = train_with_halving(programs, Halving((0.5,), 0.9), TOTAL, codes, KEYS[:3])
    assert np.isnan(halved.train_loss[[0, 2]]).all()
    assert halved.steps[1] == TOTAL


def test_without_halving_all_are_trained_to_the_end(shared):
    assert set(train_with_halving(shared, None, TOTAL, CODES, KEYS).steps) == {TOTAL}


@pytest.mark.parametrize("rungs", [(), (0.5, 0.5), (0.0,), (0.5, 1.0), (0.6, 0.3)])
def test_rungs_that_do_not_ascend_are_refused(rungs):
    with pytest.raises(ValueError, match="rungs must ascend"):
        Halving(rungs)


def test_lanes_take_turns_and_all_end():
    seen = []

    def lane(name, waits):
        for wait in waits:
            looks = iter([False] * wait + [True])
            yield lambda looks=looks: next(looks)
            seen.append(name)

    take_turns([lane("a", [0, 3, 0]), lane("b", [1, 0]), lane("c", [])])
    assert sorted(seen) == ["a", "a", "a", "b", "b"]
    assert seen[0] == "a"
    assert seen[-1] == "a"  # the one that waits longest does not hold up the others
