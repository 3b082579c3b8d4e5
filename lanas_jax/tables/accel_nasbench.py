"""Accel-NASBench (Ahmad et al., arXiv 2404.08005): networks of `MnasNetSpace` that were trained on ImageNet.

The authors trained 5,138 networks once each with one shortened recipe, and measured their inference throughput on six
devices. 13 networks were trained twice; the table holds the means of both trainings, 5,125 networks in all. They are a
sample of 1.0e11 networks, so a search must be restricted to the table's codes. There is one accuracy, on ImageNet's
50,000 validation images, which is both searched and reported.

The file in the folder ``shipped`` has the fields of the compact file that `from_accel_nasbench` reads. Multiply-adds
and parameters are those of `MnasNetSpace.cost`, which reproduces the published ones exactly.
"""

import json
from pathlib import Path

import numpy as np

from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import read_npz, write_npz
from lanas_jax.spaces.mnasnet import MnasNetSpace
from lanas_jax.tables.benchmark import THROUGHPUT, Benchmark

NAME = "mnasnet-imagenet"
FILE = "accel_nasbench_mnasnet.npz"
DEVICES = ("tpuv2", "tpuv3", "a100", "3090", "zcu102", "vck190")
FIELDS = ("choice_names", "choice_options", "codes", "values", *(THROUGHPUT + device for device in DEVICES))
NOTES = "one shortened training; the accuracy on ImageNet's validation images is searched and reported"


def from_accel_nasbench(path: Path) -> Benchmark:
    """Reads networks and their results from an ``.npz`` file with the fields `FIELDS`.

    The file has the position of each option in ``codes``, accuracies in [0, 1] in ``values``, and images per second in
    ``throughput_tpuv3`` and similar fields, NaN where they were not measured.

    Raises:
      FileError: if the file is damaged or of another space, or `Benchmark` rejects its rows.
    """
    fields = read_npz(path, FIELDS)
    space = MnasNetSpace()
    try:
        names, options = fields["choice_names"].tolist(), map(json.loads, fields["choice_options"].tolist())
        found = [(name, tuple(listed)) for name, listed in zip(names, options, strict=False)]  # compared below
        expected = [(choice.name, choice.options) for choice in space.choices]
        if found != expected:
            raise ValueError(f"expected the choices of MnasNetSpace, {expected}; found {found}")
        codes = space.check(fields["codes"])
        columns = {name: fields[name] for name in FIELDS[3:]}
        for name, column in columns.items():
            if column.shape != (len(codes),):
                raise ValueError(f"{len(codes)} codes need {name} of shape ({len(codes)},); got {column.shape}")
        _, first, row = np.unique(codes, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        trainings = np.bincount(row.ravel())

        def mean(column: np.ndarray) -> np.ndarray:
            return (np.bincount(row.ravel(), column.astype(np.float64)) / trainings)[order].astype(np.float32)

        values = mean(columns.pop("values"))[:, None]
        throughputs = {name.removeprefix(THROUGHPUT): mean(column) for name, column in columns.items()}
        return Benchmark(NAME, space, codes[first[order]], values, values, NOTES, throughputs)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error


def save_shipped_networks(path: Path, source: Path) -> None:
    """Writes the fields that `from_accel_nasbench` reads, bit for bit, and no others.

    Raises:
      FileError: if the source cannot be read.
      OSError: if the file cannot be written.
    """
    from_accel_nasbench(source)
    write_npz(path, read_npz(source, FIELDS))
