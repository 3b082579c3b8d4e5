"""NAS-Bench-201 and NATS-Bench: all cells and all widths, on three data sets.

Compact ``.npz`` files hold mean accuracies in percent: `from_nasbench201` reads the topology space (arXiv 2001.00326;
200 epochs) and `from_natsbench_size` the size space (arXiv 2009.00437; 90 epochs). The folder ``shipped`` has the same
accuracies in a smaller form, which `from_shipped` reads. `with_hardware` adds latencies and energies of HW-NAS-Bench
(arXiv 2103.10584) to the topology space. `read_official` reads the official folders ``NATS-tss-v1_0-3ffb9-simple`` and
``NATS-sss-v1_0-50262-simple`` through the `nats_bench` package, with the accuracy of every training.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import fields_of, read_npz, write_npz
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.natsbench_size import WIDTHS, NATSBenchSizeSpace
from lanas_jax.tables.benchmark import Benchmark

DATASETS = {"cifar10": "c10", "cifar100": "c100", "imagenet16": "in16"}
HARDWARE = "nasbench201_hardware.npz"  # latencies and energies, which are not part of the package
SHIPPED = Path(__file__).with_name("shipped")  # tables that are part of the package, with their licenses
SIZE_NOTES = "the file has no validation accuracies: test accuracies are searched"
_MEASURED = ("_latency", "_energy")
_OFFICIAL = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16": "ImageNet16-120"}


def from_nasbench201(path: Path, dataset: str) -> Benchmark:
    """Reads the topology space from an ``.npz`` file with `ops`, `op_names` and fields such as ``c10_val_200``.

    Accuracies in the file are in percent. For CIFAR-10, validation accuracies are from training on half of the training
    set, and test accuracies from training on all of it.

    Args:
      path: ``.npz`` file.
      dataset: cifar10, cifar100 or imagenet16.

    Raises:
      FileError: if the file is damaged or of another kind, or `Benchmark` rejects its rows.
      ValueError: if the dataset is unknown.
    """
    short = _short_name(dataset)
    fields = read_npz(path, ("ops", "op_names", f"{short}_val_200", f"{short}_test_200"))
    space = NASBench201Space()
    names = tuple(fields["op_names"].tolist())
    if names != space.choices[0].options:
        raise FileError(f"{path}: expected the operations {space.choices[0].options}; found {names}")
    validation, test = (fields[f"{short}_{part}_200"][:, None] / 100 for part in ("val", "test"))
    notes = "200 epochs, mean of trainings"
    return _benchmark(path, f"nasbench201-{dataset}", space, fields["ops"], validation, test, notes)


def from_natsbench_size(path: Path, dataset: str) -> Benchmark:
    """Reads the size space from an ``.npz`` file with `channels` and fields such as ``c10_test_90``, in percent.

    These files have no validation accuracies: the test accuracies are used for both, so a search sees them.

    Args:
      path: ``.npz`` file.
      dataset: cifar10, cifar100 or imagenet16.

    Raises:
      FileError: if the file is damaged or of another kind, or `Benchmark` rejects its rows.
      ValueError: if the dataset is unknown.
    """
    field = f"{_short_name(dataset)}_test_90"
    fields = read_npz(path, ("channels", field))
    codes = fields["channels"].astype(np.int32) // WIDTHS[0] - 1
    wrong = np.flatnonzero((codes * WIDTHS[0] + WIDTHS[0] != fields["channels"]).any(axis=1))
    if len(wrong):
        found = fields["channels"][wrong[0]].tolist()
        raise FileError(f"{path}: row {wrong[0]}: expected widths of {WIDTHS}; found {found}")
    test = fields[field][:, None] / 100
    notes = f"90 epochs; {SIZE_NOTES}"
    return _benchmark(path, f"natsbench-size-{dataset}", NATSBenchSizeSpace(), codes, test, test, notes)


def from_shipped(path: Path, dataset: str) -> Benchmark:
    """Reads a table that `save_shipped` wrote.

    Args:
      path: ``.npz`` file.
      dataset: cifar10, cifar100 or imagenet16.

    Raises:
      FileError: if the file is damaged, or `Benchmark` rejects its rows.
      ValueError: if the dataset is unknown.
    """
    _short_name(dataset)
    test = f"test_{dataset}"
    validation = f"validation_{dataset}" if f"validation_{dataset}" in fields_of(path) else test
    fields = read_npz(path, ("shipped", "notes", "codes", validation, test))
    space = NASBench201Space() if str(fields["shipped"]) == "nasbench201" else NATSBenchSizeSpace()
    name, notes, codes = f"{fields['shipped']}-{dataset}", str(fields["notes"]), fields["codes"].T
    return _benchmark(path, name, space, codes, fields[validation][:, None], fields[test][:, None], notes)


def with_hardware(benchmark: Benchmark, path: Path, dataset: str) -> Benchmark:
    """Adds the measured latencies (milliseconds) and energies (millijoules) of HW-NAS-Bench to NAS-Bench-201.

    The costs are called ``latency_edgegpu``, ``energy_fpga`` and so on; NaN where a network was not measured.

    Args:
      benchmark: benchmark of the topology space.
      path: ``.npz`` file with `codes` and fields such as ``cifar10_edgegpu_latency``, negative where not measured.
      dataset: cifar10, cifar100 or imagenet16.

    Raises:
      FileError: if the file is damaged or of another kind.
      ValueError: if the dataset is unknown.
    """
    _short_name(dataset)
    prefix = f"{'imagenet16_120' if dataset == 'imagenet16' else dataset}_"
    fields = [field for field in fields_of(path) if field.startswith(prefix) and field.endswith(_MEASURED)]
    arrays = read_npz(path, ("codes", *fields))
    costs = {}
    try:
        sizes = tuple(benchmark.space.cardinalities.tolist())
        row = np.full(math.prod(sizes), -1)
        row[np.ravel_multi_index(tuple(benchmark.space.check(arrays["codes"]).T), sizes)] = range(len(arrays["codes"]))
        row = row[np.ravel_multi_index(tuple(benchmark.codes.T), sizes)]
        for field in fields:
            device, _, kind = field.removeprefix(prefix).rpartition("_")
            column = arrays[field][row].astype(np.float32)
            costs[f"{kind}_{device}"] = np.where((row >= 0) & (column >= 0), column, np.float32("nan"))
        return dataclasses.replace(benchmark, costs={**benchmark.costs, **costs})
    except (ValueError, IndexError) as error:
        raise FileError(f"{path}: {error}") from error


def save_shipped(path: Path, name: str, benchmarks: Mapping[str, Benchmark]) -> None:
    """Writes the accuracies of a space on several datasets to one file: ``float32`` in [0, 1], to the last bit.

    Test accuracies that stand for validation accuracies are written once.

    Args:
      path: output file.
      name: nasbench201 or natsbench-size.
      benchmarks: benchmarks with the same codes and one training each, by dataset.

    Raises:
      ValueError: if the codes or notes differ, or there are several trainings.
      OSError: if the file cannot be written.
    """
    first, *others = benchmarks.values()
    if any(other.notes != first.notes or not np.array_equal(other.codes, first.codes) for other in others):
        raise ValueError(f"the tables of {name} have different codes or notes: give tables of one file")
    codes = np.ascontiguousarray(first.codes.T, np.int8)  # a row per choice compresses better
    arrays = {"shipped": np.array(name), "notes": np.array(first.notes), "codes": codes}
    for dataset, benchmark in benchmarks.items():
        columns = {f"validation_{dataset}": benchmark.validation, f"test_{dataset}": benchmark.test}
        if np.array_equal(benchmark.validation, benchmark.test):
            columns = {f"test_{dataset}": benchmark.test}
        for field, values in columns.items():
            if values.shape[1] != 1:
                raise ValueError(
                    f"{benchmark.name} has {values.shape[1]} trainings of each network; expected their mean"
                )
            arrays[field] = values[:, 0]
    write_npz(path, arrays)


def read_official(path: Path, dataset: str, progress: Callable[[int], object] | None = None) -> Benchmark:
    """Reads a benchmark from one of the official folders of NATS-Bench, with every training; takes minutes.

    Networks were trained one to three times. The trainings of a network are repeated so that all networks have equally
    many columns: the mean over columns is the mean over trainings, and each training is equally likely to be drawn. The
    files are pickles, which can run code: read only files from sources you trust.

    Args:
      path: official folder, whose name contains ``tss`` (topology) or ``sss`` (size).
      dataset: cifar10, cifar100 or imagenet16.
      progress: function called periodically with the number of networks read.

    Raises:
      ImportError: if `nats_bench` is not installed; names the extra.
      FileError: if the folder is another one, or a network cannot be read; names it.
      ValueError: if the dataset is unknown.
    """
    _short_name(dataset)
    try:
        import nats_bench
    except ImportError as error:
        raise ImportError("the official files need the package nats_bench: pip install 'lanas-jax[nats]'") from error
    kind = next((kind for kind in ("tss", "sss") if kind in path.name), None)
    if kind is None or not (path / "meta.pickle.pbz2").is_file():
        raise FileError(f"{path}: expected a folder NATS-tss-...-simple or NATS-sss-...-simple with meta.pickle.pbz2")
    space = NASBench201Space() if kind == "tss" else NATSBenchSizeSpace()
    codes, validation, test = [], [], []
    try:
        api = nats_bench.create(str(path), kind, fast_mode=True, verbose=False)
        for index in range(len(api)):
            codes.append(space.from_arch_string(api.arch(index)))
            results = api.query_meta_info_by_index(index, hp="200" if kind == "tss" else "90")
            validation.append(
                _accuracies(results, "cifar10-valid" if dataset == "cifar10" else _OFFICIAL[dataset], "x-valid")
            )
            test.append(_accuracies(results, _OFFICIAL[dataset], "ori-test" if dataset == "cifar10" else "x-test"))
            api.arch2infos_dict.pop(index)  # otherwise, fast mode holds every network in memory
            if progress is not None:
                progress(index)
    except Exception as error:  # damaged pickles, or pickles of another version, raise any error
        what = f"network {len(codes) - 1}" if codes else "meta.pickle.pbz2"
        raise FileError(f"{path}: {what} cannot be read: {type(error).__name__}: {error}") from error
    name = f"{'nasbench201' if kind == 'tss' else 'natsbench-size'}-{dataset}"
    notes = f"{200 if kind == 'tss' else 90} epochs, every training"
    return _benchmark(path, name, space, np.stack(codes), _even(validation), _even(test), notes)


def _short_name(dataset: str) -> str:
    if dataset not in DATASETS:
        raise ValueError(f"expected a data set of {', '.join(DATASETS)}; got {dataset!r}")
    return DATASETS[dataset]


def _benchmark(
    path: Path, name: str, space: Any, codes: np.ndarray, validation: Any, test: Any, notes: str
) -> Benchmark:
    try:
        return Benchmark(name, space, space.check(codes), validation, test, notes)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error


def _accuracies(results: Any, dataset: str, part: str) -> list[float]:
    """Returns the accuracy of each training of a network after its last epoch, in [0, 1]."""
    seeds = results.get_dataset_seeds(dataset)
    return [results.get_metrics(dataset, part, is_random=seed)["accuracy"] / 100 for seed in seeds]


def _even(trainings: list[list[float]]) -> np.ndarray:
    """Returns rows of equal length, in which each training occurs equally often."""
    width = math.lcm(*map(len, trainings))
    return np.array([row * (width // len(row)) for row in trainings], np.float32)
