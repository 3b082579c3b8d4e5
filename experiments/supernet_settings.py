"""Effect of single settings of a supernet's training on its networks, at the scale of the ImageNet dry run.

Trains the supernet of `lanas_jax.experiments.imagenet_dry_run` with each variant and several seeds, and measures its
largest, its smallest and random networks on the search-validation images. It needs CIFAR-10 and the extra
``imagenet``::

    python -m lanas_jax.experiments.supernet_settings --out runs/settings

Each training is one folder of `--out`. The same command continues an interrupted measurement. A training of two epochs
took four minutes of a slow core, beside other programs (313 steps, jax 0.10.2, 30 November 2026). docs/imagenet.md has
the results.

==========  ===================================================================================
variant     what differs from ``mean``, which has the mean of the passes' gradients
==========  ===================================================================================
sum         the sum of the passes' gradients
device      batch statistics of each of four devices, which have a quarter of the batch each
watched     accuracies of five networks, measured after each epoch
==========  ===================================================================================
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from lanas_jax.commands import help_text
from lanas_jax.evaluators.one_shot import POOL
from lanas_jax.experiments import imagenet_dry_run
from lanas_jax.experiments.benchmarks.table import machine, table
from lanas_jax.runtime.allocator import hold_freed_memory
from lanas_jax.runtime.console import print_table, terminal
from lanas_jax.supernet import code_pool
from lanas_jax.supernet.training import SupernetTraining, train_supernet
from lanas_jax.trainer.recipe import Recipe

Variant = Literal["mean", "sum", "device", "watched"]
DEVICES = 4  # groups of batch statistics in the variant `device`


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the measurement.

    Attributes:
      out: folder of the trainings.
      variants: variants to train; the first one is compared with the others.
      seeds: number of trainings per variant.
      epochs: number of training epochs.
      networks: number of random networks to evaluate, the same ones in each supernet.
      data_dir: folder of CIFAR-10; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA.
    """

    out: Path
    variants: tuple[Variant, ...] = ("mean", "sum", "device", "watched")
    seeds: int = 3
    epochs: int = 3
    networks: int = 32
    data_dir: Path | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """Search-validation accuracies of one supernet, in percent.

    Attributes:
      largest: accuracy of the largest network.
      smallest: accuracy of the smallest network.
      random: accuracies of random networks.
      seconds: seconds of the training, without compilation.
    """

    largest: float
    smallest: float
    random: np.ndarray
    seconds: float


def training(config: Config, variant: Variant, seed: int) -> tuple[SupernetTraining, int]:
    """Returns the training of a variant, and the number of devices that share its batches."""
    settings = imagenet_dry_run.Config(data_dir=config.data_dir, epochs=config.epochs)
    measured = dataclasses.replace(imagenet_dry_run.one_shot(settings), seed=seed)
    recipe: Recipe = measured.recipe
    rule = measured.sandwich
    assert rule is not None
    if variant == "device":
        recipe = dataclasses.replace(recipe, normalize_over="device")
    rule = dataclasses.replace(rule, gradient="sum" if variant == "sum" else "mean")
    pool = code_pool.draw_codes(measured.supernet.space, POOL, seed)
    watched = settings.watched if variant == "watched" else 0
    found = SupernetTraining(
        measured.supernet, pool, recipe, measured.augmentation, seed, sandwich=rule, watched=watched
    )
    return found, DEVICES if variant == "device" else 1


def measure(config: Config, variant: Variant) -> list[Measured]:
    """Trains the supernets of a variant, or reads them, and evaluates their networks; returns one result per seed."""
    evaluator = imagenet_dry_run.one_shot(imagenet_dry_run.Config(data_dir=config.data_dir))
    space = evaluator.supernet.space
    codes = np.concatenate([imagenet_dry_run.ends(space), code_pool.draw_codes(space, config.networks, seed=0)])
    valuation = dataclasses.replace(evaluator.valuation, devices=jax.devices()[:1])
    programs, results = None, []
    for seed in range(config.seeds):
        found, count = training(config, variant, seed)
        folder, devices = config.out / f"{variant}-{seed}", jax.devices()[:count]
        trained = train_supernet(found, evaluator.trained_on, folder, print, devices=devices, programs=programs)
        seconds = json.loads((folder / "final.json").read_text())["seconds"]
        programs = trained.programs
        values = 100 * np.asarray(valuation(valuation.place(trained.weights), codes).accuracy)
        results.append(Measured(float(values[0]), float(values[1]), values[2:], seconds))
    return results


def rows(config: Config) -> list[dict[str, str]]:
    """Returns one table row per variant."""
    found = {variant: measure(config, variant) for variant in config.variants}
    first = np.array([one.random.mean() for one in found[config.variants[0]]])
    return [
        {
            "variant": variant,
            "largest": _text([one.largest for one in measured]),
            "smallest": _text([one.smallest for one in measured]),
            f"{config.networks} random": _text([one.random.mean() for one in measured]),
            "deviation of these": _text([one.random.std(ddof=1) for one in measured]),
            f"random, minus {config.variants[0]}": _text(np.array([one.random.mean() for one in measured]) - first),
            "seconds": f"{np.mean([one.seconds for one in measured]):.0f}",
        }
        for variant, measured in found.items()
    ]


def _text(values: "list[float] | np.ndarray") -> str:
    """Returns mean and range."""
    return f"{np.mean(values):.2f} ({np.min(values):.2f} to {np.max(values):.2f})"


def main(config: Config) -> None:
    """Measures and prints the table."""
    hold_freed_memory()
    jax.config.update("jax_num_cpu_devices", DEVICES)
    title = f"accuracies in percent after {config.epochs} epochs, mean and range of {config.seeds} seeds, {machine()}"
    print_table(terminal(), table(f"{title}, jax {jax.__version__}", rows(config)))


if __name__ == "__main__":
    main(help_text.parse_documented(Config, __doc__))
