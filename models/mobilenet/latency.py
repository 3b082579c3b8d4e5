"""Latency table of the layers of a MobileNet space on a device, for limits on latency.

Every layer of the space runs separately, in inference mode, many times within one program, so that the cost of calls is
negligible. The latency of a network is the sum over its layers (`lanas_jax/spaces/latency.py`), which ignores fusion
across layers by XLA.
"""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lanas_jax.models.functional import Functional, Tree
from lanas_jax.models.mobilenet.network import Head, InvertedResidual, stem
from lanas_jax.spaces.inverted_residuals import MobileNet
from lanas_jax.spaces.latency import LatencyTable
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_layers import layers

SECONDS = 0.02  # approximate duration of a timing
TIMINGS = 5  # timings per layer, of which the fastest counts


def measure_latencies(
    space: MobileNetSpace,
    *,
    batch: int = 1,
    compute_dtype: DTypeLike = jnp.float32,
    device: jax.Device | None = None,
    seconds: float = SECONDS,
    note: Callable[[str], None] = lambda line: None,
) -> LatencyTable:
    """Times all layers of a space on a device that is otherwise idle.

    Args:
      space: space of the networks; its limits are ignored.
      batch: images per call.
      compute_dtype: dtype of activations and convolutions.
      device: device to measure; default: the first device of this process.
      seconds: approximate duration of each timing in seconds.
      note: callback that receives progress messages.
    """
    device = jax.local_devices()[0] if device is None else device
    found: dict[str, int] = {}
    for number, network in enumerate(networks := list(_networks(space))):
        for layer, (build, shape) in zip(layers(network), _modules(network, compute_dtype), strict=True):
            if layer.name not in found:
                found[layer.name] = _nanoseconds(build, (batch, *shape), compute_dtype, device, seconds)
        note(f"{number + 1} of {len(networks)} networks, {len(found)} layers")
    return LatencyTable(f"{device.device_kind}, {jnp.dtype(compute_dtype)}", batch, found)


def _networks(space: MobileNetSpace) -> Iterator[MobileNet]:
    """Yields networks that together contain every layer of the space: the deepest ones with uniform layers."""
    for resolution, width, kernel, expansion in itertools.product(
        *map(range, (len(space.resolutions), len(space.widths), len(space.kernels), len(space.expansions)))
    ):
        yield space.network(_alike(space, resolution, width, kernel, expansion))


def _alike(space: MobileNetSpace, resolution: int, width: int, kernel: int, expansion: int) -> Int[np.ndarray, " dims"]:
    stage = [len(space.depths) - 1, *([kernel, expansion] * space.layers)]
    return np.array([resolution, width, *(stage * len(space.stages))], np.int32)


def _modules(network: MobileNet, dtype: DTypeLike) -> Iterator[tuple[Callable[..., nnx.Module], tuple[int, int, int]]]:
    """Yields a builder and the input height, width and channels of the stem, each block and the head."""
    sizes = network.sizes
    resolution, channels = network.resolution, network.image_channels
    yield functools.partial(stem, network, dtype=dtype), (resolution, resolution, channels)
    for block, size in zip(network.blocks, sizes, strict=False):
        build = functools.partial(InvertedResidual, block, network.gate, dtype=dtype)
        yield build, (size, size, block.inputs)
    last = network.blocks[-1].outputs if network.blocks else network.stem
    yield functools.partial(Head, network, dtype=dtype), (sizes[-1], sizes[-1], last)


def _nanoseconds(
    build: Callable[..., nnx.Module], shape: tuple[int, ...], dtype: DTypeLike, device: jax.Device, seconds: float
) -> int:
    """Measures the nanoseconds of one run of a layer."""
    module = Functional(lambda: build(rngs=nnx.Rngs(0)))

    def ones(tree: Tree) -> Tree:
        filled: Tree = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), tree)
        return filled

    arguments: Any = jax.device_put((ones(module.params), ones(module.batch_stats), jnp.ones(shape, dtype)), device)
    program = jax.jit(functools.partial(_repeated, module)).lower(*arguments, jnp.int32(0)).compile()

    def timed(rounds: int) -> float:
        count = jax.device_put(jnp.int32(rounds), device)
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments, count))
        return time.perf_counter() - began

    rounds = 1
    while (taken := timed(rounds)) < seconds / 4:
        rounds *= 2
    rounds = max(1, round(rounds * seconds / taken))
    return max(1, round(min(timed(rounds) for _ in range(TIMINGS)) / rounds * 1e9))


def _repeated(
    module: Functional, params: Tree, batch_stats: Tree, x: Float[Array, "n h w c"], rounds: Int[Array, ""]
) -> Float[Array, ""]:
    """Runs a layer `rounds` times sequentially; each run depends on a number in the output of the previous one."""

    def run(step: Array, carried: Float[Array, ""]) -> Float[Array, ""]:
        del step
        inputs = x + carried.astype(x.dtype)
        y, _ = module.run(params, batch_stats, lambda layer: layer(inputs), train=False)
        return lax.optimization_barrier(y).ravel()[0].astype(jnp.float32) * 1e-9

    return lax.fori_loop(0, rounds, run, jnp.float32(0))
