"""A stage of an experiment as a program to be compiled: how to trace it for some devices, and how often it runs.

An experiment offers ``stages(config) -> tuple[Stage, ...]``. `lanas_jax.planning.stages` makes those of the trainings
and valuations there are. No image is read: `stand_in` has the shapes of a dataset and none of its bytes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import SearchData, Split


class TracedProgram(NamedTuple):
    """A stage's program, traced for some devices.

    The compiler counts operations and bytes of a loop's body once, whatever the number of its rounds, and of a
    conditional those of its most expensive branch. So everything is per step, a round of the innermost loop that reads
    a batch.
    """

    lowered: jax.stages.Lowered
    devices: int  # that it runs on
    steps: int  # of the whole stage, one after the other
    multiply_adds: float | None  # of a step on one device; None: unknown
    counted: float = 1.0  # steps in what the compiler counts


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A part of an experiment that devices spend their time on.

    Attributes:
      name: in words.
      batch_size: images in a step.
      setting: what to change the batch size by.
      program: traces it for devices and a batch size.
      shared: whether the devices share a batch; else each has one of its own.

    Raises:
      ValueError: (of `program`) a batch that cannot be shared equally.
    """

    name: str
    batch_size: int
    setting: str
    program: Callable[[Sequence[jax.Device], int], TracedProgram]
    shared: bool = True

    def unit(self, devices: int) -> int:
        """What a batch size is a multiple of."""
        return devices if self.shared else 1


def stand_in(
    train: int,
    validation: int,
    image_shape: tuple[int, int, int],
    classes: int,
    dtype: type[np.uint8] | type[np.float32] = np.uint8,
) -> SearchData:
    """A dataset's shapes: images that are all one number, which takes no memory.

    Args:
      train: number of training images.
      validation: number of search-validation images.
      image_shape: height, width, channels.
      classes: number of classes.
      dtype: of the images; those of 8 bits are scaled when they are read.
    """

    def split(count: int) -> Split:
        images = np.broadcast_to(dtype(0), (count, *image_shape))
        return Split(images, np.broadcast_to(np.int32(0), (count,)))

    channels = image_shape[2]
    scaling = Scaling((0.5,) * channels, (0.25,) * channels) if dtype is np.uint8 else None
    return SearchData(split(train), split(validation), classes, scaling)
