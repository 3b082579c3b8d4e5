"""Recurrent cells for language modelling: every candidate is trained from scratch as a model of characters.

Source: section 5.1 of arXiv 1906.06832, whose table of 10,000 LSTMs was never published. Here, cells of
`RecurrentSpace` learn the documentation of Python's language, which every Python includes, or a text file::

    lanas search recurrent_text --out runs/text
    lanas search recurrent_text --file book.txt --out runs/book

The value is the negative number of bits per symbol after 500 steps with 24 units; a training takes 0.3 s of one core.

The winner is trained with more units and for longer; the export prints a text that it writes::

    lanas train runs/text
    lanas export runs/text --sample.prompt "the class " --sample.temperature 0.5

The whole space, with two seeds, is a table for `lanas compare`::

    taskset -c 0 python -m lanas_jax.experiments.recurrent_text OUT
    taskset -c 1 python -m lanas_jax.experiments.recurrent_text OUT --part 1 --parts 2    # a second process helps

OUT receives a file per 128 cells (`lanas_jax/tables/complete.py`), so a process may be stopped and started again at any
time. Once all files exist, ``OUT/recurrent-text.npz`` holds the table, with the parameters, the multiply-adds and the
seconds of the processor. In the table, a training that diverged, or that ended worse than guessing, has the bits of
guessing: 5, for 32 symbols. The files hold what was measured. Every cell takes the same time, because one program
trains all cells.

The shipped table was made by a process of one core, which ``taskset`` sets. On more cores, sums round differently: of
32 trainings repeated on two cores, 12 had equal bits, 16 differed by less than .03, and four unstable ones by more.
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
from lanas_jax.data.text import SYMBOLS, Text, load_text
from lanas_jax.evaluators.from_text import FromText
from lanas_jax.models.recurrent import FinalRecurrent, RecurrentModels
from lanas_jax.spaces.recurrent import RecurrentSpace
from lanas_jax.study import Experiment
from lanas_jax.tables.benchmark import Benchmark
from lanas_jax.tables.complete import CompleteTable, refuse_part
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
      batch: number of candidates proposed and trained together.
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
      vmapped: number of cells in one program.
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
        refuse_part(self.part, self.parts)

    @property
    def space(self) -> RecurrentSpace:
        """The space of the cells."""
        return RecurrentSpace(units=self.units, symbols=SYMBOLS)

    def table(self, text: Text) -> CompleteTable:
        """Returns the files of the table of a text."""
        numbers = {name: getattr(self, name) for name in ("units", "seeds", "cells", "vmapped")}
        more = {**dataclasses.asdict(self.training), "text": text.digest, "jax": jax.__version__}
        return CompleteTable(self.out, NAME, self.space, self.cells, COLUMNS, json.dumps(numbers | more))


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


def write_table(config: TextTableConfig, table: CompleteTable) -> Benchmark:
    """Writes the whole table, in the order of the space, and returns it. No training is worse than guessing.

    Besides the fields of a `Benchmark`, the file has ``parameters`` and ``multiply_adds``, ``[cells]``; the ``seconds``
    of each training and whether it ``diverged``, so that its bits were not finite, ``[cells, seeds]``; and the
    ``settings``.

    Raises:
      FileError: a file is missing, damaged or was made with other settings.
    """
    found = table.joined()
    measured = [found[name] for name in ("validation", "test")]
    validation, test = (-np.minimum(np.nan_to_num(bits, nan=GUESSING), GUESSING) for bits in measured)
    notes = f"negative bits per symbol after {config.training.steps} steps, every training"
    diverged = ~np.isfinite(measured).all(axis=0)
    more = {"seconds": found["seconds"], "settings": np.array(table.settings), "diverged": diverged}
    return table.save(validation, test, notes, more)


def main(config: TextTableConfig) -> None:
    """Makes the missing files of a process, and the table once all files exist.

    Raises:
      FileError: a file of the process is damaged, or was made with other settings or from another text.
    """
    text = load_text(config.file)
    evaluator, table = (
        FromText(RecurrentModels(config.space), text, config.training, config.vmapped),
        config.table(text),
    )

    def describe(found: dict[str, Float[np.ndarray, "n seeds"]]) -> str:
        return f"median bits {np.median(np.fmin(found['validation'], GUESSING)):.3f}"

    table.make(lambda rows: train_rows(evaluator, rows, config.seeds), config.part, config.parts, describe)
    if table.is_complete:
        print(f"{table.path}: {len(write_table(config, table)):,} cells, {config.seeds} trainings of each")


if __name__ == "__main__":
    main(tyro.cli(TextTableConfig))
