"""Recurrent cells for language modelling: every candidate is trained from scratch as a model of characters.

Source: section 5.1 of arXiv 1906.06832, whose table of 10,000 LSTMs was never published. Here, cells of
`RecurrentSpace` learn the documentation of Python's language, which every Python brings along, or a file of yours::

    lanas search recurrent_text --out runs/text
    lanas search recurrent_text --file book.txt --out runs/book

The value is the negative number of bits per symbol after 500 steps with 24 units; a training takes 0.3 s of one core.

The winner is trained with more units and for longer; the export prints a text that it writes::

    lanas train runs/text
    lanas export runs/text --sample.prompt "the class " --sample.temperature 0.5

The whole space, with two seeds, is a table for `lanas compare`::

    python -m lanas_jax.experiments.recurrent_text OUT
    python -m lanas_jax.experiments.recurrent_text OUT --part 1 --parts 2    # a second process helps

OUT receives a file per 128 cells. A process skips the files that exist, so it may be stopped and started again at any
time. Once all files exist, ``OUT/recurrent-text.npz`` holds the table, with the parameters, the multiply-adds and the
seconds of the processor. In the table, a training that diverged, or that ended worse than guessing, has the bits of
guessing: 5, for 32 symbols. The files hold what was measured. They hold random subsets of the space, so that statistics
of a part are those of the whole but for sampling. Every cell takes the same time, because one program trains all cells.
"""

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro
from jaxtyping import Float, Int

import lanas_jax as lx
from lanas_jax.data.text import SYMBOLS, load_text
from lanas_jax.evaluators.from_text import FromText
from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import fields_of, read_npz, write_npz
from lanas_jax.models.recurrent import FinalRecurrent, RecurrentModels
from lanas_jax.spaces.recurrent import RecurrentSpace
from lanas_jax.study import Experiment
from lanas_jax.tables.benchmark import Benchmark
from lanas_jax.trainer.language import LanguageTraining
from lanas_jax.training.language import GUESSING, TextTraining

NAME = "recurrent-text"
SEARCHERS = {"lanas": lx.LaNAS, "random": lx.RandomSearch, "evolution": lx.RegularizedEvolution}
TRAINING = TextTraining()
LONG = TextTraining(steps=5000, streams=32, length=64, learning_rate=0.005)
COLUMNS = ("validation", "test", "seconds")  # of each training: bits per symbol, and seconds of the processor


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: random seed.
      budget: number of candidates to train.
      batch: number of candidates asked for and trained together.
      searcher: search algorithm.
      file: text file in UTF-8; default: the documentation of this Python.
      units: size of the memory, of the output and of each gate.
      training: training of each candidate.
    """

    seed: int = 0
    budget: int = 64
    batch: int = 8
    searcher: Literal["lanas", "random", "evolution"] = "lanas"
    file: Path | None = None
    units: int = 24
    training: TextTraining = TRAINING


def build(config: Config) -> Experiment:
    """Returns the search experiment."""
    space = RecurrentSpace(units=config.units, symbols=SYMBOLS)
    evaluator = FromText(RecurrentModels(space), load_text(config.file), config.training, vmapped=config.batch)
    searcher = SEARCHERS[config.searcher](space)
    return Experiment("recurrent_text", space, searcher, evaluator, config.budget, config.batch, config.seed)


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner training.

    Attributes:
      recipe: training of the winner.
      units: size of the memory, of the output and of each gate.
      seed: random seed.
    """

    recipe: TextTraining = LONG
    units: int = 128
    seed: int = 0


def final(config: Config, settings: Final, code: Int[np.ndarray, " dims"]) -> LanguageTraining:
    """Returns the winner training on the text of the search."""
    space = RecurrentSpace(units=settings.units, symbols=SYMBOLS)
    network = FinalRecurrent(space, tuple(map(int, code)))
    return LanguageTraining(network, functools.partial(load_text, config.file), settings.recipe, settings.seed)


@dataclasses.dataclass(frozen=True)
class TextTableConfig:
    """Settings of the table.

    Attributes:
      out: output folder, which is created, or continued if the settings and the text are the same.
      file: text file in UTF-8; default: the documentation of this Python.
      units: size of the memory, of the output and of each gate.
      training: training of each cell.
      seeds: number of trainings of each cell.
      cells: number of cells per file.
      vmapped: number of cells trained side by side.
      part: index of this process among `parts`; it makes every file whose number has this remainder.
      parts: number of processes that divide the files among them.

    Raises:
      ValueError: `part` is not below `parts`.
    """

    out: Annotated[Path, tyro.conf.Positional]
    file: Path | None = None
    units: int = 24
    training: TextTraining = TRAINING
    seeds: int = 2
    cells: int = 128
    vmapped: int = 32
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part must be from 0 to parts - 1, {self.parts - 1}; got {self.part}")

    @property
    def space(self) -> RecurrentSpace:
        """The space of the cells."""
        return RecurrentSpace(units=self.units, symbols=SYMBOLS)


def files(config: TextTableConfig) -> dict[Path, Int[np.ndarray, " cells"]]:
    """Returns the files of all processes, each with its rows of the enumerated space, drawn at random."""
    rows = np.random.default_rng(0).permutation(len(config.space.enumerate()))
    starts = range(0, len(rows), config.cells)
    return {config.out / f"{i:04}.npz": rows[start : start + config.cells] for i, start in enumerate(starts)}


def train_rows(evaluator: FromText, rows: Int[np.ndarray, " n"], seeds: int) -> dict[str, Float[np.ndarray, "n seeds"]]:
    """Trains cells with every seed; the key of a training depends on its seed and its row of the space alone.

    Returns:
      The `COLUMNS`, as measured; bits may be infinite or NaN. Seconds are divided equally among the cells.
    """
    codes, text = np.asarray(evaluator.models.space.enumerate())[rows], evaluator.text
    found = {column: np.zeros((len(rows), seeds), np.float32) for column in COLUMNS}
    for seed in range(seeds):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows)
        began = time.process_time()
        bits = evaluator.train(codes, keys, (text.validation, text.test))
        found["validation"][:, seed], found["test"][:, seed] = bits.T
        found["seconds"][:, seed] = (time.process_time() - began) / len(rows)
    return found


def read_file(path: Path, settings: str) -> dict[str, np.ndarray]:
    """Reads the rows and columns of a file.

    Raises:
      FileError: the file is damaged, or was made with other settings or from another text.
    """
    arrays = read_npz(path, ("settings", "rows", *COLUMNS))
    if str(arrays.pop("settings")) != settings:
        raise FileError(f"{path} was made with other settings or from another text: choose another folder")
    return arrays


def write_table(config: TextTableConfig, settings: str) -> Benchmark:
    """Writes the whole table, in the order of the space, and returns it. No training is worse than guessing.

    Beside the fields of a `Benchmark`, the file has ``parameters`` and ``multiply_adds``, ``[cells]``; the ``seconds``
    of each training and whether it ``diverged``, so that its bits were not finite, ``[cells, seeds]``; and the
    ``settings``.

    Raises:
      FileError: a file is missing, damaged or was made with other settings.
    """
    parts, path = [read_file(path, settings) for path in files(config)], config.out / f"{NAME}.npz"
    order = np.argsort(np.concatenate([part["rows"] for part in parts]))
    columns = {name: np.concatenate([part[name] for part in parts])[order] for name in COLUMNS}
    measured = [columns[name] for name in ("validation", "test")]
    validation, test = (-np.minimum(np.nan_to_num(bits, nan=GUESSING), GUESSING) for bits in measured)
    notes = f"negative bits per symbol after {config.training.steps} steps, every training"
    table = Benchmark(NAME, config.space, config.space.enumerate(), validation, test, notes)
    table.save(path)
    cost, more = config.space.cost(table.codes), {"seconds": columns["seconds"], "settings": np.array(settings)}
    more |= {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds}
    more["diverged"] = ~np.isfinite(measured).all(axis=0)
    write_npz(path, {**read_npz(path, fields_of(path)), **more})
    return table


def main(config: TextTableConfig) -> None:
    """Makes the missing files of a process, and the table once all files exist."""
    config.out.mkdir(parents=True, exist_ok=True)
    text, space = load_text(config.file), config.space
    settings, every, codes = _settings(config, text.digest), files(config), np.asarray(space.enumerate())
    evaluator = FromText(RecurrentModels(space), text, config.training, config.vmapped)
    for i, (path, rows) in enumerate(every.items()):
        if i % config.parts != config.part:
            continue
        if path.exists():
            read_file(path, settings)
            continue
        began, cost = time.perf_counter(), space.cost(codes[rows])
        found = train_rows(evaluator, rows, config.seeds)
        costs = {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds}
        write_npz(path, {"settings": np.array(settings), "rows": rows, "codes": codes[rows], **costs, **found})
        each = (time.perf_counter() - began) / found["seconds"].size
        median = np.median(np.fmin(found["validation"], GUESSING))
        print(
            f"{time.strftime('%H:%M:%S')} {path.name} of {len(every)}: {each:.3f} s a training, "
            f"{found['seconds'].mean():.3f} s of the processor; median bits {median:.3f}",
            flush=True,
        )
    if all(path.exists() for path in every):
        table = write_table(config, settings)
        print(f"{config.out / NAME}.npz: {len(table):,} cells, {config.seeds} trainings of each")


def _settings(config: TextTableConfig, digest: str) -> str:
    """Returns the settings on which the results depend."""
    numbers = {name: getattr(config, name) for name in ("units", "seeds", "cells", "vmapped")}
    return json.dumps({**numbers, **dataclasses.asdict(config.training), "text": digest, "jax": jax.__version__})


if __name__ == "__main__":
    main(tyro.cli(TextTableConfig))
