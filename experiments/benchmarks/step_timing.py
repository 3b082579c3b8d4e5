"""What the benchmarks of training steps share: random data, the share of the peak rate, and planned memory.

`lanas_jax.training.peak` measures the peak rate of devices.
"""

import numpy as np
from jaxtyping import Int

from lanas_jax.candidates.population import CompiledPopulation
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.planning.estimate import Memory
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.training.peak import step_flops


def random_data(space: NASNetSpace, train: int, validation: int, seed: int) -> SearchData:
    """Returns random images and labels in the shapes of a space.

    Args:
      space: space with the size, channels and classes of the images.
      train: number of training images.
      validation: number of validation images.
      seed: random seed.
    """
    random, shape = np.random.default_rng(seed), (space.image_size, space.image_size, space.image_channels)

    def split(images: int) -> Split:
        pixels = random.standard_normal((images, *shape), np.float32)
        return Split(pixels, random.integers(0, space.classes, images, np.int32))

    return SearchData(split(train), split(validation), space.classes)


def share_of_peak(multiply_adds: Int[np.ndarray, " n"], batch_size: int, step_seconds: float, peak: float) -> float:
    """Returns the share of the peak rate, in operations per second, that training steps reach.

    Args:
      multiply_adds: multiply-adds of each network on one image; their mean counts.
      batch_size: number of images per step.
      step_seconds: mean seconds per step and candidate.
      peak: peak rate.
    """
    return float(step_flops(multiply_adds, batch_size).mean()) / (step_seconds * peak)


def planned_bytes(programs: CompiledPopulation) -> int | None:
    """Returns the bytes per device that XLA plans for the training program (data, states, temporaries), if known."""
    analysis = programs.advance.memory_analysis()
    return None if analysis is None else Memory.of(analysis).total
