"""Time of a mask in the supernet, compared with the standalone network of the mask.

Random masks run in one compiled program of `models/nasnet/supernet.py`, with their code as data, and in one program per
mask, compiled for the standalone network with weights extracted from the supernet. Both run the same batch of random
images, alternately. There is one row per pass:

- *forward*: logits with running statistics
- *training*: logits with batch statistics, and the gradient of a loss for all weights (in the supernet, the weights of
  every operation, nearly all with zero gradient); no optimiser

The sizes are ``small`` (images of 14x14 pixels and one channel, 8 channels, 3 cells) and ``cifar10`` (images of
CIFAR-10's shape, 16 channels, 8 cells). The benchmark uses one core, as in mask evaluation with one device per core, or
several (``--cores``). Run it on an otherwise idle machine::

    python -m lanas_jax.experiments.benchmarks.supernet [--cores 0] [--small.masks 4] [--json PATH]

Measured on an Intel Xeon with jax 0.10.2 (27 November 2026), milliseconds and their ratio, on one core and on two:

=================  ========  =====  ============================  ==================  =====  =====
pass               supernet  alone  ratio                         supernet, 2 cores   alone  ratio
=================  ========  =====  ============================  ==================  =====  =====
small, forward          9.1    8.9  1.02 (0.95 to 1.06, 4 masks)                 8.9    6.7   1.32
small, training        49.0   72.3  0.68 (0.68 to 0.69, 4 masks)                42.4   43.8   0.97
cifar10, forward       95.1   64.5  1.47 (1 mask)                               74.1   44.7   1.66
cifar10, training     642.4  701.5  0.92 (1 mask)                              438.2  393.8   1.11
=================  ========  =====  ============================  ==================  =====  =====

XLA spreads only the operations outside of loops over both cores, and a masked pass is mostly a loop.
"""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from lanas_jax.commands import help_text
from lanas_jax.experiments.benchmarks.table import machine, table
from lanas_jax.models.nasnet import NASNetSupernet
from lanas_jax.runtime.console import print_table, terminal
from lanas_jax.spaces.nasnet_masks import NASNetMasks

Pass = Literal["forward", "training"]
Apply = Callable[..., tuple[Array, Any]]


@dataclasses.dataclass(frozen=True)
class Size:
    """Size of networks and images.

    Attributes:
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack.
      image_size: height and width of the images, in pixels.
      image_channels: number of image channels.
      batch_size: number of images per pass.
      masks: number of masks, each with a separate program to compile.
      blocks: number of blocks per cell.
    """

    channels: int
    cells: int
    image_size: int
    image_channels: int
    batch_size: int = 64
    masks: int = 4
    blocks: int = 5


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark.

    Attributes:
      cores: number of cores for the process; 0 for all.
      sizes: sizes to measure.
      passes: passes to measure.
      rounds: number of timings per program, of which the fastest is used.
      seed: random seed of masks, weights and images.
      json: output file of the figures; default: none.
      small: settings of the small size.
      cifar10: settings of the cifar10 size.
    """

    cores: int = 1
    sizes: tuple[Literal["small", "cifar10"], ...] = ("small", "cifar10")
    passes: tuple[Pass, ...] = ("forward", "training")
    rounds: int = 7
    seed: int = 0
    json: Path | None = None
    small: Size = Size(8, 3, 14, 1)
    cifar10: Size = Size(16, 8, 32, 3, batch_size=32, masks=1)


@dataclasses.dataclass(frozen=True)
class PassCost:
    """Times of masks at one size in one pass.

    Attributes:
      size: name of the size.
      kind: name of the pass.
      supernet_compile: seconds of tracing and compiling the program for all masks.
      alone_compile: seconds of tracing and compiling the standalone program of each mask.
      supernet: seconds per pass of each mask in the supernet.
      alone: seconds per pass of each mask's standalone network.
    """

    size: str
    kind: Pass
    supernet_compile: float
    alone_compile: tuple[float, ...]
    supernet: tuple[float, ...]
    alone: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Supernet time divided by standalone time, for each mask."""
        return [ours / theirs for ours, theirs in zip(self.supernet, self.alone, strict=True)]

    @property
    def row(self) -> dict[str, str]:
        """Row of the table; medians over masks, except for the range of ratios."""
        return {
            "pass": f"{self.size}, {self.kind}",
            "masks": str(len(self.alone)),
            "supernet ms": f"{1000 * statistics.median(self.supernet):.1f}",
            "alone ms": f"{1000 * statistics.median(self.alone):.1f}",
            "ratio": f"{statistics.median(self.ratios):.2f}",
            "of masks": f"{min(self.ratios):.2f} - {max(self.ratios):.2f}",
            "compile s": f"{self.supernet_compile:.1f}",
            "alone, each": f"{statistics.median(self.alone_compile):.1f}",
        }


def measure_pass(name: str, size: Size, kind: Pass, config: Config) -> PassCost:
    """Compiles and times one pass at one size."""
    mask_key, weight_key, image_key = jax.random.split(jax.random.key(config.seed), 3)
    net = NASNetSupernet(
        NASNetMasks(
            size.blocks,
            channels=size.channels,
            cells=size.cells,
            image_size=size.image_size,
            image_channels=size.image_channels,
        )
    )
    weights = jax.jit(net.init)(weight_key)
    images = jax.random.normal(image_key, (size.batch_size, size.image_size, size.image_size, size.image_channels))
    codes = random_masks(net.space, mask_key, size.masks)
    run, supernet_compile = compile_pass(partial(masked, net), kind, *weights, codes[0], images)
    seconds, alone_compile = [], []
    for code in codes:
        own = net.extract(*weights, np.asarray(code))
        own_run, own_compile = compile_pass(standalone(net, np.asarray(code)), kind, *own, code, images)
        alone_compile.append(own_compile)
        calls = [partial(run, *weights, code, images), partial(own_run, *own, code, images)]
        seconds.append(in_turns(calls, config.rounds))
    supernet, alone = zip(*seconds, strict=True)
    return PassCost(name, kind, supernet_compile, tuple(alone_compile), supernet, alone)


def random_masks(space: NASNetMasks, key: Array, n: int) -> Int[Array, "n dims"]:
    """Draws the codes of `n` valid masks."""
    codes = space.random(key, 32 * n)
    return codes[np.flatnonzero(space.valid(codes))[:n]]


def masked(net: NASNetSupernet, params: Any, stats: Any, code: Array, images: Array, train: bool) -> tuple[Array, Any]:
    """Applies the supernet to images."""
    return net.apply(params, stats, code, images, train=train)


def standalone(net: NASNetSupernet, code: Int[np.ndarray, " dims"]) -> Apply:
    """Returns the standalone network of one code, as a function that ignores its code argument."""
    final = net.standalone(code)

    def apply(params: Any, stats: Any, code: Array, images: Array, train: bool) -> tuple[Array, Any]:
        del code
        logits, _, stats = final.apply(
            params, stats, images, train=train, key=jax.random.key(0), drop_path=jnp.float32(0)
        )
        return logits, stats

    return apply


def compile_pass(apply: Apply, kind: Pass, *arguments: Any) -> tuple[Callable[..., Any], float]:
    """Compiles the program of a pass; returns it with the seconds of tracing and compiling."""

    def training(params: Any, stats: Any, code: Array, images: Array) -> Any:
        def loss(params: Any) -> tuple[Array, Any]:
            logits, new_stats = apply(params, stats, code, images, True)
            return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0]), new_stats

        return jax.value_and_grad(loss, has_aux=True)(params)

    def forward(params: Any, stats: Any, code: Array, images: Array) -> Array:
        return apply(params, stats, code, images, False)[0]

    began = time.perf_counter()
    program = jax.jit(forward if kind == "forward" else training).lower(*arguments).compile()
    return program, time.perf_counter() - began


def in_turns(calls: list[Callable[[], Any]], rounds: int, at_least: float = 0.05) -> list[float]:
    """Returns the seconds per call in the fastest round; each round repeats a call for about `at_least` seconds."""
    repeats = []
    for call in calls:
        jax.block_until_ready(call())
        began = time.perf_counter()
        jax.block_until_ready(call())
        repeats.append(max(1, round(at_least / (time.perf_counter() - began))))
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, n, column in zip(calls, repeats, seconds, strict=True):
            began = time.perf_counter()
            for _ in range(n):
                jax.block_until_ready(call())
            column.append((time.perf_counter() - began) / n)
    return [min(column) for column in seconds]


def costs(config: Config) -> Iterator[PassCost]:
    """Yields the measurements of all sizes and passes."""
    for name in config.sizes:
        for kind in config.passes:
            yield measure_pass(name, getattr(config, name), kind, config)


def use_cores(count: int) -> None:
    """Binds this process to `count` of its cores; JAX counts the cores at its first computation.

    Raises:
      SystemExit: if there are fewer cores, or the system does not support CPU affinity.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("--cores: this system does not support CPU affinity; use --cores 0 for all cores")
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise SystemExit(f"--cores {count}: only {len(cores)} cores are available")
    os.sched_setaffinity(0, cores[-count:])


def main() -> None:
    """Measures all passes, prints the table and writes the figures."""
    config = help_text.parse_documented(Config, __doc__)
    if config.cores:
        use_cores(config.cores)
    console, done = terminal(width=118), []
    for cost in costs(config):
        done.append(cost)
        console.print(", ".join(f"{name} {value}" for name, value in cost.row.items()))
        if config.json is not None:
            config.json.write_text(json.dumps([dataclasses.asdict(cost) for cost in done], indent=2) + "\n")
    print_table(console, table(f"a mask in the supernet, and alone: {machine()}", [cost.row for cost in done]))


if __name__ == "__main__":
    main()
