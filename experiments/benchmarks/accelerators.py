"""Training steps of candidates on accelerators: each form of a candidate, estimated for a TPU or measured.

Forms (`experiments/benchmarks/forms.py`): *shared*, *branchless* and *specialised*. Parts: the forward and backward
pass of the first *cell* (of NASNet's, a normal cell without the preprocessing of its inputs), and the training step of
a whole *candidate*, both for images of CIFAR-10's size, batch 128, bfloat16. The code is random. ``--space`` chooses
the networks: NASNet's (16 channels, 8 cells of 7 blocks), or those of NAS-Bench-201 or NAS-Bench-101 at their published
sizes.

Without an accelerator, each program is compiled for a TPU that need not be present, which needs libtpu
(``pip install 'lanas-jax[tpu-plan]'``) and takes minutes of processor time a row::

  export JAX_PLATFORMS=cpu
  python -m lanas_jax.experiments.benchmarks.accelerators --parts candidate --forms specialised --json FILE
  python -m lanas_jax.experiments.benchmarks.accelerators --parts cell --forms shared --top 10

- est-ms: the sum of the cycles that the compiler estimates, divided by the clock; a figure for comparisons, not a
  prediction. Loops and conditionals count as often as the code of the benchmark runs each operation. In a reduction
  cell of NASNet's shared form, each of two loops of the backward pass counts all operations, which is too many
- compile CPU-s: processor time of the compiler, without tracing; GiB: memory of a chip that the compiler plans
- GB: bytes between the chip and its memory
- control flow of a step, without the loop over steps: conditionals, and loops whose length depends on data, as lowered
  for ``cuda`` / ``tpu``; a conditional within such a loop counts once

On a GPU or TPU, and with ``--mode measure``, steps are timed on random images, for 1, 4, 8 and 16 vmapped candidates,
and for PyTorch in eager mode if it is installed on a machine with a GPU::

  python -m lanas_jax.experiments.benchmarks.accelerators --json FILE

*of peak* relates six operations per multiply-add and image to the measured rate of a large matrix product. The program
ends after ``--minutes``; rows that were not reached are omitted.

Each row is printed and written to the file of ``--json`` as soon as it is complete. Rows that the file has already are
not repeated, so an interrupted benchmark can be continued.

The results are in docs/planning.md. `accelerator_rows.py` has the rows of the table and their file.
"""

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from rich.console import Console

from lanas_jax.candidates.cost_model import time_steps
from lanas_jax.commands import help_text
from lanas_jax.data.splits import SearchData
from lanas_jax.experiments.benchmarks.accelerator_rows import (
    PLATFORMS,
    Row,
    cycles_by_operation,
    print_row,
    print_rows,
    read_rows,
    write_rows,
)
from lanas_jax.experiments.benchmarks.forms import (
    Form,
    Networks,
    Part,
    candidate_program,
    cell_program,
    control_flow_of,
    population,
    step_program,
)
from lanas_jax.experiments.benchmarks.step_timing import planned_bytes, random_data, share_of_peak
from lanas_jax.experiments.benchmarks.table import machine
from lanas_jax.models.nasbench import NASBench101, NASBench201
from lanas_jax.models.nasnet import NASNet
from lanas_jax.planning.control_flow import count_control_flow
from lanas_jax.planning.costs import CostAnalysis
from lanas_jax.planning.estimate import Memory
from lanas_jax.planning.hlo import parse_module
from lanas_jax.planning.stage import stand_in
from lanas_jax.planning.topology import Topology, find_topology
from lanas_jax.runtime.console import terminal
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.training.peak import measure_peak
from lanas_jax.training.sgd import TrainConfig

STEPS = 64  # steps per call of an estimated training
WIDTH = 130  # width of the table in characters, without a terminal
MEASURED = (1, 4, 8, 16)  # numbers of vmapped candidates


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark.

    Attributes:
      mode: estimate for a TPU by compiling, or measure on the devices of this process; auto: measure on GPUs and TPUs.
      space: space of the candidates.
      topology: TPU to compile for.
      parts: parts of a candidate, a row for each; default: both if estimated, candidates if measured.
      forms: forms of a candidate, a row for each.
      vmapped: numbers of vmapped candidates, a row for each; default: 1 if estimated, 1, 4, 8 and 16 if measured.
      blocks: number of blocks per cell of NASNet.
      channels: number of channels of the first cell; default: 16, or 128 for NAS-Bench-101.
      cells: number of cells, of the whole network for NASNet (default: 8), per stage for NAS-Bench-201 (default: 5) and
        NAS-Bench-101 (default: 3).
      image_size: height and width of the images, in pixels.
      batch_size: number of images per step and candidate.
      dtype: compute dtype; parameters are float32.
      seed: random seed of the code, weights and images.
      steps: number of timed steps.
      torch: PyTorch in eager mode, for NASNet, if it is installed, on a GPU.
      minutes: time after which the program ends if it measures.
      top: number of operations to print that take most of the estimated time.
      json: file of the rows, read first and continued; default: none.
    """

    mode: Literal["auto", "estimate", "measure"] = "auto"
    space: Literal["nasnet", "nasbench201", "nasbench101"] = "nasnet"
    topology: str = "v5e:1x1"
    parts: tuple[Part, ...] = ()
    forms: tuple[Form, ...] = ("branchless", "specialised", "shared")
    vmapped: tuple[int, ...] = ()
    blocks: int = 7
    channels: int | None = None
    cells: int | None = None
    image_size: int = 32
    batch_size: int = 128
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 0
    steps: int = 16
    torch: bool = True
    minutes: float = 7.5
    top: int = 0
    json: Path | None = None


def network_of_space(config: Config) -> Networks:
    """Returns the networks of the space of a benchmark."""
    sizes = {"channels": config.channels, "cells": config.cells, "image_size": config.image_size}
    given: Any = {name: value for name, value in sizes.items() if value is not None}
    dtype = jnp.dtype(config.dtype)
    if config.space == "nasbench201":
        return NASBench201(NASBench201Space(**given), dtype)
    if config.space == "nasbench101":
        return NASBench101(NASBench101Space(**given), dtype)
    return NASNet(NASNetSpace(config.blocks, **({"channels": 16, "cells": 8} | given)), dtype)


def random_code(space: SearchSpace, seed: int) -> Int[np.ndarray, " dims"]:
    """Returns a random code; of NAS-Bench-101, one of its networks, because most random edges are pruned."""
    if isinstance(space, NASBench101Space):
        codes = space.enumerate()
        return codes[np.random.default_rng(seed).integers(len(codes))]
    return np.asarray(space.canonical(space.random(jax.random.key(seed), 1)))[0]


class AcceleratorBenchmark:
    """Estimates or measures the rows of the table, all for one code."""

    def __init__(self, config: Config):
        self.config = config
        measures = jax.default_backend() != "cpu" if config.mode == "auto" else config.mode == "measure"
        self.machine: Topology | None = None if measures else find_topology(config.topology)
        self.network = network_of_space(config)
        space = self.network.space
        self.code = random_code(space, config.seed)
        self.multiply_adds = int(space.cost(self.code[None]).multiply_adds[0])
        self.training = TrainConfig(1, config.batch_size, learning_rate=0.025)
        self.peak: float | None = None

    @property
    def target(self) -> str:
        """The machine of the rows."""
        return machine() if self.machine is None else self.machine.name

    def rows(self) -> Iterator[tuple[Row, Callable[[Row], Row]]]:
        """Yields the name of each row with the function that completes it."""
        config, measures = self.config, self.machine is None
        torch = config.torch and config.space == "nasnet"
        if measures and torch and jax.default_backend() == "gpu" and importlib.util.find_spec("torch"):
            yield Row("candidate", "PyTorch eager", 1, self.target), self.measure_torch
        for part in config.parts or (("candidate",) if measures else ("cell", "candidate")):
            for form in config.forms:
                for vmapped in config.vmapped or (MEASURED if measures else (1,)):
                    if form == "specialised" and vmapped > 1:
                        continue  # candidates with programs of their own do not share one
                    complete = partial(self.measure if measures else self.estimate, part, form, vmapped)
                    yield Row(part, form, vmapped, self.target), complete

    def estimate(self, part: Part, form: Form, vmapped: int, row: Row) -> Row:
        """Compiles a program for the TPU and reads its costs."""
        if self.machine is None or self.machine.chip.clock is None:
            raise ValueError(f"{self.config.topology} has no estimates; choose a TPU such as v5e:1x1")
        began = time.perf_counter()
        lowered, steps = self._lowered(part, form, vmapped, self.machine.devices)
        traced, cpu = time.perf_counter(), time.process_time()
        compiled = lowered.compile()
        seconds, cpu_seconds = time.perf_counter() - traced, time.process_time() - cpu
        rounds, weights = control_flow_of(self.network, self.code)
        rounds = rounds or (1,) if part == "cell" else (steps, *rounds)
        analysis = CostAnalysis(parse_module(compiled.as_text()), rounds=rounds, weights=weights)
        costs, each = analysis.total(), steps * vmapped
        clock, costliest = self.machine.chip.clock, cycles_by_operation(analysis.costliest_instructions())
        return dataclasses.replace(
            row,
            compile_seconds=seconds,
            compile_cpu_seconds=cpu_seconds,
            trace_seconds=traced - began,
            gib=Memory.of(compiled.memory_analysis()).total / 2**30,
            gigabytes=costs.moved / each / 1e9,
            estimated_ms=1000 * costs.cycles / each / clock,
            costliest={
                name: 1000 * cycles / each / clock
                for name, cycles in itertools.islice(costliest.items(), self.config.top)
            },
            uncounted={opcode: count / each for opcode, count in costs.uncounted.items()},
            **self.control_flow(part, form, vmapped),
        )

    def measure(self, part: Part, form: Form, vmapped: int, row: Row) -> Row:
        """Compiles a program for a device of this process, and times its steps."""
        devices = jax.local_devices()[:1]
        cpu = time.process_time()
        if part == "cell":
            began = time.perf_counter()
            lowered, _ = self._lowered(part, form, vmapped, devices)
            traced, cpu = time.perf_counter(), time.process_time()
            compiled = lowered.compile()
            seconds, trace_seconds = time.perf_counter() - traced, traced - began
            cpu_seconds = time.process_time() - cpu
            step_seconds = self._timed_cell(compiled, lowered) / vmapped
            planned, share = Memory.of(compiled.memory_analysis()).total, None
        else:
            layout = self._population(form, vmapped, devices, self.config.steps)
            programs = layout.compile(self._data())
            trace_seconds = programs.trace_seconds
            cpu_seconds = time.process_time() - cpu - trace_seconds  # one thread traces
            seconds = programs.compile_seconds - trace_seconds
            codes, keys = np.repeat(self.code[None], vmapped, axis=0), jax.random.split(jax.random.key(1), vmapped)
            step_seconds, _ = time_steps(programs, codes, keys)
            planned = planned_bytes(programs) or 0
            share = self._share(step_seconds)
        return dataclasses.replace(
            row,
            compile_seconds=seconds,
            compile_cpu_seconds=cpu_seconds,
            trace_seconds=trace_seconds,
            gib=planned / 2**30,
            step_ms=1000 * step_seconds,
            share_of_peak=share,
        )

    def measure_torch(self, row: Row) -> Row:
        """Times the steps of PyTorch in eager mode."""
        from lanas_jax.experiments.benchmarks import torch_nasnet

        config = self.config
        seconds = torch_nasnet.step_seconds(
            self.network.space, self.code, self._data(), self.training, 0, config.steps, "cuda", config.dtype
        )
        return dataclasses.replace(row, step_ms=1000 * seconds, share_of_peak=self._share(seconds))

    def _population(self, form: Form, vmapped: int, devices: Any, steps: int) -> Any:
        return population(self.network, form, self.code, self.training, devices, vmapped, steps)

    def _lowered(self, part: Part, form: Form, vmapped: int, devices: Any) -> tuple[jax.stages.Lowered, int]:
        """Traces a program; returns it with the number of steps in one call."""
        if part == "cell":
            size = self.config.batch_size
            return cell_program(self.network, form, self.code, size, devices[0], vmapped), 1
        data = stand_in(40_000, 10_000, self._image_shape, self.network.space.classes)
        return candidate_program(self._population(form, vmapped, devices, STEPS), data), STEPS

    def control_flow(self, part: Part, form: Form, vmapped: int) -> dict[str, dict[str, int]]:
        """Counts the control flow of a step of all vmapped candidates, by platform."""
        devices, space = jax.local_devices()[:1], self.network.space
        found: dict[str, dict[str, int]] = {"conditionals": {}, "unknown_loops": {}}
        for platform in PLATFORMS:
            if part == "cell":
                size = self.config.batch_size
                lowered = cell_program(self.network, form, self.code, size, devices[0], vmapped, platform)
            else:
                layout = self._population(form, vmapped, devices, STEPS)
                lowered = step_program(layout, space.classes, self._image_shape, platform)
            counted = count_control_flow(lowered)
            found["conditionals"][platform] = counted.conditionals
            found["unknown_loops"][platform] = counted.unknown_loops
        return found

    def _timed_cell(self, compiled: Any, lowered: jax.stages.Lowered) -> float:
        """Returns the seconds of one call of a cell's program, on arbitrary inputs and the benchmark's code."""

        def filled(x: Any) -> jax.Array:
            if jnp.issubdtype(x.dtype, jnp.integer):
                return jnp.broadcast_to(jnp.asarray(self.code, x.dtype), x.shape)
            return jax.random.normal(jax.random.key(self.config.seed), x.shape, jnp.float32).astype(x.dtype)

        arguments = jax.tree.map(filled, lowered.args_info[0])
        jax.block_until_ready(compiled(*arguments))
        began = time.perf_counter()
        for _ in range(self.config.steps):
            result = compiled(*arguments)
        jax.block_until_ready(result)
        return (time.perf_counter() - began) / self.config.steps

    def _data(self) -> SearchData:
        """Returns random images, as many as a few batches."""
        size = self.config.batch_size
        return random_data(self.network.space, 8 * size, size, self.config.seed)

    def _share(self, step_seconds: float) -> float:
        """Returns the share of the peak rate that a training step reaches."""
        if self.peak is None:
            self.peak = measure_peak(jnp.dtype(self.config.dtype), jax.local_devices()[:1])
        return share_of_peak(np.array([self.multiply_adds]), self.config.batch_size, step_seconds, self.peak)

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        space = self.network.space
        return space.image_size, space.image_size, space.image_channels


def software() -> str:
    """Returns the versions of jax and of libtpu, if it is installed."""
    found = importlib.util.find_spec("libtpu")
    return f"jax {jax.__version__}" + (f", libtpu {importlib.metadata.version('libtpu')}" if found else "")


def settings_of(benchmark: AcceleratorBenchmark) -> dict[str, Any]:
    """Returns what the rows of one file have in common."""
    names = ("space", "blocks", "channels", "cells", "image_size", "batch_size", "dtype", "seed")
    common = {name: getattr(benchmark.config, name) for name in names}
    return {**common, "code": benchmark.code.tolist(), "multiply_adds": benchmark.multiply_adds}


def run_benchmark(benchmark: AcceleratorBenchmark, console: Console) -> list[Row]:
    """Completes all rows; prints and writes each as soon as it is complete."""
    config, settings = benchmark.config, settings_of(benchmark)
    rows = read_rows(config.json, settings)
    finished = {row.name for row in rows}
    for empty, complete in benchmark.rows():
        if empty.name in finished:
            continue
        try:
            row = complete(empty)
        except jax.errors.JaxRuntimeError as error:  # usually for lack of memory
            console.print(f"{empty.part} {empty.form} {empty.vmapped}: {str(error).splitlines()[0]}")
            continue
        row = dataclasses.replace(row, date=datetime.date.today().isoformat(), software=software())
        rows.append(row)
        print_row(console, row)
        if config.json is not None:
            write_rows(config.json, settings, rows)
    return rows


def main() -> None:
    """Completes the rows, and prints the table."""
    config = help_text.parse_documented(Config, __doc__)
    benchmark = AcceleratorBenchmark(config)
    console = terminal(width=WIDTH)
    if benchmark.machine is None:
        timer = threading.Timer(60 * config.minutes, _end, (console, config.minutes))
        timer.daemon = True
        timer.start()
    rows = run_benchmark(benchmark, console)
    if rows:
        title = (
            f"{config.space}, a candidate of {benchmark.multiply_adds / 1e6:.0f} M multiply-adds, {config.dtype}: "
            f"{benchmark.target}"
        )
        print_rows(console, title, rows)


def _end(console: Console, minutes: float) -> None:
    """Ends the process, also while a program compiles; complete rows have been printed and written."""
    console.print(f"{minutes:g} minutes are over; the remaining rows are omitted")
    os._exit(0)


if __name__ == "__main__":
    main()
