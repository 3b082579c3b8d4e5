"""Training on images that are copied to every device, with many steps in one call of the program."""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from lanas_jax.data.splits import SearchData, Split
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.trainer.programs import Advance, Programs, _lowered, task_of
from lanas_jax.trainer.sharding import placed
from lanas_jax.trainer.step import FinalState
from lanas_jax.trainer.task import AuxiliaryInputs, Training, Weights


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory:
    """A `BatchSource` of images that every device holds.

    Attributes:
      images: training images and labels.
      right: function that counts the correctly classified images of a split; compiled at the first call.
    """

    images: tuple[Array, Array]
    right: Callable[[AuxiliaryInputs, Weights, Array, Array], Array]

    @property
    def count(self) -> int:
        """The number of training images."""
        return len(self.images[1])

    def session(self, programs: Programs, step: int) -> contextlib.AbstractContextManager[Advance]:
        """Returns an `Advance` whose every call runs the program once, for up to `steps_per_dispatch` steps."""
        return contextlib.nullcontext(_Dispatch(programs, self.images))

    def accuracy(self, programs: Programs, weights: Weights, split: Split) -> float:
        """Returns the accuracy on a split, in [0, 1]."""
        size = programs.task.recipe.batch_size
        padding = -len(split) % size
        labels = np.pad(split.labels, (0, padding), constant_values=-1).reshape(-1, size)
        images = np.pad(split.images, ((0, padding), (0, 0), (0, 0), (0, 0))).reshape(-1, size, *split.images.shape[1:])
        batches = placed((images, labels), programs.everywhere)
        return int(self.right(programs.data, weights, *batches)) / len(split)


@dataclasses.dataclass(frozen=True, eq=False)
class _Dispatch:
    """The `Advance` of an `InMemory` source."""

    programs: Programs
    images: tuple[Array, Array]
    waited: float = 0.0

    def __call__(
        self, state: FinalState, until: int, preemption: Preemption
    ) -> tuple[FinalState, Float[Array, " steps"]]:
        programs = self.programs
        bounds = placed((np.int32(programs.total), np.int32(until)), programs.everywhere)
        found = programs.program(programs.data, state, programs.keys[1], *bounds, *self.images)
        preemption.reached()
        return found


def lowered_steps(final: Training, mesh: Mesh, data: SearchData) -> jax.stages.Lowered:
    """Lowers one dispatch of a training on images in memory, from shapes alone.

    Args:
      final: training to lower.
      mesh: mesh with the axis ``data``; its devices need not exist on this machine.
      data: dataset; only its sizes, shapes and dtypes are read.
    """
    count = len(data.train) + (len(data.validation) if final.recipe.train_on == "all" else 0)
    images = jax.ShapeDtypeStruct((count, *data.image_shape), data.train.images.dtype)
    task = task_of(final, mesh, data.classes, data.scaling)
    return _lowered(task, (images, jax.ShapeDtypeStruct((count,), np.int32)))
