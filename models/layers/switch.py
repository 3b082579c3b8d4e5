"""A `lax.switch` over layers whose gradient costs only as much as that of the selected branch.

JAX's gradient of a switch saves the residuals of every branch, with zeros for branches that did not run. This one saves
the operands and recomputes the selected branch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PyTree

Branch = Callable[[Any, Any], tuple[Any, Any]]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def switch(branches: tuple[Branch, ...], index: Int[Array, ""], operands: PyTree, state: PyTree) -> tuple[Any, Any]:
    """Runs the branch with the given index.

    Args:
      branches: functions `(operands, state) -> (output, new state)`.
      index: index of the branch to run.
      operands: differentiable inputs.
      state: inputs without gradient.
    """
    return lax.switch(index, branches, operands, state)


def _forward(branches: tuple[Branch, ...], index: Array, operands: PyTree, state: PyTree) -> tuple[Any, Any]:
    return switch(branches, index, operands, state), (index, operands, state)


def _backward(branches: tuple[Branch, ...], saved: tuple[Array, Any, Any], cotangents: tuple[Any, Any]) -> Any:
    index, operands, state = saved
    pullbacks = [partial(_pullback, branch) for branch in branches]
    gradient = lax.switch(index, pullbacks, operands, state, cotangents[0])
    return None, gradient, jax.tree.map(jnp.zeros_like, state)


switch.defvjp(_forward, _backward)


def _pullback(branch: Branch, operands: PyTree, state: PyTree, cotangent: PyTree) -> PyTree:
    return jax.vjp(lambda operands: branch(operands, state)[0], operands)[1](cotangent)[0]
