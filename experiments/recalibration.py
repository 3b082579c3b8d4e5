"""Effect of the number of training images used to measure the batch statistics of a supernet's networks.

The supernet of a one-shot run evaluates random networks of the space with different numbers of images; 0 means the
running statistics, which mix all trained networks. The ranking of the networks is compared with the ranking at the
largest number (Spearman)::

    python -m lanas_jax.experiments.recalibration RUN [--images 0 128 512 2048] [--networks 64]
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from lanas_jax.commands import help_text
from lanas_jax.evaluators.faults import prepare_evaluator
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.experiments.benchmarks.table import machine, table
from lanas_jax.ranking.correlation import rank_correlation
from lanas_jax.runtime.console import print_table, terminal
from lanas_jax.runtime.devices import one_device_per_core
from lanas_jax.study import run_folder
from lanas_jax.supernet import code_pool


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the measurement.

    Attributes:
      run: folder of a one-shot search with a trained supernet.
      images: numbers of training images to compare; each is 0 or at least the evaluator's batch size.
      networks: number of networks to evaluate.
      seed: random seed of the networks.
    """

    run: Annotated[Path, tyro.conf.Positional]
    images: tuple[int, ...] = (0, 128, 256, 512, 1024, 2048)
    networks: int = 64
    seed: int = 1


def rows(config: Config) -> list[dict[str, str]]:
    """Returns one table row per number of images.

    Raises:
      RunError: the run does not exist.
      NotPreparedError: the supernet could not be trained.
      ValueError: the values of the run do not come from one supernet.
    """
    here = run_folder.open_run(config.run)
    evaluator = here.experiment().evaluator
    if not isinstance(evaluator, OneShot):
        raise ValueError(f"the values of {config.run} come from {type(evaluator).__name__}; expected OneShot")
    prepare_evaluator(evaluator, here.directory, print)
    codes = code_pool.draw_codes(evaluator.supernet.space, config.networks, config.seed)
    values, seconds = {}, {}
    for images in sorted(set(config.images)):
        valuation = dataclasses.replace(evaluator.valuation, recalibration=images)
        valuation(evaluator.trained.weights, codes[:1])  # compiles
        began = time.perf_counter()
        values[images] = np.asarray(valuation(evaluator.trained.weights, codes).accuracy)
        seconds[images] = (time.perf_counter() - began) / len(codes)
    return [
        {
            "images": str(images) if images else "0 (running)",
            "mean value": f"{100 * np.mean(values[images]):.1f} %",
            "deviation": f"{100 * np.std(values[images], ddof=1):.1f}",
            "Spearman with the last": rank_correlation(values[images], values[max(values)]).spearman.text,
            "ms each": f"{1000 * seconds[images]:.0f}",
        }
        for images in values
    ]


def main(config: Config) -> None:
    """Measures and prints the table."""
    one_device_per_core()
    found = rows(config)
    title = f"{config.networks} networks of {config.run}, {machine()}, jax {jax.__version__}"
    print_table(terminal(), table(title, found))


if __name__ == "__main__":
    main(help_text.parse_documented(Config, __doc__))
