"""The stages of `experiments/imagenet_dry_run.py`, on smaller networks, in batches that 256 chips can share."""

import dataclasses

from lanas_jax.experiments import imagenet_dry_run
from lanas_jax.experiments.imagenet_dry_run import Config, build

__all__ = ["Config", "build", "stages"]

BATCH = 256
imagenet_dry_run.STAGES = imagenet_dry_run.STAGES[-1:]


def stages(config):
    return tuple(dataclasses.replace(stage, batch_size=BATCH) for stage in imagenet_dry_run.stages(config))
