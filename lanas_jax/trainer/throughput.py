"""How fast a training goes, and what share of what its devices can do.

A step is counted as three forward passes (one forward, two backward) of two operations per multiply-add that
``space.cost`` knows, of each image; what pooling, normalising and the optimiser compute is not counted. The peak is
that of a large square product in bfloat16, measured on the same devices.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from lanas_jax.trainer.loop import Fitted
from lanas_jax.trainer.programs import Programs
from lanas_jax.trainer.task import FinalTraining, costs
from lanas_jax.training.peak import measure_peak, step_flops


def measured_throughput(fitted: Fitted, programs: Programs) -> dict[str, float | None]:
    """What final.json says of it, of the steps that this process took; None where it took none.

    Returns:
      ``images_per_second``, checkpoints and readings of the search-validation split included; ``input_wait``, the share
      of that time for which no batch was ready; ``peak_share``, None where it is unknown.
    """
    if not fitted.steps:
        return dict.fromkeys(("images_per_second", "input_wait", "peak_share"))
    images = fitted.steps * programs.task.recipe.batch_size / fitted.taken_seconds
    return {
        "images_per_second": images,
        "input_wait": fitted.waited / fitted.taken_seconds,
        "peak_share": None if programs.at_peak is None else images * programs.at_peak,
    }


def at_peak(final: FinalTraining, code: Int[np.ndarray, " dims"], devices: Sequence[jax.Device]) -> float | None:
    """Seconds that an image would take at the peak of all devices, which those of this process tell.

    None where the space does not know the costs, and on CPUs, whose peak is not worth the time to measure it.
    """
    multiply_adds = costs(final.network, code)["multiply_adds"]
    if devices[0].platform == "cpu" or not multiply_adds:
        return None
    mine = [device for device in devices if device.process_index == jax.process_index()]
    peak = measure_peak(jnp.dtype(jnp.bfloat16), mine) / len(mine) * len(devices)
    return float(step_flops(np.array([multiply_adds]), final.recipe.passes)[0]) / peak
