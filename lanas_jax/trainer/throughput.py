"""The throughput of a training, in images per second and as a share of its devices' peak.

A step counts as three forward passes per image (one forward, two backward), with two operations per multiply-add of
``space.cost``. Pooling, normalization and the optimizer are not counted. The peak is that of a large square matrix
product in bfloat16, measured on the same devices.
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
    """Returns the throughput of the steps that this process took, for final.json. All values are None without steps.

    Returns:
      ``images_per_second``, checkpoints and search-validation evaluations included; ``input_wait``, the share of the
      time spent waiting for a batch; ``peak_share``, the share of the peak, None if unknown.
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
    """Returns the seconds per image at the peak of all devices, extrapolated from the devices of this process.

    Returns None if the space has no cost model, and on CPUs, whose peak is not worth the time of measuring it.
    """
    multiply_adds = costs(final.network, code)["multiply_adds"]
    if devices[0].platform == "cpu" or not multiply_adds:
        return None
    mine = [device for device in devices if device.process_index == jax.process_index()]
    peak = measure_peak(jnp.dtype(jnp.bfloat16), mine) / len(mine) * len(devices)
    return float(step_flops(np.array([multiply_adds]), final.recipe.passes)[0]) / peak
