"""Gradients averaged over several passes of a step: the mean of what each pass gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.trainer.step import averaged_gradient
from lanas_jax.trainer.task import Weights

WEIGHTS = Weights({"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}, {"seen": jnp.float32(3)})


def objective(params, batch_stats, key):
    """A loss whose noise is of a pass, and statistics that follow from those of the pass before."""
    noise = jax.random.normal(key, (2,))
    loss = jnp.sum(noise * params["a"] ** 2) * params["b"] + batch_stats["seen"] * params["b"]
    return loss, {"seen": 2 * batch_stats["seen"] + noise[0]}


def alone(batch_stats, key):
    (loss, after), gradient = jax.value_and_grad(objective, has_aux=True)(WEIGHTS.params, batch_stats, key)
    return loss, after, gradient


def test_a_single_pass_is_given_the_key_itself():
    key = jax.random.key(1)
    ours, theirs = averaged_gradient(objective, WEIGHTS, key, 1), alone(WEIGHTS.batch_stats, key)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("passes", [2, 5])
def test_passes_are_averaged_and_their_statistics_follow_one_another(passes):
    key = jax.random.key(2)
    loss, batch_stats, gradient = jax.jit(lambda: averaged_gradient(objective, WEIGHTS, key, passes))()
    stats, singles = WEIGHTS.batch_stats, []
    for one in jax.random.split(key, passes):
        singles.append(alone(stats, one))
        stats = singles[-1][1]
    np.testing.assert_allclose(loss, np.mean([single[0] for single in singles]), rtol=1e-5)
    np.testing.assert_allclose(batch_stats["seen"], stats["seen"], rtol=1e-5)
    for name, found in gradient.items():
        np.testing.assert_allclose(found, np.mean([single[2][name] for single in singles], axis=0), rtol=1e-5)
    assert np.std([single[0] for single in singles]) > 0.1
