"""What a network may learn from beside labels (distillation, arXiv 1503.02531): three kinds of teachers.

- `NetworkTeacher`: a network as `lanas_jax.trainer` trains them, with weights, such as those of an export.
- `ModuleTeacher`: a Flax NNX module.
- `SavedLogits`: logits of the training images, computed before.

The first two see the images that the network sees, augmented, at each step (arXiv 2106.05237 finds that this matters);
they run as in evaluation and are not trained. Saved logits are of images as they are stored. Where images are mixed
(mixup, cutmix), their distributions are mixed as the labels are. How much a teacher counts is the recipe's business.
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
from lanas_jax.storage import weights as by_name
from lanas_jax.storage.checkpoints import digest
from lanas_jax.storage.weights import AnyArray
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalNetwork, Teacher, Weights, data_of, with_data


@dataclasses.dataclass(frozen=True)
class NetworkTeacher:
    """A network with its weights. Two are equal where their networks are: weights are data to the program they share.

    Args:
      network: gives the logits; an auxiliary head plays no part.
      weights: all of them, by name (`lanas_jax.export.load.read_weights` reads those of an export).
    """

    network: FinalNetwork
    weights: Mapping[str, AnyArray | Array] = dataclasses.field(compare=False)

    @property
    def data(self) -> PyTree[AnyArray]:
        """The weights, and what the network reads beside images."""
        return dict(self.weights), data_of(self.network)

    def with_data(self, data: PyTree[AnyArray]) -> "NetworkTeacher":
        """The same with others."""
        weights, beside = data
        return NetworkTeacher(with_data(self.network, beside), weights)

    def known(self, rows: Int[Array, " n"]) -> None:
        """Nothing."""
        del rows

    def logits(self, images: Float[Array, "n height width channels"]) -> Float[Array, "n classes"]:
        """Its logits, by its running batch statistics."""
        weights = by_name.filled(self._shapes, self.weights)
        key = jax.random.key(0)  # of what is dropped: nothing is
        return self.network.apply(*weights, images, train=False, key=key, drop_path=jnp.float32(0))[0]

    def check(self, data: SearchData | StreamedDataset, recipe: Recipe) -> None:
        """Raises ValueError where weights do not fit the network, or the network not the classes."""
        del recipe
        try:
            by_name.check_weights(self._shapes, self.weights)
        except ValueError as error:
            raise ValueError(f"the teacher's {error}") from error
        _check_classes(self, data)

    def identity(self) -> dict[str, str]:
        """Its kind, and a digest of its weights."""
        return {"network": type(self.network).__name__, "weights": by_name.digest_by_name(self.weights)}

    @property
    def _shapes(self) -> Weights:
        return jax.eval_shape(lambda key: Weights(*self.network.init(key)), jax.random.key(0))


def stand_in(network: FinalNetwork) -> NetworkTeacher:
    """A teacher whose weights are all zero, which takes no memory: for programs that are traced and not run."""
    shapes = jax.eval_shape(lambda key: Weights(*network.init(key)), jax.random.key(0))
    zeros = {name: np.broadcast_to(leaf.dtype.type(0), leaf.shape) for name, leaf in by_name.names(shapes).items()}
    return NetworkTeacher(network, zeros)


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleTeacher:
    """A Flax NNX module from images ``[n, height, width, channels]``, scaled, to logits ``[n, classes]``.

    Args:
      module: with its variables; it is run in its mode of evaluation and stays as it is.
      variables: others in place of its own, as a pure dict; None: its own.
    """

    module: nnx.Module
    variables: PyTree[AnyArray | Array] | None = None

    @property
    def data(self) -> PyTree[AnyArray]:
        """Its variables, random number generators apart."""
        return nnx.to_pure_dict(nnx.state(self.module, nnx.Not(nnx.RngState)))

    def with_data(self, data: PyTree[AnyArray]) -> "ModuleTeacher":
        """The same with others."""
        return ModuleTeacher(self.module, data)

    def known(self, rows: Int[Array, " n"]) -> None:
        """Nothing."""
        del rows

    def logits(self, images: Float[Array, "n height width channels"]) -> Float[Array, "n classes"]:
        """What the module gives."""
        graph, random = nnx.graphdef(self.module), nnx.state(self.module, nnx.RngState)
        copy: Any = nnx.merge(graph, random, self.data if self.variables is None else self.variables)
        copy.eval()
        return copy(images)

    def check(self, data: SearchData | StreamedDataset, recipe: Recipe) -> None:
        """Raises ValueError where it does not fit the classes."""
        del recipe
        _check_classes(self, data)

    def identity(self) -> dict[str, str]:
        """Its class, and a digest of its variables."""
        return {
            "module": type(self.module).__name__,
            "weights": by_name.digest_by_name(by_name.names(self.data)),
        }


@dataclasses.dataclass(frozen=True)
class SavedLogits:
    """Logits of all training images. Two are equal, whatever they are: they share programs, which logits are data to.

    Args:
      values: a row for each image, in the order of the training split, after which those of the search-validation
        images follow where the recipe trains on these, too. float16 takes half the memory of the device.
    """

    values: Float[np.ndarray | Array, "images classes"] = dataclasses.field(compare=False)

    @property
    def data(self) -> PyTree[AnyArray]:
        """The logits."""
        return self.values

    def with_data(self, data: PyTree[AnyArray]) -> "SavedLogits":
        """The same with others."""
        return SavedLogits(data)

    def known(self, rows: Int[Array, " n"]) -> Float[Array, "n classes"]:
        """Logits of these images."""
        return jnp.asarray(self.values)[rows]

    def logits(self, images: Float[Array, "n height width channels"]) -> Float[Array, "n classes"]:
        """Raises TypeError: it knows images by their numbers alone."""
        raise TypeError("saved logits belong to images by their numbers, and a batch came without them")

    def check(self, data: SearchData | StreamedDataset, recipe: Recipe) -> None:
        """Raises ValueError where they are of other images or other classes, not finite, or the images a stream."""
        if isinstance(data, StreamedDataset):
            raise ValueError("saved logits belong to images in memory; of a stream, let a network be the teacher")
        count = len(data.train) + (len(data.validation) if recipe.train_on == "all" else 0)
        if len(self.values) != count:
            which = "train and search-validation" if recipe.train_on == "all" else "train"
            raise ValueError(
                f"the teacher's logits are of {len(self.values):,} images, expected {count:,}: the {which} images, "
                f"on which train_on={recipe.train_on!r} trains"
            )
        _check_number(self.values.shape[1], data.classes)
        if not np.isfinite(self.values).all():
            raise ValueError("the teacher's logits hold NaN or infinite values")

    def identity(self) -> dict[str, str]:
        """A digest of them."""
        return {"logits": digest([np.asarray(self.values)])}


def read_logits(path: Path) -> SavedLogits:
    """Logits from an ``.npz`` file, its array ``logits``, ``[images, classes]`` of float16 or float32.

    Raises:
      FileError: no such file or array, or an array of another kind.
    """
    values = read_npz(path, ("logits",))["logits"]
    if values.ndim != 2 or values.dtype not in (np.float16, np.float32):
        raise FileError(
            f"{path}: expected logits, float16 or float32[images, classes]; "
            f"found {values.dtype} of shape {values.shape}"
        )
    return SavedLogits(values)


def _check_classes(teacher: Teacher, data: SearchData | StreamedDataset) -> None:
    images = jax.ShapeDtypeStruct((1, *data.image_shape), jnp.float32)
    _check_number(jax.eval_shape(teacher.logits, images).shape[1], data.classes)


def _check_number(found: int, classes: int) -> None:
    if found != classes:
        raise ValueError(f"the teacher tells {found:,} classes apart, the images are of {classes:,}")
