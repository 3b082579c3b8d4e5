"""The space of AttentiveNAS (arXiv 2011.09011) and AlphaNet (arXiv 2102.07954): stages elastic in width and depth.

A network has a stem, seven stages of inverted residuals, and the head of MobileNetV3. A code holds the resolution, the
width of the stem, then for each stage its width, depth, kernel and expansion, which all layers of the stage share, and
the width of the head. There are ``4 * 2 * 8 * 36 * 48 * 48 * 108 * 48 * 8 * 2``, or 4.4e11, networks of 203 million to
1.94 billion multiply-adds. A shortcut leads around every block: where a block changes size or channels, it averages
pixels and projects channels (`Block.connected`). As in the published code, squeeze-and-excitation has a quarter of the
expanded channels, and the 1x1 convolution of the head six times the last stage's.

`inverted_residuals.py` defines the layers. A network's cost is the cost of its stem, of its stages and of its head. The
cost of a stage depends on its options and on the width before it, so costs are sums of entries of small tables, exact
on devices, too.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.spaces.base import Codes, Cost, LimitedCost, SearchSpace
from lanas_jax.spaces.choices import Choice
from lanas_jax.spaces.exact import carry_digits, check_countable, digits, exceeds, integers, nearest_floats
from lanas_jax.spaces.inverted_residuals import Block, MobileNet, halved, head_cost, rounded, stem_cost

SQUEEZE = 4  # expanded channels per bottleneck channel of squeeze-and-excitation
LAST = 6  # channels of the convolution after the last stage per channel of that stage
OPTIONS = ("width", "depth", "kernel", "expansion")  # choices of a stage, in the order of a code


@dataclasses.dataclass(frozen=True)
class ElasticStage:
    """Options and settings of a stage.

    Attributes:
      widths: possible numbers of output channels, ascending.
      depths: possible numbers of layers, ascending.
      expansions: possible expansion ratios of all layers, ascending; 1, as the only one, for no expanding convolution.
      stride: stride of the first layer.
      squeezes: squeeze-and-excitation in all layers.
      kernels: possible sides of the depthwise kernels of all layers, ascending.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    expansions: tuple[int, ...]
    stride: int
    squeezes: bool = False
    kernels: tuple[int, ...] = (3, 5)


STAGES = (
    ElasticStage((16, 24), (1, 2), (1,), 1),
    ElasticStage((24, 32), (3, 4, 5), (4, 5, 6), 2),
    ElasticStage((32, 40), (3, 4, 5, 6), (4, 5, 6), 2, squeezes=True),
    ElasticStage((64, 72), (3, 4, 5, 6), (4, 5, 6), 2),
    ElasticStage((112, 120, 128), (3, 4, 5, 6, 7, 8), (4, 5, 6), 1, squeezes=True),
    ElasticStage((192, 200, 208, 216), (3, 4, 5, 6, 7, 8), (6,), 2, squeezes=True),
    ElasticStage((216, 224), (1, 2), (6,), 1, squeezes=True),
)
RESOLUTIONS = (192, 224, 256, 288)


class StageCodes(NamedTuple):
    """A batch of codes, choice by choice, as indices of options."""

    resolution: Int[Array | np.ndarray, " n"]
    stem: Int[Array | np.ndarray, " n"]
    width: Int[Array | np.ndarray, "n stages"]
    depth: Int[Array | np.ndarray, "n stages"]
    kernel: Int[Array | np.ndarray, "n stages"]
    expansion: Int[Array | np.ndarray, "n stages"]
    head: Int[Array | np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class AttentiveSpace(SearchSpace):
    """Networks of stages whose layers are alike.

    All codes build different networks. A larger option of any choice gives a network that contains the one of the
    smaller option.

    Args:
      stages: stages from stem to head.
      resolutions: possible heights and widths of the images, in pixels, ascending.
      stems: possible channels of the stem, ascending.
      heads: possible channels of the dense layer before the classifier, ascending.
      stem_stride: stride of the stem.
      image_channels: number of image channels.
      classes: number of classes.
      max_multiply_adds: hard limit on the multiply-adds of one image's forward pass; part of `valid`.
      max_parameters: hard limit on the trainable parameters; part of `valid`.

    Raises:
      ValueError: if the settings are invalid or too large to count the costs, or a limit is below the smallest network.
    """

    doubts_scales: ClassVar[bool] = False  # sizes of layers and networks order the values

    stages: tuple[ElasticStage, ...]
    resolutions: tuple[int, ...]
    stems: tuple[int, ...]
    heads: tuple[int, ...]
    stem_stride: int
    image_channels: int
    classes: int
    max_multiply_adds: int | None
    max_parameters: int | None

    def __init__(
        self,
        stages: Sequence[ElasticStage] = STAGES,
        *,
        resolutions: Sequence[int] = RESOLUTIONS,
        stems: Sequence[int] = (16, 24),
        heads: Sequence[int] = (1792, 1984),
        stem_stride: int = 2,
        image_channels: int = 3,
        classes: int = 1000,
        max_multiply_adds: int | None = None,
        max_parameters: int | None = None,
    ):
        settings = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        for name, value in settings.items():
            object.__setattr__(self, name, tuple(value) if isinstance(value, Sequence) else value)
        _check_settings(self)
        choices = [Choice("resolution", self.resolutions, ordered=True), Choice("stem width", self.stems, ordered=True)]
        for s, stage in enumerate(self.stages):
            choices += [Choice(f"stage {s} {name}", getattr(stage, f"{name}s"), ordered=True) for name in OPTIONS]
        super().__init__([*choices, Choice("head width", self.heads, ordered=True)])
        check_countable(*self.network(self.cardinalities - 1).cost)
        smallest, largest = (self.network(np.array(self.named_codes[name])).cost for name in ("smallest", "largest"))
        for name, limit in zip(Cost._fields, self.limits, strict=True):
            if limit is not None and limit < getattr(smallest, name):
                raise ValueError(
                    f"max_{name} of {limit:,} is below the smallest network of the space, which has "
                    f"{getattr(smallest, name):,}; the largest has {getattr(largest, name):,}"
                )

    @property
    def named_codes(self) -> Mapping[str, tuple[int, ...]]:
        """Codes of the largest network (all last options), which contains all others, and of the smallest."""
        return {"largest": tuple((self.cardinalities - 1).tolist()), "smallest": (0,) * self.dims}

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """Hard limits on multiply-adds and parameters; None for no limit."""
        return self.max_multiply_adds, self.max_parameters

    def parts(self, codes: Codes) -> StageCodes:
        """Returns the integers of codes, grouped by choice; NumPy codes give NumPy arrays."""
        stages = codes[:, 2:-1].reshape(codes.shape[0], len(self.stages), len(OPTIONS))
        width, depth, kernel, expansion = (stages[:, :, i] for i in range(len(OPTIONS)))
        return StageCodes(codes[:, 0], codes[:, 1], width, depth, kernel, expansion, codes[:, -1])

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """Returns which codes are valid: integers in range, and exact costs within the hard limits."""
        codes = jnp.asarray(codes, jnp.int32)
        allowed = super().valid(codes)
        for column, limit in enumerate(self.limits):
            if limit is not None:
                allowed &= ~exceeds(_limbs(self, codes, column), limit)
        return allowed

    def starting_codes(self) -> Int[np.ndarray, "k dims"]:
        """Returns the smallest network of each resolution that is within the limits; without limits none."""
        if self.limits == (None, None):
            return super().starting_codes()
        codes = np.zeros((len(self.resolutions), self.dims), np.int32)
        codes[:, 0] = np.arange(len(codes))
        within = [self.within(self.network(code).cost) for code in codes]
        return codes[np.array(within)]

    def within(self, cost: Sequence[int]) -> bool:
        """Returns whether multiply-adds and parameters are within the hard limits."""
        return all(limit is None or one <= limit for one, limit in zip(cost, self.limits, strict=True))

    def cost(self, codes: Codes) -> Cost:
        """Returns exact multiply-adds of one image's forward pass and trainable parameters."""
        codes = self.check(codes)
        return Cost(*(integers(_jitted_limbs(self, codes, column)) for column in range(2)))

    def traced_cost(self, codes: Codes) -> Float[Array, "n costs"]:
        """Returns `known_costs` of valid codes, rounded to float32, inside a compiled program."""
        codes = jnp.asarray(codes, jnp.int32)
        return nearest_floats(jnp.stack([_limbs(self, codes, column) for column in range(2)], axis=1))

    def limited(self, codes: Codes) -> tuple[LimitedCost, ...]:
        """Returns each limited cost with its limit."""
        costs = zip(Cost._fields, self.limits, self.cost(codes), strict=True)
        return tuple(
            LimitedCost(name.replace("_", "-"), limit, cost) for name, limit, cost in costs if limit is not None
        )

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns the code as text: resolution, stem and head, then one line per stage."""
        taken = self.options(code)
        lines = [
            f"resolution {taken['resolution']}, stem of {taken['stem width']} channels, "
            f"head of {taken['head width']} channels"
        ]
        for s in range(len(self.stages)):
            width, depth, kernel, expansion = (taken[f"stage {s} {name}"] for name in OPTIONS)
            noun = "layer" if depth == 1 else "layers"
            lines.append(f"stage {s}: {depth} {noun} of {width} channels: k{kernel} x{expansion}")
        return "\n".join(lines)

    def network(self, code: Int[Array | np.ndarray, " dims"]) -> MobileNet:
        """Returns the network of a code, layer by layer.

        Raises:
          ValueError: if the code is invalid.
        """
        parts = StageCodes(*(part[0] for part in self.parts(self.check(np.asarray(code)[None]))))
        inputs = stem = self.stems[parts.stem]
        blocks: list[Block] = []
        for s, stage in enumerate(self.stages):
            width, depth = stage.widths[parts.width[s]], stage.depths[parts.depth[s]]
            kernel, expansion = stage.kernels[parts.kernel[s]], stage.expansions[parts.expansion[s]]
            blocks += [self.block(s, i, width if i else inputs, width, kernel, expansion) for i in range(depth)]
            inputs = width
        return MobileNet(
            tuple(blocks),
            stem=stem,
            last=LAST * inputs,
            hidden=self.heads[parts.head],
            activation="swish",
            hidden_bias=False,
            stem_stride=self.stem_stride,
            resolution=self.resolutions[parts.resolution],
            image_channels=self.image_channels,
            classes=self.classes,
        )

    def block(self, stage: int, layer: int, inputs: int, outputs: int, kernel: int, expansion: int) -> Block:
        """Returns the block of a layer, counted from the first of its stage."""
        settings, expanded = self.stages[stage], inputs * expansion
        squeezed = rounded(expanded // SQUEEZE) if settings.squeezes else 0
        stride = 1 if layer else settings.stride
        return Block(inputs, expanded, outputs, kernel, stride, "swish", squeezed, connected=True)

    def widths_before(self, stage: int) -> tuple[int, ...]:
        """Returns the possible numbers of channels that a stage reads."""
        return self.stages[stage - 1].widths if stage else self.stems


def _check_settings(space: AttentiveSpace) -> None:
    """Checks the settings.

    Raises:
      ValueError: if a setting is invalid; names the setting.
    """
    if not space.stages:
        raise ValueError("stages must not be empty; give at least one stage")
    options = {name: getattr(space, name) for name in ("resolutions", "stems", "heads")}
    for s, stage in enumerate(space.stages):
        options |= {f"{name}s of stage {s}": getattr(stage, f"{name}s") for name in OPTIONS}
        if 1 in stage.expansions and len(stage.expansions) > 1:
            raise ValueError(f"expansions of stage {s} must be 1 alone or all above 1; got {stage.expansions}")
    for name, numbers in options.items():
        if not numbers or numbers[0] <= 0 or list(numbers) != sorted(set(numbers)):
            raise ValueError(f"{name} must be one or more ascending numbers above 0; got {numbers}")
    set_whole_numbers(space, stem_stride=1, image_channels=1, classes=1)
    for name in ("max_multiply_adds", "max_parameters"):
        if getattr(space, name) is not None:
            set_whole_numbers(space, **{name: 0})


class _Tables(NamedTuple):
    """Costs, with a column for multiply-adds and one for parameters."""

    stem: Int[np.ndarray, "columns resolutions stems"]
    stages: tuple[Int[np.ndarray, "columns resolutions before widths depths kernels expansions"], ...]
    head: Int[np.ndarray, "columns resolutions widths heads"]


@functools.lru_cache(maxsize=64)
def _tables(space: AttentiveSpace) -> _Tables:
    sizes = [halved(resolution, space.stem_stride) for resolution in space.resolutions]
    stem = [[stem_cost(space.image_channels, channels, size) for channels in space.stems] for size in sizes]
    stages = []
    for s, stage in enumerate(space.stages):
        axes = (sizes, space.widths_before(s), stage.widths, stage.kernels, stage.expansions)
        costs = []
        for size, before, *block in itertools.product(*axes):
            first = space.block(s, 0, before, *block).cost(size)
            other = space.block(s, 1, block[0], *block).cost(halved(size, stage.stride))
            costs.append([np.add(first, (depth - 1) * np.array(other)) for depth in stage.depths])
        table = np.array(costs, np.int64).reshape(*map(len, axes), len(stage.depths), 2)
        stages.append(table.transpose(6, 0, 1, 2, 5, 3, 4))
        sizes = [halved(size, stage.stride) for size in sizes]
    head = []
    for r, (width, channels) in itertools.product(range(len(sizes)), itertools.product(stage.widths, space.heads)):
        network = MobileNet(
            (), width, LAST * width, channels, hidden_bias=False, image_channels=1, classes=space.classes
        )
        head.append(head_cost(network, width, sizes[r]))
    shape = len(sizes), len(stage.widths), len(space.heads), 2
    return _Tables(
        np.array(stem, np.int64).transpose(2, 0, 1),
        tuple(stages),
        np.array(head, np.int64).reshape(shape).transpose(3, 0, 1, 2),
    )


def _limbs(space: AttentiveSpace, codes: Int[Array, "n dims"], column: int) -> Int[Array, "n limbs"]:
    """Returns one cost of each network as digits of `exact.py`."""
    tables, parts = _tables(space), space.parts(codes)
    rows: list[tuple[np.ndarray, tuple[Any, ...]]] = [(tables.stem, (parts.resolution, parts.stem))]
    before = parts.stem
    for s, table in enumerate(tables.stages):
        own = parts.width[:, s]
        options = parts.depth[:, s], parts.kernel[:, s], parts.expansion[:, s]
        rows.append((table, (parts.resolution, before, own, *options)))
        before = own
    rows.append((tables.head, (parts.resolution, before, parts.head)))
    sums = []
    for position in range(len(digits(tables.stem))):
        found = [jnp.asarray(digits(table[column])[position]).at[index].get(mode="clip") for table, index in rows]
        sums.append(functools.reduce(jnp.add, found))
    return carry_digits(sums)


_jitted_limbs = jax.jit(_limbs, static_argnums=(0, 2))
