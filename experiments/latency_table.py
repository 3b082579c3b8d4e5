r"""Latency table for the networks of `experiments/imagenet_600m.py`, measured on this machine's first device.

    python -m lanas_jax.experiments.latency_table --out latency.json [--width 1.2] [--batch 1] \
        [--resolutions 192 224 256]
    lanas search imagenet_600m --latency latency.json --max-milliseconds 30
    lanas search imagenet_600m --latency latency.json --objectives accuracy,latency    # a front: docs/objectives.md

Run it on an otherwise idle machine. It compiles one program for each of several hundred layers.
"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp

from lanas_jax.commands import help_text
from lanas_jax.models.mobilenet.latency import SECONDS, measure_latencies
from lanas_jax.spaces.mobilenet import MobileNetSpace


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the measurement.

    Attributes:
      out: output file.
      width: multiplier of all channel numbers.
      resolutions: possible heights and widths of the images, in pixels.
      batch: number of images per batch.
      bfloat16: computation in bfloat16 instead of float32.
      seconds: approximate duration of each of a layer's five timings, in seconds.
    """

    out: Path
    width: float = 1.2
    resolutions: tuple[int, ...] = (192, 224, 256)
    batch: int = 1
    bfloat16: bool = False
    seconds: float = SECONDS


def main(config: Config) -> None:
    """Measures the latencies and writes the table."""
    space = MobileNetSpace(widths=(config.width,), resolutions=config.resolutions)
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    table = measure_latencies(space, batch=config.batch, compute_dtype=dtype, seconds=config.seconds, note=print)
    table.write(config.out)
    limits = MobileNetSpace(widths=(config.width,), resolutions=config.resolutions, latency=table)
    smallest, largest = (bound.nanoseconds / 1e6 for bound in (limits.smallest, limits.largest))
    print(f"{config.out}: {table.device}; networks take {smallest:.3g} to {largest:.3g} ms for {table.batch} images")


if __name__ == "__main__":
    main(help_text.parse_documented(Config, __doc__))
