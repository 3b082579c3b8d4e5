"""What share of a device's measured matrix-multiply peak a training step reaches, and the memory it needs.

A step of training is counted as three forward passes (one forward, two backward) of two operations per multiply-add;
`space.cost` knows the multiply-adds. What pooling, normalising and the optimiser compute is not counted. The peak
(`lanas_jax.planning.peak`) is that of a large square matrix product in the same dtype on the same devices, at JAX's
default precision.
"""

import numpy as np
from jaxtyping import Float, Int

from lanas_jax.planning.estimate import Memory
from lanas_jax.training.population import CompiledPopulation


def step_flops(multiply_adds: Int[np.ndarray, " n"], batch_size: int) -> Float[np.ndarray, " n"]:
    """Operations of a training step of each network: ``2 * 3 * multiply_adds * batch_size``."""
    return 6.0 * batch_size * multiply_adds


def planned_bytes(programs: CompiledPopulation) -> int | None:
    """Memory of one device that XLA plans for the training program: data, states and temporaries; None: unknown."""
    analysis = programs.advance.memory_analysis()
    return None if analysis is None else Memory.of(analysis).total
