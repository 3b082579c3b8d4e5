"""The folder of an exported or extracted network, and its loading.

====================  =====================================================================
``architecture.json`` code, space, costs, accuracies, and the shape and scaling of images
``weights...``        ``weights.safetensors``, or the folder ``weights`` of orbax
``experiment.py``     the experiment's file, which builds the network
``load.py``           script that runs the network on a file of images, by `load`
====================  =====================================================================
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, PyTree, UInt8

from lanas_jax.data.scaling import Scaling
from lanas_jax.export.recorded import recorded_network
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage import config_json
from lanas_jax.storage import weights as by_name
from lanas_jax.storage.folder import FolderKind, RunError
from lanas_jax.storage.saving import not_read_back, not_written
from lanas_jax.storage.weights import AnyArray, filled, names
from lanas_jax.trainer.step import compute_logits
from lanas_jax.trainer.task import FinalNetwork, ReturnsFeatures, Weights

ARCHITECTURE = "architecture.json"
SOURCE = "experiment.py"
SAFETENSORS = "weights.safetensors"
ORBAX = "weights"
_TYPES = {
    "format": str,
    "code": list,
    "image_shape": list,
    "scaling": dict | None,
    "weights": str,
    "home": str | None,
    "source": str | None,
    "config": dict | None,
    "settings": dict | None,
    "working_folder": str | None,
}
_EXPORTED = FolderKind("exported network", ARCHITECTURE, None, frozenset(_TYPES.keys() - {"working_folder"}), _TYPES)
# The keys that the record of a language model has too.
_BOTH = {name: kind for name, kind in _TYPES.items() if name not in ("image_shape", "scaling")}
EITHER = FolderKind("exported network", ARCHITECTURE, None, frozenset(_BOTH.keys() - {"working_folder"}), _BOTH)


class MissingPackageError(Exception):
    """A required package is not installed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """A trained network, callable on images.

    Attributes:
      architecture: content of architecture.json.
      network: network built from the experiment's file.
      weights: trained weights of the network.
      scaling: scaling of 8-bit images; None if the network reads float32 images.
    """

    architecture: Mapping[str, Any]
    network: FinalNetwork
    weights: Weights
    scaling: Scaling | None

    @in_32_bits
    def __call__(self, images: UInt8[np.ndarray, "n h w c"] | Float32[np.ndarray, "n h w c"]) -> Float[Array, "n k"]:
        """Returns the logits of images: ``uint8[n, h, w, c]`` if the network has a scaling, else float32.

        Raises:
          ValueError: the images have another dtype or shape than the training images.
        """
        shape = tuple(self.architecture["image_shape"])
        if images.dtype != self.dtype or images.shape[1:] != shape:
            raise ValueError(
                f"images must be {self.dtype} of shape [n, {', '.join(map(str, shape))}]; "
                f"got {images.dtype} of shape {list(images.shape)}"
            )
        return self._read(self.weights, images)

    @in_32_bits
    def features(
        self, images: UInt8[np.ndarray, "n h w c"] | Float32[np.ndarray, "n h w c"]
    ) -> tuple[Float[Array, "n rows columns features"], ...]:
        """Returns the last feature map of each resolution, from fine to coarse, for detection and segmentation.

        To train the network as well, differentiate ``network.features(params, batch_stats, scaling(images))``.

        Args:
          images: images as for a call, but of any height and width.

        Raises:
          ValueError: the images have another dtype or number of channels than the training images, or the network
            returns no features.
        """
        channels = self.architecture["image_shape"][-1]
        if images.dtype != self.dtype or images.ndim != 4 or images.shape[-1] != channels:
            raise ValueError(
                f"images must be {self.dtype} of shape [n, height, width, {channels}]; "
                f"got {images.dtype} of shape {list(images.shape)}"
            )
        return self._read_features(self.weights, images)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of images: uint8 if the network has a scaling, else float32."""
        return np.dtype(np.float32 if self.scaling is None else np.uint8)

    @functools.cached_property
    def _read(self) -> Any:
        return jax.jit(lambda weights, images: compute_logits(self.network, weights, images, self.scaling))

    @functools.cached_property
    def _read_features(self) -> Any:
        network, scale = self.network, self.scaling or (lambda images: images)
        if not isinstance(network, ReturnsFeatures):
            raise ValueError(f"{type(network).__name__} returns no features: it has no method features")
        return jax.jit(lambda weights, images: network.features(weights.params, weights.batch_stats, scale(images)))


@in_32_bits
def load(directory: Path | str) -> Exported:
    """Loads the network in a folder written by ``lanas export`` or ``lanas extract``. The dataset is not needed.

    Raises:
      RunError: the folder holds no network, or its weights do not fit the network.
      ExperimentError, ConfigError: experiment.py no longer builds the network.
      MissingPackageError: the package that reads the weights is not installed.
    """
    directory = local_path(directory).absolute()
    architecture, network = read_network(directory)
    like = jax.eval_shape(lambda key: Weights(*network.init(key)), jax.random.key(0))
    return Exported(architecture, network, _filled(like, read_weights(directory), directory), scaling_of(architecture))


def read_network(directory: Path) -> tuple[Mapping[str, Any], FinalNetwork]:
    """Returns the content of architecture.json and the network, without its weights.

    Raises:
      RunError, ExperimentError, ConfigError: as in `load`.
    """
    if "test_bits" in EITHER.read(directory):
        raise RunError(f"{directory} holds a language model: read it with lanas_jax.export.language.load_language")
    architecture = _EXPORTED.read(directory)
    if architecture["format"] not in ("safetensors", "orbax"):
        raise RunError(f"{directory} holds a program of format {architecture['format']}: run its load.py")
    return architecture, recorded_network(directory / SOURCE, architecture)


def scaling_of(architecture: Mapping[str, Any]) -> Scaling | None:
    """Returns the scaling of 8-bit images in the content of architecture.json."""
    recorded = architecture["scaling"]
    return None if recorded is None else config_json.read_config(Scaling, recorded)


def write_weights(directory: Path, weights: PyTree[AnyArray], kind: str) -> None:
    """Writes weights by name, in the format ``safetensors`` or ``orbax``.

    Raises:
      MissingPackageError: the package is not installed.
      CheckpointError: the weights cannot be written, or differ when they are read back.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in names(weights).items()}
    if kind == "safetensors":
        package = _safetensors()
        try:
            package.save_file(arrays, directory / SAFETENSORS)
            intact = by_name.digest_by_name(read_weights(directory)) == by_name.digest_by_name(arrays)
        except Exception as error:  # safetensors has its own exception type
            raise not_written(directory / SAFETENSORS, error) from error
        if not intact:
            raise not_read_back(directory / SAFETENSORS)
        return
    by_name.save_weights(directory / ORBAX, arrays)


def read_weights(directory: Path) -> dict[str, np.ndarray]:
    """Reads weights by name, in either format.

    Raises:
      RunError: the folder holds no weights, or they are damaged.
      MissingPackageError: the package is not installed.
    """
    directory = local_path(directory)
    if (directory / SAFETENSORS).exists():
        try:
            return dict(_safetensors().load_file(directory / SAFETENSORS))
        except (MissingPackageError, OSError):
            raise
        except Exception as error:  # safetensors has its own exception type
            raise RunError(f"{directory / SAFETENSORS} is damaged: {error}") from error
    if not (directory / ORBAX).exists():
        raise RunError(f"{directory} holds no weights: expected {SAFETENSORS} or {ORBAX}")
    return by_name.load_weights(directory / ORBAX)


def _safetensors() -> Any:
    """Imports safetensors' functions for NumPy arrays."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise MissingPackageError(
            "safetensors is not installed: pip install 'lanas-jax[export]', or use --format orbax"
        ) from error
    return safetensors.numpy


def _filled(like: Weights, found: Mapping[str, np.ndarray], directory: Path) -> Weights:
    """Returns the tree with its leaves replaced by the weights read from a file."""
    try:
        return filled(like, found)
    except ValueError as error:
        raise RunError(f"the weights in {directory} do not fit its network: {error}") from error
