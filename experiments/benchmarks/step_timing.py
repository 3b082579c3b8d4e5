"""Memory of a training step of a population; `lanas_jax.training.peak` measures the peak rate of devices."""

from lanas_jax.candidates.population import CompiledPopulation
from lanas_jax.planning.estimate import Memory


def planned_bytes(programs: CompiledPopulation) -> int | None:
    """Returns the bytes per device that XLA plans for the training program (data, states, temporaries), if known."""
    analysis = programs.advance.memory_analysis()
    return None if analysis is None else Memory.of(analysis).total
