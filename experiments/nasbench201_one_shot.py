r"""NAS-Bench-201 by one supernet on CIFAR-10, checked against the published accuracies of all 15,625 cells.

Source: the space and the accuracies are those of arXiv 2001.00326, the supernet is that of section 4.2 of arXiv
1906.06832, fair sampling is arXiv 1907.01845, and few-shot is arXiv 2006.06863. The supernet is much smaller than the
benchmark's networks: 8 channels instead of 16, one cell per stage instead of five, images of 16 x 16 pixels.

    lanas search nasbench201_one_shot --out runs/nb201               # trains the supernet, values 300 cells
    lanas rank runs/nb201 --against nasbench201-cifar10 --networks 600 --few-shot
    python -m lanas_jax.experiments.nasbench201_one_shot runs/nb201  # published accuracies of the picked cell
    lanas train runs/nb201                                           # the picked cell, at the benchmark's size

It needs CIFAR-10 (accepted formats: `lanas_jax/data/cifar10.py`). Another seed of the supernet:
``--seed 1 --supernet-seed 1``. On one core, the default training of 24 epochs takes 17 minutes, and a value 0.4 s.
`docs/ranking.md` has the correlations, which after 3 epochs are far below those of the number of parameters and after
24 epochs above them.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

import lanas_jax as lx
from lanas_jax.data import cifar10
from lanas_jax.data.splits import Dataset, SearchData
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.experiments.benchmarks.table import table
from lanas_jax.models.fixed import FinalFixed
from lanas_jax.models.nasbench import NASBench201, NASBench201Supernet
from lanas_jax.ranking.base import Ranking
from lanas_jax.runtime.console import print_table, terminal
from lanas_jax.runtime.devices import per_device_share
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.storage.trial import best
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import Experiment, run_folder
from lanas_jax.supernet.regions import OptionSplit, TreeSplit
from lanas_jax.supernet.training import ONE_SHOT
from lanas_jax.tables.catalogue import find_benchmark
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import TrainConfig

SEARCHERS = {
    "lanas": functools.partial(lx.LaNAS, capacity=512),
    "random": lx.RandomSearch,
    "evolution": lx.RegularizedEvolution,
}
BENCHMARK = "nasbench201-cifar10"
SPLITS: tuple[Literal["edge", "tree"], ...] = ("edge", "tree")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: random seed of the search.
      supernet_seed: random seed of the supernet and of the images that measure batch statistics.
      budget: number of cells to evaluate.
      batch: number of cells asked for and evaluated together.
      searcher: search algorithm.
      values: source of the values: one supernet, or sub-supernets.
      split: division into sub-supernets: one per operation of the edge from input to output, as in the few-shot paper,
        or one per leaf of a tree.
      supernet: folder of the trained supernet, which is trained there if missing; default: inside the run folder.
        Sub-supernets are in a sibling folder.
      data_dir: folder of CIFAR-10; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA.
      size: height and width of the images, in pixels.
      train: number of training images of the supernet; default: all that are not held out.
      validation: number of search-validation images, on which cells are compared.
      recalibration: number of training images for measuring each cell's batch statistics.
      channels: channels of the first stage.
      cells: number of cells in each of the three stages.
      fair: fair sampling of five cells per step, with the sum of their gradients; otherwise `passes` random cells per
        step, with the mean of their gradients.
      passes: number of random cells per step, without fair sampling and for sub-supernets.
      epochs: number of training epochs of the supernet.
      few_shot_epochs: number of epochs per sub-supernet, starting from the supernet's weights.
      batch_size: number of images per step.
      learning_rate: initial learning rate of the supernet; a fifth of it is that of sub-supernets.
    """

    seed: int = 0
    supernet_seed: int = 0
    budget: int = 300
    batch: int = 4
    searcher: Literal["lanas", "random", "evolution"] = "lanas"
    values: Literal["one_shot", "few_shot"] = "one_shot"
    split: Literal["edge", "tree"] = "edge"
    supernet: Path | None = None
    data_dir: Path | None = None
    size: int = 16
    train: int | None = None
    validation: int = 5_000
    recalibration: int = 256
    channels: int = 8
    cells: int = 1
    fair: bool = True
    passes: int = 2
    epochs: int = 24
    few_shot_epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 0.05


# The benchmark's recipe (arXiv 2001.00326, table 2).
RECIPE = Recipe(
    epochs=200,
    batch_size=256,
    learning_rate=0.1,
    nesterov=True,
    weight_decay=5e-4,
    clip=None,
    auxiliary_weight=0.0,
    drop_path=0.0,
    ema=None,
)


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner training.

    Attributes:
      recipe: training recipe.
      size: height and width of the images, in pixels.
      channels: channels of the first stage; must equal the supernet's to start from extracted weights.
      cells: number of cells in each stage.
      seed: random seed.
    """

    recipe: Recipe = RECIPE
    size: int = 32
    channels: int = 16
    cells: int = 5
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Rank:
    """Settings of a ranking.

    Attributes:
      few_shot: values of sub-supernets as further estimates, one for each `Config.split`; trains the sub-supernets.
      epochs: number of training epochs from scratch; no effect with a benchmark table.
      learning_rate: initial learning rate from scratch; no effect with a benchmark table.
    """

    few_shot: bool = False
    epochs: int = 2
    learning_rate: float = 0.05


def load_images(config: Config, size: int | None = None) -> Dataset:
    """Loads the images."""
    return cifar10.load_cifar10(
        config.data_dir, validation=config.validation, train=config.train, size=size or config.size
    )


def search_data(config: Config) -> SearchData:
    """Returns the data that a search may use."""
    return load_images(config).search


def augmentation(size: int) -> Augmentation:
    """Returns random crops after padding by an eighth of the size, as in the benchmark, and flips."""
    return Augmentation(crop=size // 8, flip=True)


def one_shot(config: Config) -> OneShot:
    """Returns the evaluator that values cells by one supernet."""
    recipe = dataclasses.replace(
        ONE_SHOT,
        epochs=config.epochs,
        passes=1 if config.fair else config.passes,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        checkpoint_seconds=60.0,
    )
    space = NASBench201Space(channels=config.channels, cells=config.cells, image_size=config.size)
    return OneShot(
        NASBench201Supernet(space),
        functools.partial(search_data, config),
        recipe,
        augmentation(config.size),
        config.supernet,
        config.recalibration,
        per_device=per_device_share(config.batch),
        seed=config.supernet_seed,
        fair=config.fair,
    )


def few_shot(config: Config, supernet: OneShot) -> FewShot:
    """Returns the evaluator that values cells by sub-supernets."""
    recipe = dataclasses.replace(
        supernet.recipe, epochs=config.few_shot_epochs, passes=config.passes, learning_rate=config.learning_rate / 5
    )
    directory = None if config.supernet is None else config.supernet.with_name("few_shot")
    split = OptionSplit("edge 0-3") if config.split == "edge" else TreeSplit()
    return FewShot(supernet, split, recipe, directory, config.supernet_seed + 1)


def distinct_cells(space: NASBench201Space) -> np.ndarray:
    """Returns the cell with the fewest parameters of each function that a cell can compute, as codes [4930, 6].

    Cells of one function are the same network to a training from scratch, so a search needs one of them. In a supernet,
    their values may differ: different edges have different weights.
    """
    codes = space.enumerate()
    cheapest_first = codes[np.argsort(space.cost(codes).parameters, kind="stable")]
    _, first = np.unique(space.functions(cheapest_first), return_index=True)
    return cheapest_first[np.sort(first)]


def build(config: Config) -> Experiment:
    """Returns the search experiment."""
    evaluator: Any = one_shot(config)
    if config.values == "few_shot":
        evaluator = few_shot(config, evaluator)
    space = evaluator.supernet.space
    searcher = SEARCHERS[config.searcher](space, pool=distinct_cells(space))
    return Experiment("nasbench201_one_shot", space, searcher, evaluator, config.budget, config.batch, config.seed)


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """Returns the winner training, from scratch or from extracted weights."""
    space = NASBench201Space(channels=settings.channels, cells=settings.cells, image_size=settings.size)
    network = FinalFixed(NASBench201(space), code)
    dataset = functools.partial(load_images, config, settings.size)
    return FinalTraining(network, dataset, settings.recipe, augmentation(settings.size), settings.seed)


def rank(config: Config, settings: Rank, directory: Path) -> Ranking:
    """Returns the comparison of supernet values with trainings from scratch of the same networks."""
    if config.supernet is None:
        config = dataclasses.replace(config, supernet=directory / "supernet")
    measured = one_shot(config)
    running = dataclasses.replace(measured, recalibration=0)
    estimates: dict[str, Any] = {"one-shot": measured, "one-shot, running statistics": running}
    if settings.few_shot:
        for split in SPLITS:
            evaluator = few_shot(dataclasses.replace(config, split=split), measured)
            folder = config.supernet.with_name("few_shot" if split == config.split else f"few_shot_{split}")
            estimates[f"few-shot, {split}"] = dataclasses.replace(evaluator, directory=folder)
    network = NASBench201(measured.supernet.space)
    scratch = TrainConfig(
        settings.epochs, config.batch_size, settings.learning_rate, augmentation=augmentation(config.size)
    )
    truth = FromScratch(network, search_data(config), scratch, per_device=measured.per_device)
    return Ranking(estimates, truth)


def picked_cells(runs: tuple[Path, ...]) -> list[dict[str, str]]:
    """Returns the published accuracies of the best cell of each run, and of controls, as rows of a table.

    The controls are the mean over all cells, which a random cell has on average; the cell with the most parameters; and
    the cell with the highest published validation accuracy.

    Raises:
      RunError: a run does not exist.
      ValueError: a run has no evaluated cell.
    """
    benchmark = find_benchmark(BENCHMARK)
    validation, test = (100 * column.mean(axis=1) for column in (benchmark.validation, benchmark.test))

    def row(name: str, at: Any, code: Any = ()) -> dict[str, str]:
        shown = {"validation": validation[at].mean(), "test": test[at].mean()}
        return {"pick": name, "code": ",".join(map(str, code))} | {key: f"{x:.2f} %" for key, x in shown.items()}

    rows, picks = [], []
    for run in runs:
        with TrialStore.open(run_folder.open_run(run).trials, read_only=True) as store:
            winner = best(store.trials())
        if winner is None:
            raise ValueError(f"{run} has no evaluated cell: run the search first")
        picks.append(int(np.flatnonzero((benchmark.codes == np.array(winner.code)).all(axis=1))[0]))
        rows.append(row(str(run), picks[-1], winner.code))
    largest = int(np.argmax(benchmark.space.cost(benchmark.codes).parameters))
    optimum = int(np.argmax(validation))
    return [
        *rows,
        row(f"mean of {len(picks)} runs", picks),
        row("mean of all cells", slice(None)),
        row("most parameters", largest, benchmark.codes[largest]),
        row("best by validation", optimum, benchmark.codes[optimum]),
    ]


@dataclasses.dataclass(frozen=True)
class Picks:
    """Settings of the list of picked cells.

    Attributes:
      runs: folders of finished searches.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]


if __name__ == "__main__":
    print_table(terminal(), table(f"published accuracies, {BENCHMARK}", picked_cells(tyro.cli(Picks).runs)))
