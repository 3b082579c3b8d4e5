"""Programs that trainings of one process share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.candidates import step as training
from lanas_jax.candidates.population import Population, forget_programs
from lanas_jax.candidates.specialised import Specialised
from lanas_jax.candidates.step import CandidateTask
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.runtime import program_memo
from lanas_jax.runtime.program_memo import MEMO, ProgramMemo
from lanas_jax.training import augmentation
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.compilations import counted
from tests.candidates.small_network import BuildableNetwork, SmallNetwork, stripes

DATA = SearchData(Split(*stripes(20)), Split(*stripes(9, seed=1)), 3)
CODES = np.array([[0, 1]], np.int32)
KEYS = jax.random.split(jax.random.key(3), 1)
FIRST = TrainConfig(epochs=3, batch_size=8, learning_rate=0.05, clip=5.0)
OTHERS = [
    dataclasses.replace(FIRST, learning_rate=0.2, final_learning_rate=0.1),
    dataclasses.replace(FIRST, epochs=2, warm_up=1.5),
    dataclasses.replace(FIRST, weight_decay=0.3, clip=0.1),
    dataclasses.replace(FIRST, label_smoothing=0.4, momentum=0.0),
]


def compiled(config, network=None):
    return Population(network or SmallNetwork(), config, jax.devices()[:1], 1, steps_per_dispatch=8).compile(DATA)


def by_constants(config):
    """The same training by a program that has the numbers of its configuration for constants."""
    task, total = CandidateTask(SmallNetwork(), config, DATA.classes), config.steps(len(DATA.train))
    images, labels = map(jnp.asarray, (DATA.train.images, DATA.train.labels))

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def whole(code, key):
        state = training.start_candidate(task, code, key)
        return training.train_candidate(task, state, code, jnp.int32(total), jnp.int32(total), images, labels, steps=8)

    return whole(jnp.asarray(CODES[0]), KEYS[0])


@pytest.fixture(scope="module")
def trained():
    """What each configuration gave, and how many programs were compiled for it."""
    forget_programs()
    found = []
    for config in (FIRST, *OTHERS):
        with counted() as compilations:
            programs = compiled(config)
            results, (state,) = programs.train(CODES, KEYS)
        found.append((programs, results, state, len(compilations)))
    return found


def test_other_numbers_compile_nothing(trained):
    assert trained[0][3] >= 3  # the programs of the first
    assert [compilations for *_, compilations in trained[1:]] == [0] * len(OTHERS)


@pytest.mark.slow
def test_each_number_acts_as_a_constant_would(trained):
    """The trainings differ from one another by far more than each differs from the one by constants."""
    for config, (_, results, state, _) in zip((FIRST, *OTHERS), trained, strict=True):
        constant = by_constants(config)
        assert results.steps[0] == int(constant.step)
        np.testing.assert_allclose(results.train_loss[0], constant.loss, rtol=1e-4)
        for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(constant.params), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    losses = np.sort([results.train_loss[0] for _, results, _, _ in trained])
    assert (np.diff(losses) > 2e-3 * losses[1:]).all()


def test_what_is_shared_is_not_waited_for_and_reckoned_at_its_price(trained):
    first, again = trained[0][0], trained[1][0]
    assert first.compile_seconds > 0
    assert again.compile_seconds == 0
    assert again.saved_seconds == first.compile_seconds + first.saved_seconds
    assert again.trace_seconds == first.trace_seconds


@pytest.mark.parametrize(
    "changed",
    [{"batch_size": 4}, {"nesterov": False}, {"clip": None}, {"augmentation": augmentation.Augmentation(crop=1)}],
)
def test_what_is_part_of_the_program_is_not_shared(changed):
    """By what programs are told apart, which needs no compilation."""
    config = dataclasses.replace(FIRST, **changed)
    assert jax.tree.structure(config) != jax.tree.structure(FIRST)
    assert jax.tree.structure(dataclasses.replace(config, learning_rate=1.0)) == jax.tree.structure(config)


def test_parameters_keep_their_dtype():
    """The numbers are float32, and promote nothing."""

    class Half(SmallNetwork):
        def init(self, key, code):
            params, batch_stats = super().init(key, code)
            return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), batch_stats

        def apply(self, params, batch_stats, code, images, *, train):
            params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
            return super().apply(params, batch_stats, code, images, train=train)

    lowered = Population(Half(), FIRST, jax.devices()[:1], 1).lower(compiled(FIRST).placed)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(lowered[1].out_info.params)}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}


def test_programs_of_single_candidates_are_not_held():
    forget_programs()
    Specialised(BuildableNetwork(), FIRST, DATA, jax.devices()[:1], steps_per_dispatch=1).compile(CODES[0])
    assert len(MEMO) == 0


def test_those_used_last_are_held():
    memo, made = ProgramMemo(2), []

    def asked(key):
        return memo.shared(key, lambda: made.append(key) or len(made))

    assert [asked("a"), asked("b"), asked("a"), asked("c"), asked("a"), asked("b")] == [
        (1, False), (2, False), (1, True), (3, False), (1, True), (4, False),
    ]  # fmt: skip
    assert len(memo) == 2
    memo.forget()
    assert asked("b") == (5, False)


def test_what_cannot_be_hashed_is_made_each_time():
    memo = ProgramMemo(2)
    assert [memo.shared(([],), object)[1] for _ in range(2)] == [False, False]
    assert len(memo) == 0


def test_settings_of_jax_tell_programs_apart():
    memo = ProgramMemo(program_memo.HELD)
    memo.shared("a", object)
    with jax.default_matmul_precision("float32"):
        assert not memo.shared("a", object)[1]
        assert memo.shared("a", object)[1]
    assert memo.shared("a", object)[1]
