"""Exact costs of the networks of `MobileNetSpace`: a table of layer costs, and sums of its entries.

A network's cost is the cost of stem, first block and head, which depends on resolution and width, plus the cost of each
present layer, which also depends on its kernel and expansion. Sums are computed on the device as digits of `exact.py`,
so that hard limits on multiply-adds, parameters and nanoseconds are exact.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lanas_jax.spaces.base import Codes
from lanas_jax.spaces.exact import carry_digits, digits, integers
from lanas_jax.spaces.mobilenet_layers import Layer, block_layer, layers
from lanas_jax.spaces.mobilenet_settings import MobileNetSettings

ROWS = 256, 8192  # batch sizes of the compiled programs of `totals`
COLUMNS = ("multiply_adds", "parameters", "nanoseconds")


class Totals(NamedTuple):
    """Costs of one network: exact integers."""

    multiply_adds: int
    parameters: int
    nanoseconds: int | None  # None without a latency table


class CostTables(NamedTuple):
    """Costs of layers, indexed by their settings; one column per kind of cost."""

    fixed: Int[np.ndarray, "columns resolutions widths"]
    chosen: Int[np.ndarray, "columns resolutions widths stages layers kernels expansions"]


@functools.lru_cache(maxsize=64)
def cost_tables(space: MobileNetSettings) -> CostTables:
    """Returns the cost tables of a space, with a third column if it has measured latencies.

    Raises:
      ValueError: if the measured latencies lack layers of the space.
    """
    fixed, chosen = _layers_of(space)
    latency = space.latency
    if latency is not None:
        latency.check(layer.name for layer in itertools.chain(*fixed, chosen))

    def counted(layer: Layer) -> tuple[int, ...]:
        return layer.cost if latency is None else (*layer.cost, latency.nanoseconds[layer.name])

    shape = (len(space.resolutions), len(space.widths))
    by_layer = np.array([counted(layer) for layer in chosen], np.int64)
    by_network = np.array([[counted(layer) for layer in group] for group in fixed], np.int64).sum(axis=1)
    options = (len(space.stages), space.layers, len(space.kernels), len(space.expansions))
    return CostTables(by_network.T.reshape(-1, *shape), by_layer.T.reshape(-1, *shape, *options))


def _layers_of(space: MobileNetSettings) -> tuple[list[tuple[Layer, ...]], list[Layer]]:
    """Returns, for each resolution and width, the layers of all networks, and the layers that are chosen."""
    fixed: list[tuple[Layer, ...]] = []
    chosen: list[Layer] = []
    for r, w in itertools.product(range(len(space.resolutions)), range(len(space.widths))):
        network = space.network(np.array([r, w] + [0] * (space.dims - 2)))
        listed, sizes = layers(network), network.sizes
        fixed.append((listed[0], listed[1], listed[-1]))
        for s, i in itertools.product(range(len(space.stages)), range(space.layers)):
            first = 1 + s * space.depths[0]  # index of the stage's first block in the network
            for kernel, expansion in itertools.product(space.kernels, space.expansions):
                block = space.block(space.widths[w], s, i, kernel, expansion)
                chosen.append(block_layer(block, sizes[first + bool(i)], network.gate))
    return fixed, chosen


def limbs(space: MobileNetSettings, codes: Int[Array, "n dims"], column: int) -> Int[Array, "n limbs"]:
    """Returns one cost of each network as digits of `exact.py`."""
    fixed, chosen = (table[column] for table in cost_tables(space))
    parts = space.parts(codes)
    network = parts.resolution * len(space.widths) + parts.width
    options = len(space.kernels) * len(space.expansions)
    option = jnp.where(space.present(codes), parts.kernel * len(space.expansions) + parts.expansion, options)
    place = np.arange(len(space.stages) * space.layers, dtype=np.int32).reshape(len(space.stages), space.layers)
    row = (network[:, None, None] * place.size + place[None]) * (options + 1) + option
    absent = np.pad(chosen.reshape(-1, options), ((0, 0), (0, 1)))  # an absent layer costs nothing
    sums = []
    for constant, table in zip(digits(fixed.ravel()), digits(absent.ravel()), strict=True):
        total = jnp.asarray(constant).at[network].get(mode="clip")
        if table.any():
            total = total + jnp.asarray(table).at[row].get(mode="clip").sum(axis=(1, 2))
        sums.append(total)
    return carry_digits(sums)


def totals(space: MobileNetSettings, codes: Codes) -> Int[np.ndarray, "n columns"]:
    """Returns all costs of each network."""
    codes = space.check(codes)
    rows = ROWS[len(codes) > ROWS[0]]
    parts = max(-(-len(codes) // rows), 1)
    padded = np.pad(codes, ((0, parts * rows - len(codes)), (0, 0)))
    return np.concatenate([integers(_limbs(space, part)) for part in np.split(padded, parts)])[: len(codes)]


@jax.jit(static_argnames="space")
def _limbs(space: MobileNetSettings, codes: Int[Array, "n dims"]) -> Int[Array, "n columns limbs"]:
    columns = range(len(cost_tables(space).fixed))
    return jnp.stack([limbs(space, codes, column) for column in columns], axis=1)


def bounds(space: MobileNetSettings) -> tuple[Totals, Totals]:
    """Returns the exact smallest and largest value of each cost over all networks of the space, ignoring limits."""
    fixed, chosen = cost_tables(space)
    depths = np.array(space.depths) - 1
    found = []
    for least in (np.min, np.max):
        layer = least(chosen, axis=(5, 6)).cumsum(axis=4)[..., depths]
        found.append([int(total) for total in least(fixed + least(layer, axis=4).sum(axis=3), axis=(1, 2))])
    smallest, largest = (Totals(*costs, *[None] * (3 - len(costs))) for costs in found)
    return smallest, largest


@functools.lru_cache(maxsize=64)
def cheapest_valid(space: MobileNetSettings) -> Int[np.ndarray, "k dims"]:
    """Returns the cheapest canonical codes for each resolution and width, if they are within all limits.

    Cheapest means by each limited cost, and by the sum of the costs relative to their limits.
    """
    limits = np.array([np.inf if limit is None else limit for limit in space.limits], np.float64)
    limits = limits[: len(cost_tables(space).fixed)]
    weights = np.concatenate([np.diag(1 / limits), 1 / limits[None]])
    codes = np.concatenate([_cheapest(space, weight) for weight in weights[weights.any(axis=1)]])
    with jax.ensure_compile_time_eval():
        codes = codes[(totals(space, codes) <= limits).all(axis=1)]
        return np.unique(np.asarray(space.canonical(codes)), axis=0)


def _cheapest(space: MobileNetSettings, weights: Float[np.ndarray, " columns"]) -> Int[np.ndarray, "n dims"]:
    """Returns, for each resolution and width, the code of least weighted cost."""
    layer = np.tensordot(weights, cost_tables(space).chosen, axes=1)
    layer = layer.reshape(*layer.shape[:4], -1)
    option = layer.argmin(axis=4)
    depth = layer.min(axis=4).cumsum(axis=3)[..., np.array(space.depths) - 1].argmin(axis=3)
    pairs = np.stack(np.divmod(option, len(space.expansions)), axis=4)
    stages = np.concatenate([depth[..., None], pairs.reshape(*depth.shape, -1)], axis=3)
    networks = np.moveaxis(np.indices(depth.shape[:2]), 0, 2)
    codes = np.concatenate([networks, stages.reshape(*depth.shape[:2], -1)], axis=2)
    return codes.reshape(-1, space.dims).astype(np.int32)
