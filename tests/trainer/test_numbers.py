"""The numbers of a recipe as inputs of programs, which trainings share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.candidates.population import forget_programs
from lanas_jax.models.nasbench import NASBench101, NASBench201
from lanas_jax.models.nasnet import FinalNASNet, NASNet
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.storage.weights import names
from lanas_jax.supernet import code_pool
from lanas_jax.trainer import compilation, programs
from lanas_jax.trainer import step as training
from lanas_jax.trainer.compilation import training_images
from lanas_jax.trainer.programs import task_of
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import AuxiliaryInputs, FinalTraining, Weights
from lanas_jax.trainer.teacher import NetworkTeacher, SavedLogits
from tests.candidates.compilations import counted
from tests.trainer.linear_network import CLASSES, LinearNetwork
from tests.trainer.tiny_experiment import Config, dataset

ALL = dataset(Config())
SGD = Recipe(epochs=2, batch_size=12, learning_rate=0.1, ema=0.9, steps_per_dispatch=4, train_on="train")
RMSPROP = dataclasses.replace(SGD, optimizer="rmsprop", epsilon=0.01, decay_all=False)
ADAMW = dataclasses.replace(SGD, optimizer="adamw", learning_rate=0.02, epsilon=1e-6)
LAMB = dataclasses.replace(ADAMW, optimizer="lamb", decay_all=False)
# A recipe, and others that differ in numbers alone.
FAMILIES = {
    "sgd": (
        SGD,
        {"learning_rate": 0.5, "final_learning_rate": 0.2, "validate_every": None},
        {"epochs": 1, "warm_up": 0.5, "drop_path": 0.7, "checkpoint_seconds": 1.0},
        {"weight_decay": 0.3, "clip": 0.1, "ema": 0.01},
        {"label_smoothing": 0.4, "momentum": 0.0, "auxiliary_weight": 1.5},
    ),
    "rmsprop": (RMSPROP, {"momentum": 0.1, "rmsprop_decay": 0.3, "epsilon": 0.2, "weight_decay": 0.3}),
    "adamw": (ADAMW, {"betas": (0.5, 0.6), "epsilon": 0.2, "weight_decay": 0.3}),
    "lamb": (LAMB, {"betas": (0.5, 0.6), "epsilon": 0.2, "weight_decay": 0.3}),
}


def final(recipe, **more):
    return FinalTraining(LinearNetwork(), lambda: ALL, recipe, **more)


def compiled(training):
    return compilation.compile_training(training, ALL.search, jax.devices()[:1])


def four_steps(made):
    """The state after four steps, and the accuracy then."""
    state, losses = made.advance(made.start(), 4)
    return state, losses, made.accuracy(state.weights, ALL.search.validation)


def by_constants(recipe):
    """The same steps by a program that has the numbers of its recipe for constants."""
    made = final(recipe)
    mesh = mesh_of(jax.devices()[:1], "data")
    task = task_of(made, mesh, ALL.search.classes, ALL.search.scaling)
    split = training_images(ALL.search, recipe)
    total = recipe.sgd.steps(len(split))

    @jax.jit
    def steps(first, key):
        state = training.start_training(task.network, recipe, first)
        images = jnp.asarray(split.images), jnp.asarray(split.labels)
        return training.train_steps(
            task, AuxiliaryInputs(recipe, (), ()), state, key, jnp.int32(total), jnp.int32(4), *images
        )

    return steps(*jax.random.split(jax.random.key(0)))


@pytest.mark.parametrize(
    "family", ["sgd", *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES if family != "sgd")]
)
@pytest.mark.slow
def test_recipes_that_differ_in_numbers_share_programs_and_act_as_constants_would(family):
    forget_programs()
    first, *changes = FAMILIES[family]
    recipes = [first, *(dataclasses.replace(first, **change) for change in changes)]
    compilations, reached = [], []
    for recipe in recipes:
        with counted() as programs_compiled:
            state, losses, accuracy = four_steps(compiled(final(recipe)))
        assert 0 <= accuracy <= 1
        compilations.append(len(programs_compiled))
        reached.append(np.asarray(losses))
        expected, same = by_constants(recipe)
        np.testing.assert_allclose(losses, same, rtol=1e-4)
        for name in ("weights", "average", "optimizer"):
            for ours, theirs in zip(*(jax.tree.leaves(getattr(x, name)) for x in (state, expected)), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert compilations[0] >= 3
    assert compilations[1:] == [0] * len(changes)
    for i, losses in enumerate(reached):
        assert all(np.abs(losses - others).max() > 1e-2 for others in reached[:i])


def test_the_average_and_dropped_paths_have_numbers_of_their_own():
    """What no loss of the steps above depends on."""
    one, other = (
        compiled(final(dataclasses.replace(SGD, **change))) for change in ({}, {"ema": 0.2, "drop_path": 0.6})
    )
    assert other.program is one.program
    (one, losses, _), (other, same, _) = four_steps(one), four_steps(other)
    np.testing.assert_array_equal(losses, same)
    shares = [float(state.weights.batch_stats["dropped"]) for state in (one, other)]
    np.testing.assert_allclose(shares[1], 3 * shares[0], rtol=1e-6)
    heads = [np.asarray(state.average.params["head"]) for state in (one, other)]
    assert np.abs(heads[0] - heads[1]).max() > 1e-3


@pytest.mark.parametrize(
    "changed",
    [{"batch_size": 6}, {"clip": None}, {"ema": None}, {"nesterov": True}, {"passes": 2}, {"decay_all": False}],
)
def test_settings_that_are_part_of_a_program_distinguish_recipes(changed):
    structures = [jax.tree.structure(recipe) for recipe in (SGD, dataclasses.replace(SGD, **changed))]
    assert structures[0] != structures[1]


@pytest.mark.parametrize("kind", ["network", "logits"])
def test_teachers_share_programs_with_other_weights_and_other_trust(kind):
    random = np.random.default_rng(0)

    def teacher():
        if kind == "logits":
            return SavedLogits(random.normal(0, 3, (len(ALL.search.train), CLASSES)).astype(np.float32))
        params, batch_stats = LinearNetwork().init(jax.random.key(int(random.integers(100))))
        return NetworkTeacher(LinearNetwork(), names(Weights(params, batch_stats)))

    taught = dataclasses.replace(SGD, distillation=0.5, temperature=2.0)
    one = compiled(final(taught, teacher=teacher()))
    changes = [({}, teacher()), ({"distillation": 0.9}, teacher()), ({"temperature": 5.0}, teacher())]
    reached = [four_steps(one)[1]]
    for change, other in changes:
        with counted() as compilations:
            made = compiled(final(dataclasses.replace(taught, **change), teacher=other))
            reached.append(four_steps(made)[1])
        assert made.program is one.program
        assert not compilations
    for i, losses in enumerate(reached):
        assert all(np.abs(losses - others).max() > 1e-3 for others in reached[:i])
    untaught = compiled(final(SGD))
    assert untaught.program is not one.program


def test_what_is_held_has_no_arrays_of_a_teacher():
    """Its weights may be large, and are those of one training."""
    logits = np.ones((len(ALL.search.train), CLASSES), np.float32)
    bare = programs._bare(task_of(final(dataclasses.replace(SGD, distillation=0.5), teacher=SavedLogits(logits)),
                                  mesh_of(jax.devices()[:1], "data"), 3, None))  # fmt: skip
    assert bare.teacher == SavedLogits(logits)
    assert bare.teacher.values.strides == (0, 0)


NASNET = NASNet(NASNetSpace(1, channels=4, cells=1, image_size=8, image_channels=1, classes=3))
CELLS = NASBench201(NASBench201Space(channels=4))
GRAPHS = NASBench101(NASBench101Space(channels=5))


@pytest.mark.parametrize(
    ("network", "space"),
    [
        (lambda code: FinalNASNet(NASNET, code, auxiliary=False), NASNET.space),
        (NASNET.for_code, NASNET.space),
        (CELLS.for_code, CELLS.space),
        (GRAPHS.for_code, GRAPHS.space),
    ],
)
def test_networks_of_one_code_are_equal_where_the_code_is(network, space):
    codes = code_pool.draw_codes(space, 2, seed=0)
    one, same, other = network(codes[0]), network(np.array(codes[0])), network(codes[1])
    assert one == same
    assert hash(one) == hash(same)
    assert one != other


def test_programs_are_not_rebound_to_another_kind_of_recipe():
    made = compiled(final(SGD))
    again = made.rebind(final(dataclasses.replace(SGD, learning_rate=0.5), seed=1))
    forget_programs()
    fresh = compiled(final(dataclasses.replace(SGD, learning_rate=0.5), seed=1))
    assert fresh.program is not again.program
    np.testing.assert_array_equal(four_steps(again)[1], four_steps(fresh)[1])
    with pytest.raises(ValueError, match="another kind of recipe"):
        made.rebind(final(dataclasses.replace(SGD, clip=None)))
