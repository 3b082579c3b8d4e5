r"""Training speed of candidates: one program with the code as data, a program per candidate, and PyTorch.

Random codes, at two sizes (``--setting``):

- ``small``: the size of `experiments/digits.py`. Candidates are trained to the end; the total time (tracing, compiling,
  initial weights, training, evaluation) and the step time are measured
- ``cifar10``: images of CIFAR-10's shape, 16 channels, 8 cells of 7 blocks. Only steps are timed, on random images:
  this measures speed, needs no data set and says nothing about accuracy

Four methods, in float32 or bfloat16 (``--dtype``):

- *one program*: `lanas_jax.candidates.population`, the code is data, devices in parallel; on each device candidates
  run sequentially, or vmapped without control flow: ``--vmapped 1 4 16`` has a row for each of these numbers of
  candidates at a time; a single one runs with control flow
- *specialised*: one program per candidate, built for its code and compiled in threads while others train
  (`lanas_jax.candidates.specialised`); measured on a sample, only if candidates are trained to the end
- *program per candidate*: the same programs run sequentially on one device, as with plain ``jit``; on a sample
- *PyTorch eager*, if torch is installed: the same networks, steps and batches, on a sample. On CPUs it is measured once
  as one process with all threads and once as one single-threaded process per core ("2 x 1 threads"); on a GPU as one
  process, with autocast for bfloat16. Starting the processes is not counted. ``--torch-sample 0`` omits it

Each row is printed, and written to the file of ``--json``, as soon as it is measured; ``--minutes`` starts no row after
that time. Run it on an otherwise idle machine; the small setting takes about four minutes on 2 CPU cores::

  python -m lanas_jax.experiments.benchmarks.candidates [--candidates 64] [--sample 6] [--json PATH]
  python -m lanas_jax.experiments.benchmarks.candidates --setting cifar10 --dtype bfloat16 --vmapped 1 4 16 \
      --sample 2 --minutes 7

On 2 cores of an Intel Xeon with jax 0.10.2 and torch 2.13.0 (27 November 2026; ``--candidates 32 --sample 4
--torch-sample 6``, 2 min 49 s):

====================================  =========  =======  =================  =======  ======
way                                   compile s  ms/step  a minute, compiled  s each  ratio
====================================  =========  =======  =================  =======  ======
one program, 32 candidates                 14.6     5.58                 275     0.67     1.0
specialised, 4                             52.0    52.8                   33    14.8     22.0
program per candidate, 4                   52.2     6.65                 165    13.4     19.9
PyTorch eager, 1 process, 2 threads           -    23.3                   72     0.84     1.2
PyTorch eager, 2 processes, 1 thread          -    12.5                  123     0.49     0.7
====================================  =========  =======  =================  =======  ======

One program is best for trainings of 34 steps: its step takes 0.45 times as long as PyTorch's fastest step. With so few
candidates sharing the compilation, the total time per candidate is longer than PyTorch's. A specialised step takes
eight times as long as the same program alone, because it shares the cores with compilations.

At CIFAR-10's size, on the same machine and day (``--setting cifar10 --timed 2 --sample 1 --torch-sample 2
--cifar10.steps 24``, 6 min 58 s; GiB are XLA's plan, for each of two devices in the first row and for one in the
second):

====================================  =========  =======  =======  ====
way                                   compile s  ms/step  of peak  GiB
====================================  =========  =======  =======  ====
one program, 2 candidates                  23.2     1496    8.92%  1.32
program per candidate, the smaller one     58.2     1050   12.83%  2.35
PyTorch eager, 1 process, 2 threads           -     1639    8.14%     -
PyTorch eager, 2 processes, 1 thread          -     1479    9.03%     -
====================================  =========  =======  =======  ====

On an NVIDIA H100 80GB with jax 0.11.2 (bfloat16 products of 8192 rows: 778 TFLOP/s), the second command with
``--sample 1`` took 96 s to compile and 47 ms per step for sequential candidates, 0.14 % of the peak. With 4 vmapped
candidates it took 70 s to compile and 105 ms per step and candidate, 0.06 %, because vmapped candidates compute every
branch; the form without control flow did not exist yet. 16 vmapped and the other rows did not fit into 5.5 minutes. The
small setting in float32, 32 candidates: 46 s to compile, 9.2 ms per step, 132 candidates per minute.
"""

import dataclasses
import importlib.util
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lanas_jax.candidates.cost_model import time_steps
from lanas_jax.candidates.population import Population
from lanas_jax.candidates.specialised import Specialised
from lanas_jax.commands import help_text
from lanas_jax.data import digits as digits_data
from lanas_jax.data.splits import SearchData
from lanas_jax.experiments import digits
from lanas_jax.experiments.benchmarks.step_timing import planned_bytes, random_data, share_of_peak
from lanas_jax.experiments.benchmarks.table import Timing, line, show_timings, timings_report
from lanas_jax.models.nasnet import NASNet
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.devices import one_device_per_core
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.training.peak import measure_peak
from lanas_jax.training.sgd import TrainConfig

WIDTH = 118  # width of the table in characters, without a terminal


@dataclasses.dataclass(frozen=True)
class Cifar10Config:
    """Settings of the cifar10 size.

    Attributes:
      blocks: number of blocks per cell.
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack.
      image_size: height and width of the images, in pixels.
      batch_size: number of images per step.
      images: number of random images in memory.
      steps: number of timed steps per network.
      proxy_images: number of images in a candidate's whole training, for candidates per minute: one epoch of 40,000.
    """

    blocks: int = 7
    channels: int = 16
    cells: int = 8
    image_size: int = 32
    batch_size: int = 128
    images: int = 1024
    steps: int = 16
    proxy_images: int = 40_000


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark.

    Attributes:
      setting: size of the candidates.
      dtype: compute dtype; parameters are float32.
      vmapped: numbers of vmapped candidates per device, one row for each; default: sequential training.
      candidates: number of networks trained to the end by one program, in the small setting.
      timed: number of networks whose steps are timed.
      sample: number of these networks with a separate program each.
      torch_sample: number of these networks trained in PyTorch, if it is installed.
      minutes: time after which no row is started; default: no limit.
      seed: random seed of codes and weights.
      json: output file of the figures; default: none.
      small: settings of the small size.
      cifar10: settings of the cifar10 size.
    """

    setting: Literal["small", "cifar10"] = "small"
    dtype: Literal["float32", "bfloat16"] = "float32"
    vmapped: tuple[int, ...] = ()
    candidates: int = 64
    timed: int = 16
    sample: int = 6
    torch_sample: int = 16
    minutes: float | None = None
    seed: int = 0
    json: Path | None = None
    small: digits.Config = dataclasses.field(default_factory=digits.Config)
    cifar10: Cifar10Config = dataclasses.field(default_factory=Cifar10Config)


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """Networks, data and training settings of the benchmark.

    Attributes:
      network: network definition of all candidates.
      data: training and evaluation data.
      training: training settings, including the number of steps of a whole training if `whole`.
      whole: True if candidates are trained to the end, False if only steps are timed.
      steps: number of steps per dispatch.
      proxy_steps: number of steps of a candidate's whole training.
      per_device: number of candidates per device, trained sequentially, if none are vmapped.
    """

    network: NASNet
    data: SearchData
    training: TrainConfig
    whole: bool
    steps: int
    proxy_steps: int
    per_device: int


def small(config: Config) -> Setting:
    """Returns the small setting, on digits."""
    network, data = NASNet(digits.space(config.small), jnp.dtype(config.dtype)), digits_data.load_digits().search
    training = digits.training(config.small)
    steps = training.steps(len(data.train))
    per_device = -(-config.small.batch // jax.local_device_count())
    return Setting(network, data, training, True, steps, steps, per_device)


def cifar10(config: Config) -> Setting:
    """Returns the cifar10 setting, on noise in the shape of CIFAR-10."""
    size = config.cifar10
    space = NASNetSpace(size.blocks, channels=size.channels, cells=size.cells, image_size=size.image_size)
    data = random_data(space, size.images, size.batch_size, config.seed)
    training = TrainConfig(1, size.batch_size, learning_rate=0.025)
    proxy_steps = training.steps(size.proxy_images)
    return Setting(NASNet(space, jnp.dtype(config.dtype)), data, training, False, size.steps, proxy_steps, 1)


class CandidateBenchmark:
    """Measures the rows of the table, with common codes, keys and peak rates."""

    def __init__(self, config: Config):
        self.config = config
        self.setting = small(config) if config.setting == "small" else cifar10(config)
        self.dtype = jnp.dtype(config.dtype)
        space = self.setting.network.space
        code_key, train_key = jax.random.split(jax.random.key(config.seed))
        number = max(config.candidates if self.setting.whole else 0, config.timed, config.sample, config.torch_sample)
        self.codes = np.asarray(space.canonical(space.random(code_key, number)))
        self.keys = jax.random.split(train_key, number)
        self.peaks: dict[int, float] = {}

    def peak(self, devices: Sequence[jax.Device]) -> float:
        """Returns the measured total rate of matrix products on the devices, in operations per second."""
        if len(devices) not in self.peaks:
            self.peaks[len(devices)] = measure_peak(self.dtype, devices)
        return self.peaks[len(devices)]

    def share(self, codes: np.ndarray, step_seconds: float, devices: Sequence[jax.Device]) -> float:
        """Returns the share of the peak rate reached by a training step."""
        multiply_adds = self.setting.network.space.cost(codes).multiply_adds
        return share_of_peak(multiply_adds, self.setting.training.batch_size, step_seconds, self.peak(devices))

    def one_program(self, per_device: int, vmapped: bool) -> Timing:
        """Measures all candidates with one program."""
        setting, devices = self.setting, jax.local_devices()
        population = Population(
            setting.network.as_branchless() if vmapped else setting.network,
            setting.training,
            per_device=per_device,
            vmapped=vmapped,
            steps_per_dispatch=setting.steps,
        )
        programs = population.compile(setting.data)
        results = None
        if setting.whole:
            results = programs.run(self.codes[: self.config.candidates], self.keys[: self.config.candidates])
        step_seconds, timed = time_steps(programs, self.codes[: self.config.timed], self.keys[: self.config.timed])
        row = Timing(
            "one program" + f", {per_device} vmapped" * vmapped,
            len(results.steps) if results else len(timed),
            programs.compile_seconds,
            step_seconds,
            self.share(timed, step_seconds, devices),
            setting.proxy_steps,
            planned_bytes(programs),
        )
        return _trained(row, results.seconds, results.accuracy) if results else row

    def specialised(self) -> Timing:
        """Measures one program per candidate, compiled in threads, on all devices in parallel."""
        setting, n = self.setting, self.config.sample
        plan = Specialised(setting.network, setting.training, setting.data, steps_per_dispatch=setting.steps)
        results, _ = plan.train(self.codes[:n], self.keys[:n])
        step_seconds = results.seconds / int(results.steps.sum())
        row = Timing(
            "specialised",
            n,
            float(results.compile_seconds.sum()),
            step_seconds,
            self.share(self.codes[:n], step_seconds, jax.local_devices()),
            setting.proxy_steps,
        )
        return _trained(row, results.seconds, results.accuracy)

    def program_each(self) -> Timing:
        """Measures one program per candidate, run sequentially; XLA compiles and runs with all threads."""
        setting, devices = self.setting, jax.local_devices()[:1]
        compile_seconds, step_seconds, train_seconds = [], [], []
        accuracies, planned = [], []
        sample = self.codes[: self.config.sample]
        for i, code in enumerate(sample):
            network = setting.network.for_code(code)
            population = Population(network, setting.training, devices, 1, steps_per_dispatch=setting.steps)
            programs = population.compile(setting.data)
            compile_seconds.append(programs.compile_seconds)
            if setting.whole:
                results = programs.run(code[None], self.keys[i : i + 1])
                train_seconds.append(results.seconds)
                accuracies.append(results.accuracy)
            step_seconds.append(time_steps(programs, code[None], self.keys[i : i + 1])[0])
            planned.append(planned_bytes(programs) or 0)
        row = Timing(
            "program per candidate",
            len(sample),
            sum(compile_seconds),
            float(np.mean(step_seconds)),
            self.share(sample, float(np.mean(step_seconds)), devices),
            setting.proxy_steps,
            max(planned) or None,
        )
        return _trained(row, sum(train_seconds), np.concatenate(accuracies)) if setting.whole else row

    def torch_eager(self, processes: int, threads: int, device: str) -> Timing:
        """Measures PyTorch in eager mode, with the given number of processes and of threads per process."""
        setting, dtype = self.setting, self.config.dtype
        sample = self.codes[: self.config.torch_sample]
        whole, seconds, accuracies = (setting.network.space, setting.data, setting.training), None, None
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, _torch_start, (threads,)) as pool:
            steps = partial(_torch_steps, whole, setting.steps, device, dtype)
            list(pool.map(partial(_torch_steps, whole, 1, device, dtype), [sample[0]] * processes))
            if setting.whole:
                began = time.perf_counter()
                accuracies = list(pool.map(partial(_torch_train, whole, device, dtype), sample, range(len(sample))))
                seconds = time.perf_counter() - began
            step_seconds = float(np.mean(list(pool.map(steps, sample)))) / processes
        row = Timing(
            "PyTorch eager, " + (f"{processes} x {threads} threads" if device == "cpu" else device),
            len(sample),
            0.0,
            step_seconds,
            self.share(sample, step_seconds, jax.local_devices()),
            setting.proxy_steps,
        )
        return _trained(row, seconds, np.array(accuracies)) if seconds is not None else row

    def rows(self) -> Iterator[Callable[[], Timing]]:
        """Yields a function for each row that can be measured on this machine."""
        config = self.config
        layouts = [(k, k > 1) for k in config.vmapped] or [(self.setting.per_device, False)]
        for per_device, vmapped in layouts:
            yield partial(self.one_program, per_device, vmapped)
        if config.sample and self.setting.whole:
            yield self.specialised
        if config.sample:
            yield self.program_each
        if config.torch_sample and importlib.util.find_spec("torch") is not None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            if jax.default_backend() == "gpu":
                yield partial(self.torch_eager, 1, cores, "cuda")
            elif jax.default_backend() == "cpu":
                for processes, threads in dict.fromkeys([(1, cores), (cores, 1)]):
                    yield partial(self.torch_eager, processes, threads, "cpu")


def _trained(row: Timing, seconds: float, accuracy: np.ndarray) -> Timing:
    return dataclasses.replace(row, train_seconds=seconds, accuracy=float(accuracy.mean()))


def _torch_start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _torch_train(
    task: tuple[NASNetSpace, SearchData, TrainConfig], device: str, dtype: str, code: np.ndarray, seed: int
) -> float:
    from lanas_jax.experiments.benchmarks import torch_nasnet

    space, data, config = task
    return torch_nasnet.train_torch_candidate(space, code, data, config, seed, device, dtype)


def _torch_steps(
    task: tuple[NASNetSpace, SearchData, TrainConfig], steps: int, device: str, dtype: str, code: np.ndarray
) -> float:
    from lanas_jax.experiments.benchmarks import torch_nasnet

    space, data, config = task
    return torch_nasnet.step_seconds(space, code, data, config, 0, steps, device, dtype)


def measure_rows(rows: Iterable[Callable[[], Timing]], minutes: float | None = None) -> Iterator[Timing | str]:
    """Yields rows until the time is over; yields the error message of a row that fails, usually for lack of memory."""
    began = time.perf_counter()
    for row in rows:
        if minutes is not None and time.perf_counter() - began > 60 * minutes:
            yield f"{minutes:g} minutes are over; the remaining rows are skipped"
            return
        try:
            yield row()
        except jax.errors.JaxRuntimeError as error:
            yield f"a row failed: {str(error).splitlines()[0]}"


def main() -> None:
    """Measures the rows, prints the table and writes the figures."""
    config = help_text.parse_documented(Config, __doc__)
    one_device_per_core()
    console, timings, benchmark = terminal(width=WIDTH), [], CandidateBenchmark(config)
    try:
        for row in measure_rows(benchmark.rows(), config.minutes):
            if isinstance(row, str):
                console.print(row)
                continue
            timings.append(row)
            console.print(line(row, timings[0]))
            if config.json is not None:
                config.json.write_text(json.dumps(timings_report(config, benchmark.peaks, timings), indent=2) + "\n")
    finally:
        if timings:
            show_timings(config, benchmark.peaks, timings, console)


if __name__ == "__main__":
    main()
