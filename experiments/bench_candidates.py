"""How fast candidates train: one program with the code as data against a program per candidate, and PyTorch.

Setting: that of `experiments/digits.py`, random codes. Three ways, each with everything counted (tracing, compiling,
initial weights, training, evaluation):

- *one program*: `lanas_jax.training.population`, the code is data; all candidates, devices side by side
- *program per candidate*: the network built for its code alone, compiled and trained by the same functions; a sample,
  because it takes long
- *PyTorch eager*, where torch is installed: the same networks, steps and batches; a sample; once as one process with
  all threads and once as one single-threaded process per core. Starting the processes is not counted

Run it on an otherwise idle machine; it takes four minutes on 2 CPU cores::

    python -m experiments.bench_candidates [--candidates 64] [--sample 6] [--json PATH]

On 2 cores of an AMD EPYC with jax 0.10.2 and torch 2.13.0, 64 candidates by one program took 21 s to compile and 24 s
to train: 0.70 s each, 162 a minute after the compilation. A program per candidate (6 of them) took 21 s each, 30 times
as long; PyTorch (16 of them) 1.3 s each in one process and 0.78 s in two.
"""

import dataclasses
import importlib.util
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray
from rich.console import Console
from rich.table import Table

from experiments import digits
from lanas_jax.data import digits as digits_data
from lanas_jax.data.splits import SearchData
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.training.population import Population, one_device_per_core
from lanas_jax.training.step import TrainConfig
from models.nasnet import NASNet

WIDTH = 118  # of the table in characters, where there is no terminal


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark.

    Attributes:
      candidates: networks trained by one program.
      sample: of these, how many are trained with a program each.
      torch_sample: of these, how many are trained in PyTorch, where it is installed.
      seed: of codes and weights.
      json: where to write the figures; nowhere by default.
      setting: of the candidates.
    """

    candidates: int = 64
    sample: int = 6
    torch_sample: int = 16
    seed: int = 0
    json: Path | None = None
    setting: digits.Config = dataclasses.field(default_factory=digits.Config)


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one way took.

    Attributes:
      way: which.
      candidates: how many it trained.
      compile_seconds: of tracing and compiling, all candidates together.
      train_seconds: of the rest.
      accuracy: mean over its candidates, on the validation split.
    """

    way: str
    candidates: int
    compile_seconds: float
    train_seconds: float
    accuracy: float

    @property
    def seconds_per_candidate(self) -> float:
        """Everything counted."""
        return (self.compile_seconds + self.train_seconds) / self.candidates

    @property
    def per_minute(self) -> float:
        """Candidates a minute, compilation not counted."""
        return 60 * self.candidates / self.train_seconds


@dataclasses.dataclass(frozen=True, eq=False)
class Built:
    """A network built for one code, with the face of `lanas_jax.training.step.Network`."""

    network: NASNet
    fixed: np.ndarray

    @property
    def space(self) -> SearchSpace:
        """The space of the code."""
        return self.network.space

    def _split(self, key: PRNGKeyArray) -> tuple[Any, Any, Any]:
        params, batch_stats = self.network.init(key, self.fixed)
        return nnx.split(self.network.specialise(params, batch_stats, self.fixed), nnx.Param, nnx.BatchStat)

    def init(self, key: PRNGKeyArray, code: Array) -> tuple[Any, Any]:
        """Its weights and statistics, and no others."""
        del code
        _, params, batch_stats = self._split(key)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)

    def apply(
        self, params: Any, batch_stats: Any, code: Array, images: Float[Array, "n h w c"], *, train: bool
    ) -> tuple[Array, Any]:
        """Logits and the statistics that follow."""
        del code
        graph, *states = nnx.eval_shape(lambda: self._split(jax.random.key(0)))
        for state, values in zip(states, (params, batch_stats), strict=True):
            nnx.replace_by_pure_dict(state, values)
        network = nnx.merge(graph, *states)
        network.train() if train else network.eval()
        logits = network(images)
        return logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)) if train else batch_stats


def one_program(
    network: NASNet, data: SearchData, config: TrainConfig, codes: np.ndarray, keys: Array, per_device: int
) -> Timing:
    """All candidates by one program."""
    programs = Population(network, config, per_device=per_device).compile(data)
    results = programs.run(codes, keys)
    way = f"one program, {programs.population.mesh.size} devices"
    return Timing(way, len(codes), programs.compile_seconds, results.seconds, float(results.accuracy.mean()))


def program_each(network: NASNet, data: SearchData, config: TrainConfig, codes: np.ndarray, keys: Array) -> Timing:
    """A program for each candidate, one after the other; XLA compiles and runs with all threads."""
    compile_seconds = train_seconds = 0.0
    accuracies = []
    for i, code in enumerate(codes):
        population = Population(Built(network, code), config, jax.local_devices()[:1], per_device=1)
        programs = population.compile(data)
        results = programs.run(code[None], keys[i : i + 1])
        compile_seconds += programs.compile_seconds
        train_seconds += results.seconds
        accuracies.append(results.accuracy[0])
    return Timing("program per candidate", len(codes), compile_seconds, train_seconds, float(np.mean(accuracies)))


def torch_eager(
    space: NASNetSpace, data: SearchData, config: TrainConfig, codes: np.ndarray, processes: int, threads: int
) -> Timing:
    """PyTorch in eager mode, in that many processes of that many threads."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _torch_start, (threads,)) as pool:
        list(pool.map(_torch_train, [(space, codes[0], data, dataclasses.replace(config, epochs=1), 0)] * processes))
        began = time.perf_counter()
        accuracies = list(pool.map(_torch_train, [(space, code, data, config, i) for i, code in enumerate(codes)]))
        seconds = time.perf_counter() - began
    way = f"PyTorch eager, {processes} process{'es' * (processes > 1)} x {threads} thread{'s' * (threads > 1)}"
    return Timing(way, len(codes), 0.0, seconds, float(np.mean(accuracies)))


def _torch_start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _torch_train(task: tuple[NASNetSpace, np.ndarray, SearchData, TrainConfig, int]) -> float:
    from experiments import torch_nasnet

    return torch_nasnet.train(*task)


def measure(config: Config) -> Iterator[Timing]:
    """Every way that can be measured here, one after the other."""
    space = digits.space(config.setting)
    network, data, train_config = NASNet(space), digits_data.load().search, digits.training(config.setting)
    code_key, train_key = jax.random.split(jax.random.key(config.seed))
    codes = np.asarray(space.canonical(space.random(code_key, config.candidates)))
    keys = jax.random.split(train_key, config.candidates)
    per_device = -(-config.setting.batch // jax.local_device_count())
    yield one_program(network, data, train_config, codes, keys, per_device)
    sample = codes[: config.sample]
    if len(sample):
        yield program_each(network, data, train_config, sample, keys[: config.sample])
    if importlib.util.find_spec("torch") is not None and config.torch_sample:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for processes, threads in dict.fromkeys([(1, cores), (cores, 1)]):
            yield torch_eager(space, data, train_config, codes[: config.torch_sample], processes, threads)


def show(timings: list[Timing], console: Console) -> None:
    """The table."""
    table = Table(title="training candidates: digits, everything counted")
    for title in ("way", "trained", "compile s", "train s", "s each", "per min", "ratio", "accuracy"):
        table.add_column(title, justify="left" if title == "way" else "right", no_wrap=True)
    for timing in timings:
        table.add_row(
            timing.way,
            str(timing.candidates),
            f"{timing.compile_seconds:.1f}",
            f"{timing.train_seconds:.1f}",
            f"{timing.seconds_per_candidate:.2f}",
            f"{timing.per_minute:.0f}",
            f"{timing.seconds_per_candidate / timings[0].seconds_per_candidate:.1f}",
            f"{timing.accuracy:.3f}",
        )
    console.print(table)
    console.print(
        "s each: seconds per candidate, compilation counted and shared by the candidates of the row. per min: "
        "candidates a minute, after the compilation. ratio: s each, in units of the first row. Rows with fewer "
        "candidates are samples; their figures are those of the sample, nothing is extrapolated."
    )


def report(config: Config, timings: list[Timing]) -> dict[str, Any]:
    """The figures, and what they were measured on and with."""
    rows = [
        {
            **dataclasses.asdict(timing),
            "seconds_per_candidate": timing.seconds_per_candidate,
            "candidates_per_minute_after_compile": timing.per_minute,
            "ratio_to_one_program": timing.seconds_per_candidate / timings[0].seconds_per_candidate,
        }
        for timing in timings
    ]
    return {
        "config": {name: value for name, value in dataclasses.asdict(config).items() if name != "json"},
        "machine": f"{platform.machine()}, {len(jax.local_devices())} x {jax.local_devices()[0].device_kind}",
        "software": {"python": platform.python_version(), "jax": jax.__version__},
        "rows": rows,
    }


def main() -> None:
    """Measures, prints, writes."""
    config = tyro.cli(Config, description=__doc__)
    one_device_per_core()
    console, timings = Console(), []
    if not console.is_terminal:
        console.width = WIDTH
    for timing in measure(config):
        timings.append(timing)
        console.print(f"{timing.way}: {timing.seconds_per_candidate:.2f} s per candidate", highlight=False)
    show(timings, console)
    if config.json is not None:
        config.json.write_text(json.dumps(report(config, timings), indent=2) + "\n")


if __name__ == "__main__":
    main()
