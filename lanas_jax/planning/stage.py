"""A stage of an experiment as a program to compile: its tracing for given devices, and its number of steps.

An experiment defines ``stages(config) -> tuple[Stage, ...]``. `lanas_jax.planning.stages` makes the stages of the
built-in trainings and valuations. No image is read: `stand_in` has the shapes of a dataset without its data.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from lanas_jax.data.crops import Crop
from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.training.augmentation import Augmentation


class TracedProgram(NamedTuple):
    """The program of a stage, traced for given devices.

    A step is one iteration of the innermost loop that reads a batch. The compiler counts the operations of a loop once,
    whatever its number of iterations; the costs of `lanas_jax.planning.costs` are those of a whole call.
    """

    lowered: jax.stages.Lowered
    devices: int  # number of devices
    steps: int  # sequential steps of the whole stage
    multiply_adds: float | None  # per step on one device; None: unknown
    counted: float = 1.0  # number of steps that the compiler's count of operations covers
    steps_per_call: int = 1  # number of steps of one call of the program
    rounds: tuple[float, ...] = (1.0,)  # iterations of loops whose length depends on data, from the outermost inwards
    name: str = ""  # name of a program that takes a part of a step
    calls: float = 1.0  # mean number of its calls per step of the stage


@dataclasses.dataclass(frozen=True)
class StreamedInput:
    """How the input workers of a stage read an image.

    Args:
      crop: crop settings.
      augmentation: augmentation of the training; workers do the part that moves or looks up pixels.
      pictures: function that returns some encoded images of the dataset, or raises an error if it is not there; None
        for synthetic images.
    """

    crop: Crop
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    pictures: Callable[[], Sequence[bytes]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A part of an experiment that uses the devices.

    Attributes:
      name: name of the stage.
      batch_size: images per step.
      setting: name of the setting for the batch size.
      program: function that traces the stage for devices and a batch size: one program, or several ones that together
        take a step; raises ValueError if the batch size is not divisible by the number of devices.
      shared: True if the devices share a batch, False if each device has its own.
      reading: way in which input workers read the images of a streamed dataset; None if it is unknown, or if images are
        in memory.
    """

    name: str
    batch_size: int
    setting: str
    program: Callable[[Sequence[jax.Device], int], TracedProgram | tuple[TracedProgram, ...]]
    shared: bool = True
    reading: StreamedInput | None = None

    def only(self, name: str) -> "Stage":
        """Returns the stage with only one of the programs that take a step, and without its input.

        Its `program` raises ValueError if the stage has no program of this name.
        """

        def program(devices: Sequence[jax.Device], batch_size: int) -> TracedProgram:
            found = self.program(devices, batch_size)
            programs = {one.name: one for one in ((found,) if isinstance(found, TracedProgram) else found) if one.name}
            if name not in programs:
                there = f"choose from {'; '.join(programs)}" if programs else "it is one program without a name"
                raise ValueError(f"{self.name} has no program {name!r}: {there}")
            return programs[name]

        return dataclasses.replace(self, program=program, reading=None)

    def unit(self, devices: int) -> int:
        """Returns the number that divides every valid batch size."""
        return devices if self.shared else 1


def stand_in(
    train: int,
    validation: int,
    image_shape: tuple[int, int, int],
    classes: int,
    dtype: type[np.uint8] | type[np.float32] = np.uint8,
) -> SearchData:
    """Returns data with the shapes of a dataset: constant images that take no memory.

    Args:
      train: number of training images.
      validation: number of search-validation images.
      image_shape: height, width and channels of an image.
      classes: number of classes.
      dtype: dtype of the images; uint8 images have a scaling, as in a real dataset.
    """

    def split(count: int) -> Split:
        images = np.broadcast_to(dtype(0), (count, *image_shape))
        return Split(images, np.broadcast_to(np.int32(0), (count,)))

    channels = image_shape[2]
    scaling = Scaling((0.5,) * channels, (0.25,) * channels) if dtype is np.uint8 else None
    return SearchData(split(train), split(validation), classes, scaling)
