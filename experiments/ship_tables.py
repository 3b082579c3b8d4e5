"""The benchmark tables that are part of the package: writes ``lanas_jax/tables/shipped/*.npz``.

    LANAS_DATA=FOLDER python -m lanas_jax.experiments.ship_tables [--out DIR]

FOLDER contains ``nasbench201.npz`` and ``natsbench_size.npz``, which hold the mean accuracies of NAS-Bench-201 and of
NATS-Bench's size space in percent, and ``accel_nasbench_mnasnet.npz``, which holds the networks of Accel-NASBench. It
takes 10 seconds. Running it again writes the same bytes with the same zlib.
"""

import dataclasses
import os
from pathlib import Path

from lanas_jax.commands import help_text
from lanas_jax.tables import accel_nasbench
from lanas_jax.tables.catalogue import read_benchmark
from lanas_jax.tables.nats_bench import DATASETS, SHIPPED, save_shipped

FILES = {"nasbench201": "nasbench201.npz", "natsbench-size": "natsbench_size.npz"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
      out: output folder; default: the folder of the package.
    """

    out: Path = SHIPPED


def main(config: Config) -> None:
    """Writes the tables and prints their sizes."""
    folder = Path(os.environ["LANAS_DATA"])
    for name, file in FILES.items():
        datasets = {dataset: read_benchmark(folder / file, dataset) for dataset in DATASETS}
        save_shipped(config.out / file, name, datasets)
    accel_nasbench.save_shipped_networks(config.out / accel_nasbench.FILE, folder / accel_nasbench.FILE)
    for file in (*FILES.values(), accel_nasbench.FILE):
        print(f"{config.out / file}: {(config.out / file).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(help_text.parse_documented(Config, __doc__))
