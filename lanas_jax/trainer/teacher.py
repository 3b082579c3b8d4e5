"""Three kinds of teachers for distillation (arXiv 1503.02531).

- `NetworkTeacher`: a network of `lanas_jax.trainer` with trained weights, such as those of an export.
- `ModuleTeacher`: a Flax NNX module.
- `SavedLogits`: precomputed logits of the training images.

The first two are evaluated at each step on the augmented images that the network receives (arXiv 2106.05237 finds that
this matters). They run in evaluation mode and are not trained. Saved logits belong to the stored images, before
augmentation. When images are mixed (mixup, cutmix), the saved distributions are mixed like the labels. The weight of
the teacher's loss is a setting of the recipe.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from lanas_jax.data.splits import SearchData
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import read_npz
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage import weights as by_name
from lanas_jax.storage.saving import digest
from lanas_jax.storage.weights import AnyArray
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalNetwork, Teacher, Weights, data_of, with_data


@dataclasses.dataclass(frozen=True)
class NetworkTeacher:
    """A network with its weights.

    Two teachers are equal if their networks are: weights are inputs of the program that they share.

    Args:
      network: network that computes the logits; its auxiliary head is not used.
      weights: all weights by name (`lanas_jax.export.load.read_weights` reads those of an export).
    """

    network: FinalNetwork
    weights: Mapping[str, AnyArray | Array] = dataclasses.field(compare=False)

    @property
    def data(self) -> PyTree[AnyArray]:
        """The weights, and the auxiliary inputs of the network."""
        return dict(self.weights), data_of(self.network)

    def with_data(self, data: PyTree[AnyArray]) -> "NetworkTeacher":
        """Returns the teacher with other weights and auxiliary inputs."""
        weights, beside = data
        return NetworkTeacher(with_data(self.network, beside), weights)

    def known(self, rows: Int[Array, " n"]) -> None:
        """Returns None: the logits are computed from augmented images."""
        del rows

    def logits(self, images: Float[Array, "n height width channels"]) -> Float[Array, "n classes"]:
        """Returns the network's logits, using its running batch statistics."""
        weights = by_name.filled(self._shapes, self.weights)
        key = jax.random.key(0)  # unused: no paths are dropped in evaluation mode
        return self.network.apply(*weights, images, train=False, key=key, drop_path=jnp.float32(0))[0]

    def check(self, data: SearchData | StreamedDataset, recipe: Recipe) -> None:
        """Raises ValueError if the weights do not fit the network, or the network does not fit images or classes."""
        del recipe
        try:
            by_name.check_weights(self._shapes, self.weights)
        except ValueError as error:
            raise ValueError(f"the teacher's {error}") from error
        _check_images(self, data)

    def identity(self) -> dict[str, str]:
        """Returns the network's class name and a digest of the weights."""
        return {"network": type(self.network).__name__, "weights": by_name.digest_by_name(self.weights)}

    @property
    def _shapes(self) -> Weights:
        return jax.eval_shape(lambda key: Weights(*self.network.init(key)), jax.random.key(0))


def stand_in(network: FinalNetwork) -> NetworkTeacher:
    """Returns a teacher with zero weights that take no memory, for programs that are traced but not run."""
    shapes = jax.eval_shape(lambda key: Weights(*network.init(key)), jax.random.key(0))
    zeros = {name: np.broadcast_to(leaf.dtype.type(0), leaf.shape) for name, leaf in by_name.names(shapes).items()}
    return NetworkTeacher(network, zeros)


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleTeacher:
    """A Flax NNX module from scaled images ``[n, height, width, channels]`` to logits ``[n, classes]``.

    Args:
      module: module with its variables. A copy is run in evaluation mode; the module itself does not change.
      variables: variables that replace the module's own, as a pure dict; None uses the module's own.
    """

    module: nnx.Module
    variables: PyTree[AnyArray | Array] | None = None

    @property
    def data(self) -> PyTree[AnyArray]:
        """The variables, without random number generators."""
        if self.variables is not None:
            return self.variables
        return nnx.to_pure_dict(nnx.state(self.module, nnx.Not(nnx.RngState)))

    def with_data(self, data: PyTree[AnyArray]) -> "ModuleTeacher":
        """Returns the teacher with other variables."""
        return ModuleTeacher(self.module, data)

    def known(self, rows: Int[Array, " n"]) -> None:
        """Returns None: the logits are computed from augmented images."""
        del rows

    def logits(self, images: Float[Array, "n height width channels"]) -> Float[Array, "n classes"]:
        """Returns the module's logits."""
        graph, random = nnx.graphdef(self.module), nnx.state(self.module, nnx.RngState)
        copy: Any = nnx.merge(graph, random, self.data)
        copy.eval()
        return copy(images)

    def check(self, data: SearchData | StreamedDataset, recipe: Recipe) -> None:
        """Raises ValueError if the module does not take the images or has another number of classes."""
        del recipe
        _check_images(self, data)

    def identity(self) -> dict[str, str]:
        """Returns the module's class name and a digest of its variables."""
        return {
            "module": type(self.module).__name__,
            "weights": by_name.digest_by_name(by_name.names(self.data)),
        }


@dataclasses.dataclass(frozen=True)
class SavedLogits:
    """Precomputed logits of all training images.

    All instances are equal, since the logits are inputs of the program that they share.

    Args:
      values: one row per image, in the order of the training split, followed by the search-validation images if the
        recipe trains on them too. float16 takes half the device memory.
    """

    values: Float[np.ndarray | Array, "images classes"] = dataclasses.field(compare=False)

    @property
    def data(self) -> PyTree[AnyArray]:
        """The logits, ``[images, classes]``."""
        return self.values

    def with_data(self, data: PyTree[AnyArray]) -> "SavedLogits":
        """Returns the teacher with other logits."""
        return SavedLogits(data)

    def known(self, rows: Int[Array, " n"]) -> Float[Array, "n classes"]:
        """Returns the logits of the training images with the given indices."""
        return jnp.asarray(self.values)[rows]

    def logits(self, images: Float[Array, "n height width channels"]) -> Float[Array, "n classes"]:
        """Raises TypeError: saved logits are found by image index, not computed from images."""
        raise TypeError("saved logits need the indices of the training images; got a batch of images: call known(rows)")

    def check(self, data: SearchData | StreamedDataset, recipe: Recipe) -> None:
        """Raises ValueError if logits are not finite or do not fit images or classes, or if images are streamed."""
        if isinstance(data, StreamedDataset):
            raise ValueError("saved logits need images in memory; got streamed images: use a network as the teacher")
        count = len(data.train) + (len(data.validation) if recipe.train_on == "all" else 0)
        if len(self.values) != count:
            which = "train and search-validation" if recipe.train_on == "all" else "train"
            raise ValueError(
                f"the teacher's logits are of {len(self.values):,} images, expected {count:,}: the {which} images, "
                f"since train_on is {recipe.train_on!r}"
            )
        _check_number(self.values.shape[1], data.classes)
        if not np.isfinite(self.values).all():
            raise ValueError("the teacher's logits hold NaN or infinite values; expected finite values")

    def identity(self) -> dict[str, str]:
        """Returns a digest of the logits."""
        return {"logits": digest([np.asarray(self.values)])}


def read_logits(path: Path) -> SavedLogits:
    """Reads logits from an ``.npz`` file: its array ``logits``, float16 or float32 ``[images, classes]``.

    Raises:
      FileError: the file or the array is missing, or the array has another rank or dtype.
    """
    path = local_path(path)
    values = read_npz(path, ("logits",))["logits"]
    if values.ndim != 2 or values.dtype not in (np.float16, np.float32):
        raise FileError(
            f"{path}: expected logits, float16 or float32[images, classes]; "
            f"found {values.dtype} of shape {values.shape}"
        )
    return SavedLogits(values)


def _check_images(teacher: Teacher, data: SearchData | StreamedDataset) -> None:
    images = jax.ShapeDtypeStruct((1, *data.image_shape), jnp.float32)
    try:
        logits = jax.eval_shape(teacher.logits, images)
    except (TypeError, ValueError) as error:
        size = " x ".join(map(str, data.image_shape))
        raise ValueError(f"the teacher does not take images of {size}: {str(error).splitlines()[0]}") from error
    _check_number(logits.shape[1], data.classes)


def _check_number(found: int, classes: int) -> None:
    if found != classes:
        raise ValueError(f"the teacher has {found:,} classes, expected {classes:,}, the number of the images' classes")
