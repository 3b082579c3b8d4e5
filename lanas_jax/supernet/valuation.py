"""Values of subnetworks: accuracy on the search-validation split, many codes in one call, on all devices.

All subnetworks share weights, but they cannot share running batch statistics, which mix all subnetworks that fed a
layer. So batch statistics are measured for each code on training images, as in single-path one-shot search (arXiv
1904.00420): means and variances of each batch, averaged over batches. Codes are sharded over devices along an axis
``candidate``. On one device they run sequentially, so that only the selected operations are computed.

A supernet with several variants has a program for each, since a program of all would take the compile times of all
together. The codes of a call are then valued variant by variant, one code per device at a time.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lanas_jax.candidates.population import AXIS
from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import SearchData
from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.runtime.global_arrays import fetch_global, put_global
from lanas_jax.runtime.profiling import marked_step
from lanas_jax.runtime.program_memo import MEMO
from lanas_jax.supernet.base import HasVariants, Supernet
from lanas_jax.trainer.task import BatchStats, Weights
from lanas_jax.training.sgd import score_split

Images = Float[Array, "n h w c"]


class PartValues(NamedTuple):
    """Accuracies and losses of subnetworks on the search-validation split."""

    accuracy: Float[np.ndarray, " n"]  # in [0, 1]
    loss: Float[np.ndarray, " n"]  # mean cross entropy; not finite if any logit is not finite


@dataclasses.dataclass(frozen=True, eq=False)
class Valuation:
    """Values codes as subnetworks of a supernet.

    Args:
      supernet: supernet with the subnetworks.
      data: training and search-validation splits.
      recalibration: number of training images for measuring the batch statistics of each code, identical for all codes;
        0: running statistics of the supernet training.
      batch_size: images per forward pass.
      devices: devices to use; default: all devices of all processes, each of which calls the same methods in order.
      per_device: codes per device in one call of the program, 1 with several variants; shorter batches are padded.
      seed: random seed of the draw of training images.

    Raises:
      ValueError: `recalibration` is negative or exceeds the number of training images, or `batch_size` or `per_device`
        is less than 1.
    """

    supernet: Supernet
    data: SearchData
    recalibration: int = 512
    batch_size: int = 128
    devices: Sequence[jax.Device] | None = None
    per_device: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.recalibration <= len(self.data.train):
            raise ValueError(
                f"recalibration must be 0 to {len(self.data.train)}, the number of training images; "
                f"got {self.recalibration}"
            )
        for name in ("batch_size", "per_device"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    @in_32_bits
    @nan_is_data
    def __call__(self, weights: Weights, codes: Int[np.ndarray, "n dims"]) -> PartValues:
        """Values the subnetworks of `codes`; a program is compiled at its first call."""
        weights, own = self.place(weights), NamedSharding(self._mesh, PartitionSpec(AXIS))
        calls, width = [], self._mesh.size * self.per_call
        for supernet, rows in self._by_variant(codes):
            program = self._programs(supernet)[0]
            for part in np.split(rows, range(width, len(rows), width)):
                padded = codes[np.resize(part, width)].astype(np.int32)
                calls.append((part, program, padded))
        with marked_step("values"):
            found = fetch_global(
                [program(weights, put_global(padded, own), *self._placed) for _, program, padded in calls]
            )
        values = np.zeros((2, len(codes)), np.float32)
        for (part, _, _), columns in zip(calls, found, strict=True):
            values[:, part] = np.stack(columns)[:, : len(part)]
        return PartValues(*values)

    def _by_variant(self, codes: Int[np.ndarray, "n dims"]) -> list[tuple[Supernet, Int[np.ndarray, " rows"]]]:
        """Returns the supernet of each variant with the rows of its codes."""
        if not self.variants:
            return [(self.supernet, np.arange(len(codes)))]
        assert isinstance(self.supernet, HasVariants)
        variant = np.array([self.supernet.variant(code) for code in codes])
        return [(self.supernet.of_variant(one), np.flatnonzero(variant == one)) for one in np.unique(variant).tolist()]

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the programs; empty if there is only one."""
        names = self.supernet.variants if isinstance(self.supernet, HasVariants) else ()
        return names if len(names) > 1 else ()

    @property
    def per_call(self) -> int:
        """Codes per device in one call of a program."""
        return 1 if self.variants else self.per_device

    @in_32_bits
    @nan_is_data
    def statistics(self, weights: Weights, code: Int[np.ndarray | Array, " dims"]) -> BatchStats:
        """Returns the batch statistics used to value the subnetwork of `code`."""
        ((supernet, _),) = self._by_variant(np.asarray(code)[None])
        program = self._programs(supernet)[1]
        return program(self.place(weights), put_global(np.asarray(code), self._everywhere), self._placed[0])

    @in_32_bits
    def lower(self, variant: int = 0) -> jax.stages.Lowered:
        """Traces the valuation program, of a variant if there are several, with shapes in place of arrays."""
        height, width, channels = self.data.image_shape
        size, held_out = min(self.batch_size, self.recalibration) or 1, len(self.data.validation)
        batch = min(self.batch_size, held_out)
        codes, calibration, labels = (
            (self._mesh.size * self.per_call, self.supernet.space.dims),
            (self.recalibration // size, size, height, width, channels),
            (-(-held_out // batch), batch),
        )

        def shape(of: tuple[int, ...], dtype: DTypeLike, *axes: str) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(of, dtype, sharding=NamedSharding(self._mesh, PartitionSpec(*axes)))

        weights = jax.eval_shape(lambda key: Weights(*self.supernet.init(key)), jax.random.key(0))
        pixels = self.data.train.images.dtype
        supernet = self.supernet
        if self.variants:
            assert isinstance(supernet, HasVariants)
            supernet = supernet.of_variant(variant)
        return self._programs(supernet)[0].lower(
            jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), weights),
            shape(codes, jnp.int32, AXIS),
            shape(calibration, pixels),
            shape((*labels, height, width, channels), pixels),
            shape(labels, jnp.int32),
        )

    def place(self, weights: Weights) -> Weights:
        """Copies the weights to every device, unless they are there already."""
        placed: Weights = put_global(weights, self._everywhere)
        return placed

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        return mesh_of(self.devices if self.devices is not None else jax.devices(), AXIS)

    @property
    def _everywhere(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec())

    @functools.cached_property
    def _placed(self) -> tuple[Array, Array, Array]:
        """Calibration images, validation images and validation labels, in batches on every device."""
        train, held_out = self.data.train.images, self.data.validation
        rows = np.random.default_rng(self.seed).permutation(len(train))[: self.recalibration]
        size = min(self.batch_size, len(rows)) or 1
        calibration = train[rows[: len(rows) // size * size]].reshape(-1, size, *train.shape[1:])
        size = min(self.batch_size, len(held_out))
        padding = -len(held_out) % size
        images = np.pad(held_out.images, ((0, padding), (0, 0), (0, 0), (0, 0))).reshape(-1, size, *train.shape[1:])
        labels = np.pad(held_out.labels, (0, padding), constant_values=-1).reshape(-1, size)
        placed: tuple[Array, Array, Array] = put_global((calibration, images, labels), self._everywhere)
        return placed

    def _programs(self, supernet: Supernet) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
        """Returns the jitted functions, shared with valuations that differ only in images and batch sizes."""
        data = self.data
        method = Method(supernet, self.recalibration > 0, data.classes, len(data.validation), data.scaling)
        return MEMO.shared((method, self._mesh), lambda: method.jitted(self._mesh))[0]


@dataclasses.dataclass(frozen=True)
class Method:
    """The valuation of one code: everything that the programs depend on, except shapes.

    Attributes:
      supernet: supernet with the subnetworks.
      recalibrated: True if batch statistics are measured for each code.
      classes: number of classes.
      count: number of validation images.
      scaling: scaling of 8-bit images; None for float32 images.
    """

    supernet: Supernet
    recalibrated: bool
    classes: int
    count: int
    scaling: Scaling | None

    def jitted(self, mesh: jax.sharding.Mesh) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
        """Returns jitted `value` of many codes, sharded over devices, and jitted `statistics`."""

        def on_device(weights: Weights, codes: Array, *data: Array) -> tuple[Array, Array]:
            return lax.map(lambda code: self.value(weights, code, *data), codes)

        specs = (PartitionSpec(), PartitionSpec(AXIS), *(PartitionSpec(),) * 3)
        # Devices exchange nothing, so the varying-axes check has nothing to find.
        side_by_side = jax.shard_map(
            on_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
        )
        return jax.jit(side_by_side), jax.jit(self.statistics)

    def statistics(self, weights: Weights, code: Int[Array, " dims"], calibration: Array) -> BatchStats:
        """Returns the batch statistics of one code: means over batches of training images, or running statistics."""
        if not self.recalibrated:
            return weights.batch_stats

        def add(total: BatchStats, images: Array) -> tuple[BatchStats, None]:
            found = self.supernet.statistics(weights.params, code, self._scaled(images))
            return jax.tree.map(jnp.add, total, found), None

        total, _ = lax.scan(add, jax.tree.map(jnp.zeros_like, weights.batch_stats), calibration)
        return jax.tree.map(lambda x: x / calibration.shape[0], total)

    def value(
        self, weights: Weights, code: Int[Array, " dims"], calibration: Array, images: Array, labels: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns accuracy and loss of one code."""
        batch_stats = self.statistics(weights, code, calibration)

        def logits_of(images: Array) -> Array:
            return self.supernet.apply(weights.params, batch_stats, code, self._scaled(images), train=False)[0]

        correct, loss = score_split(logits_of, images, labels, self.classes)
        return correct.astype(jnp.float32) / self.count, loss / self.count

    def _scaled(self, images: Array) -> Images:
        return images if self.scaling is None else self.scaling(images)
