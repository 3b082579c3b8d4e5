"""The memory that a training step of a population needs; what devices can compute is in `lanas_jax.training.peak`."""

from lanas_jax.training.population import CompiledPopulation


def planned_bytes(programs: CompiledPopulation) -> int | None:
    """Memory of one device that XLA plans for the training program: data, states and temporaries; None: unknown."""
    analysis = programs.advance.memory_analysis()
    if analysis is None:
        return None
    sizes = (analysis.argument_size_in_bytes, analysis.output_size_in_bytes, analysis.temp_size_in_bytes)
    return sum(sizes) - analysis.alias_size_in_bytes
