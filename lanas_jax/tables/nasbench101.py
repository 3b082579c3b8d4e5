"""NAS-Bench-101 (arXiv 1902.09635): 423,624 networks on CIFAR-10, three trainings each.

`read_official` reads the official files, ``nasbench_only108.tfrecord`` or ``nasbench_full.tfrecord``, without
TensorFlow. There is one record per training. A record is a JSON list: the module's hash, the number of epochs, its
adjacency matrix and operations as text, and metrics as a base64 protocol buffer
(`nasbench/lib/model_metrics.proto` of the benchmark).

`from_ecnas` reads EC-NAS (arXiv 2210.06015): the same networks of at most five vertices after four epochs.
"""

import base64
import binascii
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lanas_jax.formats import protobuf
from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import read_npz
from lanas_jax.formats.tfrecord import Record, records
from lanas_jax.spaces.nasbench101 import OPERATIONS, NASBench101Space
from lanas_jax.tables.benchmark import Benchmark

ECNAS_FIELDS = ("adjacency", "labels", "num_vertices", "hash", "repeat", "val_acc_ep4", "test_acc_ep4")
_FINAL = 2  # index of the last of a training's evaluations (before, halfway, after)
_EVALUATION = 1  # field of the metrics
_VALIDATION, _TEST = 4, 5  # fields of an evaluation
_SPACE = NASBench101Space()


class TrainingRecord(NamedTuple):
    """Content of one record."""

    module: str  # hash of the module
    epochs: int
    adjacency: str  # zeros and ones, row by row
    operations: str  # comma-separated names
    validation: float  # accuracy at the end, in [0, 1]
    test: float


def read_official(path: Path, epochs: int = 108, progress: Callable[[int], object] | None = None) -> Benchmark:
    """Reads the benchmark from one of its official files; takes minutes for the full file.

    Verifies every checksum, and that the hash of every graph is the recorded one.

    Args:
      path: ``.tfrecord`` file.
      epochs: number of epochs of the trainings to use.
      progress: function called periodically with the number of bytes read.

    Raises:
      FileError: if the file is damaged or of another kind (names the record and the byte), a graph does not have its
        recorded hash, a module has fewer trainings than the others, or no training has `epochs` epochs.
    """
    graphs: dict[tuple[str, str], str] = {}  # verified: adjacency and operations -> hash
    modules: dict[str, np.ndarray] = {}
    results: dict[str, list[tuple[float, float]]] = {}
    found: set[int] = set()
    for record in records(path):
        training = parse(record, path)
        graph = (training.adjacency, training.operations)
        if graphs.get(graph) != training.module:
            code = _verified_code(training, f"{path}: record {record.number}, which begins at byte {record.offset},")
            graphs[graph] = training.module
            modules.setdefault(training.module, code)
        found.add(training.epochs)
        if training.epochs == epochs:
            results.setdefault(training.module, []).append((training.validation, training.test))
        if progress is not None and record.number % 1000 == 0:
            progress(record.offset)
    if not results:
        raise FileError(f"{path}: expected trainings of {epochs} epochs; found {sorted(found) or 'no record'}")
    values = _even(path, results)
    codes = np.stack([modules[module] for module in results])
    return Benchmark("nasbench101", _SPACE, codes, values[:, :, 0], values[:, :, 1], f"{epochs} epochs on CIFAR-10")


def from_ecnas(path: Path) -> Benchmark:
    """Reads EC-NAS from an ``.npz`` file with the fields `ECNAS_FIELDS`.

    Raises:
      FileError: if the file is damaged or of another kind, or a graph does not have its recorded hash; names the row.
    """
    fields = read_npz(path, ECNAS_FIELDS)
    names = {-1: "input", -2: "output", **dict(enumerate(OPERATIONS))}
    codes: dict[str, np.ndarray] = {}
    values: dict[str, list[tuple[float, float]]] = {}
    for row, (module, v) in enumerate(zip(fields["hash"].tolist(), fields["num_vertices"].tolist(), strict=True)):
        adjacency = fields["adjacency"][row, :v, :v]
        operations = [names.get(label, str(label)) for label in fields["labels"][row, :v].tolist()]
        codes[module] = _verified(module, adjacency, operations, f"{path}: row {row}")
        values.setdefault(module, []).append((fields["val_acc_ep4"][row], fields["test_acc_ep4"][row]))
    kept = _even(path, values)
    notes = "4 epochs on CIFAR-10, not the 108 of NAS-Bench-101"
    try:
        return Benchmark("ecnas", _SPACE, np.stack(list(codes.values())), kept[:, :, 0], kept[:, :, 1], notes)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error


def parse(record: Record, path: Path) -> TrainingRecord:
    """Parses a record of an official file.

    Raises:
      FileError: if the record does not have the form described in the module docstring.
    """
    try:
        module, epochs, adjacency, operations, metrics = json.loads(record.data)
        fields = protobuf.fields(base64.b64decode(metrics, validate=True))
        evaluations = [value for field, value in fields if field == _EVALUATION and isinstance(value, bytes)]
        if len(evaluations) <= _FINAL:
            raise ValueError(f"expected 3 evaluations; found {len(evaluations)}")
        final = dict(protobuf.fields(evaluations[_FINAL]))
        validation, test = (float(final[field]) for field in (_VALIDATION, _TEST))
        if not (0 <= validation <= 1 and 0 <= test <= 1):
            raise ValueError(f"expected accuracies in [0, 1]; found {validation} and {test}")
        return TrainingRecord(str(module), int(epochs), str(adjacency), str(operations), validation, test)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        start = record.data[:40]
        raise FileError(
            f"{path}: record {record.number}, which begins at byte {record.offset}, is not of NAS-Bench-101: expected "
            f"[hash, epochs, adjacency, operations, metrics]; found {start!r}... ({type(error).__name__}: {error})"
        ) from error


def _verified_code(training: TrainingRecord, where: str) -> np.ndarray:
    v = math.isqrt(len(training.adjacency))
    if v * v != len(training.adjacency) or set(training.adjacency) - {"0", "1"}:
        raise FileError(f"{where} holds no square matrix of zeros and ones: {training.adjacency!r}")
    adjacency = np.array([*map(int, training.adjacency)]).reshape(v, v)
    return _verified(training.module, adjacency, training.operations.split(","), where)


def _verified(module: str, adjacency: np.ndarray, operations: list[str], where: str) -> np.ndarray:
    """Returns the code of a graph after checking that its hash is `module`."""
    try:
        code = _SPACE.from_graph(adjacency, operations)
        computed = _SPACE.module_hash(code)
    except ValueError as error:
        raise FileError(f"{where} holds a graph outside the space: {error}") from error
    if computed != module:
        raise FileError(f"{where} holds a graph of hash {computed}, but is filed under {module}")
    return code


def _even(path: Path, results: dict[str, list[tuple[float, float]]]) -> np.ndarray:
    """Returns the results as an array ``[modules, repeats, 2]``."""
    repeats = max(map(len, results.values()))
    short = [module for module, values in results.items() if len(values) < repeats]
    if short:
        raise FileError(
            f"{path}: the file is not complete: expected {repeats} trainings of each module; {len(short)} have fewer, "
            f"for example {short[0]} with {len(results[short[0]])}"
        )
    return np.array(list(results.values()), np.float32)
