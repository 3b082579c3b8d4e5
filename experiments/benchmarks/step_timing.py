"""The memory that a training step of a population needs; what devices can compute is in `lanas_jax.training.peak`."""

from lanas_jax.candidates.population import CompiledPopulation
from lanas_jax.planning.estimate import Memory


def planned_bytes(programs: CompiledPopulation) -> int | None:
    """Memory of one device that XLA plans for the training program: data, states and temporaries; None: unknown."""
    analysis = programs.advance.memory_analysis()
    return None if analysis is None else Memory.of(analysis).total
