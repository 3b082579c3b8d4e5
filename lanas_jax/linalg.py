"""Small linear algebra over a batch, safe where several programs run side by side on a CPU.

On a CPU, one LAPACK call over a batch spreads its matrices over the thread pool that runs the program itself, and waits
for them. Two such programs at once can fill the pool with waiting threads and never end. So there, the matrices of a
batch are factored one after the other; elsewhere, in one batched call.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def solve_positive(matrices: Float[Array, "k d d"], right: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Solutions x of ``matrix @ x = right`` for a batch of symmetric positive definite matrices."""

    def one(matrix: Array, b: Array) -> Array:
        return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), b)

    def one_by_one(matrices: Array, right: Array) -> Array:
        return jax.lax.map(lambda pair: one(*pair), (matrices, right))

    return jax.lax.platform_dependent(matrices, right, cpu=one_by_one, default=jax.vmap(one))
