"""Optimizers against their formulas, written in NumPy, over several steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.trainer.recipe import Recipe, decaying, optimizer

RATE, DECAY, STEPS = 0.1, 0.03, 4
RANDOM = np.random.default_rng(0)
SHAPES = {"kernel": (3, 4), "stack": {"scale": (2, 4), "bias": (2, 4)}, "vector": (5,)}
KERNEL = ("kernel",)  # what decays where not all do


def drawn():
    return jax.tree.map(lambda shape: RANDOM.normal(size=shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple))


PARAMS, GRADIENTS = drawn(), [drawn() for _ in range(STEPS)]


def ours(recipe):
    """Parameters after the steps, at a constant learning rate."""
    made = optimizer(recipe)
    params = jax.tree.map(jnp.float32, PARAMS)
    state = made.init(params)
    for gradient in GRADIENTS:
        direction, state = made.update(jax.tree.map(jnp.float32, gradient), state, params)
        params = jax.tree.map(lambda p, d: p - RATE * d, params, direction)
    return params


def followed(step, spared=()):
    """The same by ``step(p, g, memory, t, decay, spared) -> p``, array by array, in float64."""
    found, structure = [], jax.tree.structure(PARAMS)
    for i, (name, p) in enumerate(named(PARAMS)):
        memory = {}
        for t, gradient in enumerate(GRADIENTS, 1):
            p = step(p, jax.tree.leaves(gradient)[i], memory, t, 0.0 if name in spared else DECAY, name in spared)
        found.append(p)
    return jax.tree.unflatten(structure, found)


def named(tree):
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def agree(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def sgd(p, g, memory, t, decay, spared, momentum=0.8, nesterov=True):
    g = g + decay * p
    memory["b"] = g + momentum * memory.get("b", 0.0)
    return p - RATE * (g + momentum * memory["b"] if nesterov else memory["b"])


def rmsprop(p, g, memory, t, decay, spared):
    """TensorFlow's: a mean of squares that begins at 1, epsilon inside the root; at a constant rate."""
    g = g + decay * p
    memory["ms"] = 0.7 * memory.get("ms", 1.0) + 0.3 * g**2
    memory["mom"] = 0.6 * memory.get("mom", 0.0) + RATE * g / np.sqrt(memory["ms"] + 1e-3)
    return p - memory["mom"]


def adam(g, memory, t, epsilon):
    memory["m"] = 0.8 * memory.get("m", 0.0) + 0.2 * g
    memory["v"] = 0.95 * memory.get("v", 0.0) + 0.05 * g**2
    return memory["m"] / (1 - 0.8**t) / (np.sqrt(memory["v"] / (1 - 0.95**t)) + epsilon)


def adamw(p, g, memory, t, decay, spared):
    return p * (1 - RATE * decay) - RATE * adam(g, memory, t, 1e-8)


def lamb(p, g, memory, t, decay, spared):
    """Algorithm 2 of arXiv 1904.00962, phi the identity; as in its code, what is spared decay is not scaled either."""
    direction = adam(g, memory, t, 1e-6) + decay * p
    ratio = 1.0 if spared else np.linalg.norm(p) / np.linalg.norm(direction)
    return p - RATE * ratio * direction


CASES = {
    "sgd": (sgd, {"momentum": 0.8, "nesterov": True}),
    "rmsprop": (rmsprop, {"momentum": 0.6, "rmsprop_decay": 0.7}),
    "adamw": (adamw, {"betas": (0.8, 0.95)}),
    "lamb": (lamb, {"betas": (0.8, 0.95)}),
}


@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_the_formulas(name, decay_all):
    """Spared are vectors, and biases and scales of many layers in one array."""
    step, settings = CASES[name]
    recipe = Recipe(optimizer=name, weight_decay=DECAY, clip=None, decay_all=decay_all, **settings)
    spared = () if decay_all else [name for name, _ in named(PARAMS) if name not in KERNEL]
    agree(ours(recipe), followed(step, spared))


def test_exempt_arrays_are_recognised_by_name_and_by_dimensions():
    found = decaying(jax.tree.map(jnp.float32, PARAMS))
    assert found == {"kernel": True, "stack": {"scale": False, "bias": False}, "vector": False}


def test_epsilon_is_a_setting():
    """The first step of RMSProp: ``g / sqrt(0.9 * 1 + 0.1 * g^2 + epsilon)``."""
    recipe = Recipe(optimizer="rmsprop", epsilon=3.0, momentum=0.0, weight_decay=0.0, clip=None)
    made, params = optimizer(recipe), {"kernel": jnp.ones((1, 1))}
    direction, _ = made.update({"kernel": jnp.full((1, 1), 2.0)}, made.init(params), params)
    np.testing.assert_allclose(direction["kernel"], 2 / np.sqrt(0.9 + 0.1 * 4 + 3), rtol=1e-6)


@pytest.mark.parametrize("by", ["norm", "value"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_clipped_before_all_else(name, by):
    """One that is scaled to the norm, or cut, by hand and not clipped gives the same direction."""
    recipe = Recipe(optimizer=name, weight_decay=DECAY, clip=0.5, clip_by=by)
    made, params = optimizer(recipe), jax.tree.map(jnp.float32, PARAMS)
    gradient = jax.tree.map(jnp.float32, GRADIENTS[0])
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(gradient)))
    clipped = jax.tree.map(lambda leaf: leaf * (0.5 / norm) if by == "norm" else jnp.clip(leaf, -0.5, 0.5), gradient)
    unclipped = optimizer(Recipe(optimizer=name, weight_decay=DECAY, clip=None))
    agree(
        made.update(gradient, made.init(params), params)[0],
        unclipped.update(clipped, unclipped.init(params), params)[0],
    )
