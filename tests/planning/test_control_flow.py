"""Conditionals and loops in StableHLO."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from lanas_jax.models import layers
from lanas_jax.planning.control_flow import ControlFlow, count_control_flow


def counted(function, *types, platform="cuda"):
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in types]
    return count_control_flow(jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)))


NUMBER, MATRIX = ((), jnp.int32), ((4, 4), jnp.float32)
BRANCHES = [lambda x: x, lambda x: 2 * x, lambda x: x @ x]


def choose(i, x):
    return lax.switch(i, BRANCHES, x)


@pytest.mark.parametrize(("function", "types", "expected"), [
    (lambda x: x @ x, (MATRIX,), ControlFlow(0, 0)),
    (choose, (NUMBER, MATRIX), ControlFlow(1, 0)),
    (lambda i, x: choose(2, choose(i, x)), (NUMBER, MATRIX), ControlFlow(1, 0)),
    (lambda i, x: jax.jit(choose)(i, jax.jit(choose)(i, x)), (NUMBER, MATRIX), ControlFlow(2, 0)),
    (lambda i, x: lax.scan(lambda x, _: (choose(i, x), None), x, None, length=5)[0],
     (NUMBER, MATRIX), ControlFlow(5, 0)),
    (lambda i, x: lax.map(lambda x: lax.fori_loop(0, 3, lambda j, x: choose(i, x), x), x),
     (NUMBER, ((2, 4, 4), jnp.float32)), ControlFlow(6, 0)),
    (lambda n, x: lax.fori_loop(0, n, lambda i, x: choose(i, x), x), (NUMBER, MATRIX), ControlFlow(1, 1)),
    (lambda n, x: lax.scan(lambda x, _: (lax.fori_loop(0, n, lambda i, x: x @ x, x), None), x, None, length=4)[0],
     (NUMBER, MATRIX), ControlFlow(0, 4)),
    (lambda i, x: jnp.where(i > 0, x, 2 * x), (NUMBER, MATRIX), ControlFlow(0, 0)),
    (lambda i, x: lax.cond(i > 0, lambda x: choose(i, x), lambda x: choose(i, x) + 1, x), (NUMBER, MATRIX),
     ControlFlow(3, 0)),
])  # fmt: skip
def test_what_runs_is_counted(function, types, expected):
    assert counted(function, *types) == expected


@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_the_choice_of_a_platform_is_none(platform):
    """Depthwise convolutions and pools choose their implementation by platform, in nested conditionals on constants."""
    images, kernel = ((2, 8, 8, 16), jnp.float32), ((3, 3, 16), jnp.float32)
    gradient = jax.grad(lambda x, kernel: jnp.sum(layers.max_pool(layers.depthwise(x, kernel))), argnums=(0, 1))
    assert counted(gradient, images, kernel, platform=platform) == ControlFlow(0, 0)
