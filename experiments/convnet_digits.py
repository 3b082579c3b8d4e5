"""ConvNets for handwritten digits: every candidate is trained from scratch; all of them are a benchmark table.

Source: section 5.1 of arXiv 1906.06832, whose table of 65,643 ConvNets was never published. Here, the networks of
`ConvNetSpace` learn scikit-learn's 1,797 digits: 297 for training, 750 for search validation, 750 for testing::

    lanas search convnet_digits --out runs/convnets
    lanas train runs/convnets    # the winner, on the search-validation images too

All 22,620 networks, trained with two seeds each, are the table `convnet-digits` for `lanas compare`::

    taskset -c 0 python -m lanas_jax.experiments.convnet_digits OUT
    taskset -c 1 python -m lanas_jax.experiments.convnet_digits OUT --part 1 --parts 2    # a second process helps

OUT receives a file per 256 networks (`lanas_jax/tables/complete.py`), so a process may be stopped and started again at
any time. Once all files exist, ``OUT/convnet-digits.npz`` holds the whole table, with the parameters, the multiply-adds
and the seconds of the processor.

Networks are trained in the code-as-data form, 16 vmapped, in float32. A training takes 0.09 s of one core (jax
0.10.2), whatever the code: the masked program computes the largest network. So the measured seconds say what the table
cost, not how fast a network is.

The table is part of the package. `lanas_jax/tables/shipped/README.md` describes it and its noise; docs/benchmarks.md
has the comparison of searchers on it. Its 45,240 trainings took 1.1 hours of the processor (jax 0.10.2, 2-core cloud
machine, 29 November 2026).
"""

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from jaxtyping import Float, Int

import lanas_jax as lx
from lanas_jax.candidates.population import CompiledPopulation, Placed, Population, place
from lanas_jax.data import digits
from lanas_jax.data.splits import Dataset, SearchData
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.models.convnet import ConvNet
from lanas_jax.models.fixed import FinalFixed
from lanas_jax.runtime.devices import per_device_share
from lanas_jax.spaces.convnet import ConvNetSpace
from lanas_jax.study import Experiment
from lanas_jax.tables.benchmark import Benchmark
from lanas_jax.tables.complete import CompleteTable, refuse_part
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import TrainConfig

NAME = "convnet-digits"
SEARCHERS = {"lanas": lx.LaNAS, "random": lx.RandomSearch, "evolution": lx.RegularizedEvolution}
COLUMNS = ("validation", "test", "validation_loss", "test_loss", "steps", "seconds")  # of each training
RECIPE = Recipe(epochs=60, batch_size=32, learning_rate=0.1, drop_path=0.0, ema=0.99, auxiliary_weight=0.0)
HELD_OUT = 750  # images for search validation, and as many for testing


def load_few_digits() -> Dataset:
    """Returns the digits, 297 of them for training."""
    return digits.load_digits(validation=HELD_OUT, test=HELD_OUT)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: random seed of everything except the data split.
      budget: number of candidates to train.
      batch: number of candidates proposed and trained together.
      searcher: search algorithm.
      epochs: number of training epochs per candidate.
      batch_size: number of images per step.
      learning_rate: initial learning rate.
    """

    seed: int = 0
    budget: int = 64
    batch: int = 8
    searcher: Literal["lanas", "random", "evolution"] = "lanas"
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 0.2


def build(config: Config) -> Experiment:
    """Returns the search experiment; its candidates train as those of the table."""
    space = ConvNetSpace()
    evaluator = FromScratch(
        ConvNet(space),
        load_few_digits().search,
        TrainConfig(config.epochs, config.batch_size, config.learning_rate),
        per_device=per_device_share(config.batch),
        strategy="branchless",
    )
    searcher = SEARCHERS[config.searcher](space)
    return Experiment("convnet_digits", space, searcher, evaluator, config.budget, config.batch, config.seed)


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner training.

    Attributes:
      recipe: training recipe.
      crop: maximum random shift of the digits, in pixels; images are not mirrored.
      seed: random seed.
    """

    recipe: Recipe = RECIPE
    crop: int = 1
    seed: int = 0


def final(config: Config, settings: Final, code: Int[np.ndarray, " dims"]) -> FinalTraining:
    """Returns the winner training; the network has the size that its code says."""
    del config
    network = FinalFixed(ConvNet(ConvNetSpace()), code)
    return FinalTraining(network, load_few_digits, settings.recipe, Augmentation(crop=settings.crop), settings.seed)


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """Settings of the table.

    Attributes:
      out: output folder, which is created, or continued if the settings are the same.
      epochs: number of training epochs per network.
      batch_size: number of images per step.
      learning_rate: initial learning rate.
      seeds: number of trainings of each network.
      networks: number of networks per file.
      vmapped: number of networks in one program.
      part: index of this process among `parts`; it makes every file whose number has this remainder.
      parts: number of processes that divide the files among them.
    """

    out: Annotated[Path, tyro.conf.Positional]
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 0.2
    seeds: int = 2
    networks: int = 256
    vmapped: int = 16
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        refuse_part(self.part, self.parts)

    @property
    def table(self) -> CompleteTable:
        """The files of the table."""
        numbers = {name: value for name, value in vars(self).items() if name not in ("out", "part", "parts")}
        settings = json.dumps({**numbers, "jax": jax.__version__})
        return CompleteTable(self.out, NAME, ConvNetSpace(), self.networks, COLUMNS, settings)


@functools.cache
def programs(config: TableConfig) -> tuple[CompiledPopulation, Placed]:
    """Compiles the training of vmapped networks.

    Returns:
      The programs with the data of the search, and the same data with the test split in place of the validation split.
    """
    data = load_few_digits()
    training = TrainConfig(config.epochs, config.batch_size, config.learning_rate)
    devices = jax.devices()[:1]
    population = Population(
        ConvNet(ConvNetSpace()),
        training,
        devices,
        per_device=config.vmapped,
        vmapped=True,
        steps_per_dispatch=training.steps(len(data.search.train)),
    )
    tested = place(SearchData(data.search.train, data.test, digits.CLASSES), devices)
    return population.compile(data.search), tested


def train_rows(
    compiled: CompiledPopulation, tested: Placed, rows: Int[np.ndarray, " n"], seeds: int
) -> dict[str, Float[np.ndarray, "n seeds"]]:
    """Trains networks with every seed; the key of a training depends on its seed and its row of the space alone.

    Returns:
      The `COLUMNS`. Seconds are those of the processor, of training and evaluation, divided equally among the
      vmapped networks.
    """
    codes, width = np.asarray(compiled.population.network.space.enumerate())[rows], compiled.population.width
    found: dict[str, Any] = {column: np.zeros((len(rows), seeds), np.float32) for column in COLUMNS}
    for seed in range(seeds):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows)
        for start in range(0, len(rows), width):
            here, began = slice(start, start + width), time.process_time()
            state, placed = compiled.fit(codes[here], keys[here])
            n = len(codes[here])
            for part, held_out in (("validation", compiled.placed.held_out), ("test", tested.held_out)):
                scores = compiled.evaluate(state, placed, *held_out)
                found[part][here, seed] = np.asarray(scores.accuracy)[:n]
                found[f"{part}_loss"][here, seed] = np.asarray(scores.loss)[:n]
            found["steps"][here, seed] = np.asarray(state.step)[:n]
            found["seconds"][here, seed] = (time.process_time() - began) / n
    return found


def write_table(config: TableConfig) -> Benchmark:
    """Writes the whole table, in the order of the space, and returns it.

    Besides the fields of a `Benchmark`, the file has ``parameters`` and ``multiply_adds``, ``[networks]``, and the
    ``seconds`` of each training, ``[networks, seeds]``.

    Raises:
      FileError: a file is missing, damaged or was made with other settings.
    """
    found, notes = config.table.joined(), f"{config.epochs} epochs, every training"
    return config.table.save(found["validation"], found["test"], notes, {"seconds": found["seconds"]})


def main(config: TableConfig) -> None:
    """Makes the missing files of a process, and the table once all files exist.

    Raises:
      FileError: a file of the process is damaged or was made with other settings.
    """

    def train(rows: Int[np.ndarray, " n"]) -> dict[str, Float[np.ndarray, "n seeds"]]:
        return train_rows(*programs(config), rows, config.seeds)  # compiled only if a file is missing

    table = config.table
    table.make(train, config.part, config.parts, lambda found: f"mean accuracy {found['validation'].mean():.3f}")
    if table.is_complete:
        print(f"{table.path}: {len(write_table(config)):,} networks, {config.seeds} trainings of each")


if __name__ == "__main__":
    main(tyro.cli(TableConfig))
