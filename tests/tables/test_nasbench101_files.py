"""NAS-Bench-101 from files of the official format, written here."""

import base64
import json
import os
import struct
from pathlib import Path

import jax
import numpy as np
import pytest

from lanas_jax.formats.errors import FileError
from lanas_jax.formats.tfrecord import masked_crc32c
from lanas_jax.spaces.nasbench101 import OPERATIONS, NASBench101Space
from lanas_jax.tables import nasbench101
from lanas_jax.tables.benchmark import Benchmark

SPACE = NASBench101Space()
GRAPHS = [
    ([[0, 1], [0, 0]], ["input", "output"]),
    ([[0, 1, 0], [0, 0, 1], [0, 0, 0]], ["input", OPERATIONS[0], "output"]),
    ([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], ["input", OPERATIONS[2], OPERATIONS[1], "output"]),
]


def field(number, kind, content):
    return bytes([number << 3 | kind]) + content


def metrics(validation, test):
    """A ModelMetrics message with evaluations at the start, halfway and at the end."""
    message = b""
    for epoch, share in ((0.0, 0.1), (54.0, 0.5), (108.0, 1.0)):
        doubles = (epoch, 1000.0, 1.0, validation * share, test * share)
        evaluation = b"".join(field(i, 1, struct.pack("<d", x)) for i, x in enumerate(doubles, 1))
        evaluation += field(6, 2, bytes([4]) + b"path")
        message += field(1, 2, bytes([len(evaluation)]) + evaluation)
    return message + field(2, 0, b"\xca\xef\x35") + field(3, 1, struct.pack("<d", 2.0))


def module_hash(graph):
    return SPACE.module_hash(SPACE.from_graph(*graph))


def record(graph, validation, test, epochs=108, module=None):
    matrix, operations = graph
    adjacency = "".join(str(x) for row in matrix for x in row)
    text = base64.b64encode(metrics(validation, test)).decode()
    return json.dumps([module or module_hash(graph), epochs, adjacency, ",".join(operations), text]).encode()


def write(path, contents):
    with path.open("wb") as file:
        for data in contents:
            length = struct.pack("<Q", len(data))
            file.write(
                length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
            )
    return path


@pytest.fixture
def official(tmp_path):
    accuracies = [(0.5, 0.45), (0.7, 0.6), (0.9, 0.8)]
    contents = []
    for repeat in range(3):
        for graph, (validation, test) in zip(GRAPHS, accuracies, strict=True):
            contents.append(record(graph, validation + 0.01 * repeat, test + 0.02 * repeat))
            contents.append(record(graph, 0.2, 0.1, epochs=36))
    return write(tmp_path / "nasbench.tfrecord", contents)


def test_repeats_are_grouped_and_other_epochs_left_out(official):
    benchmark = nasbench101.read_official(official)
    assert [SPACE.module_hash(code) for code in benchmark.codes] == [module_hash(graph) for graph in GRAPHS]
    np.testing.assert_allclose(
        benchmark.validation, [[0.5, 0.51, 0.52], [0.7, 0.71, 0.72], [0.9, 0.91, 0.92]], rtol=1e-6
    )
    np.testing.assert_allclose(benchmark.test, [[0.45, 0.47, 0.49], [0.6, 0.62, 0.64], [0.8, 0.82, 0.84]], rtol=1e-6)
    np.testing.assert_allclose(benchmark.table().lookup(benchmark.codes), [0.51, 0.71, 0.91], rtol=1e-6)
    np.testing.assert_allclose(
        nasbench101.read_official(official, epochs=36).validation, np.full((3, 3), 0.2), rtol=1e-6
    )


def test_isomorphic_graphs_are_looked_up_alike(official):
    benchmark = nasbench101.read_official(official)
    matrix, (_, first, second, _) = GRAPHS[2]
    swapped = SPACE.from_graph(matrix, ["input", second, first, "output"])
    np.testing.assert_allclose(benchmark.test_of(swapped[None]), [0.82], rtol=1e-6)


def test_what_was_converted_is_loaded_unchanged(official, tmp_path):
    benchmark = nasbench101.read_official(official)
    benchmark.save(tmp_path / "nasbench101.npz")
    loaded = Benchmark.load(tmp_path / "nasbench101.npz")
    for part in ("codes", "validation", "test", "name", "notes", "space"):
        np.testing.assert_array_equal(getattr(loaded, part), getattr(benchmark, part))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nasbench.tfrecord", "nasbench101.npz"]


GOOD = record(GRAPHS[0], 0.5, 0.4)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            [GOOD, record(GRAPHS[1], 0.5, 0.5, module=module_hash(GRAPHS[0]))],
            "record 1, .* filed under " + module_hash(GRAPHS[0]),
        ),
        ([GOOD, b"\x00image"], "record 1, which begins at byte .*, is not of NAS-Bench-101"),
        (
            [GOOD, json.dumps([1, 2, 3]).encode()],
            "record 1, .* expected .hash, epochs, adjacency, operations, metrics.",
        ),
        ([GOOD, record(GRAPHS[1], 1.5, 0.5)], r"record 1, .* expected accuracies in \[0, 1\]; found 1.5"),
        ([GOOD, record(GRAPHS[1], float("nan"), 0.5)], r"record 1, .* expected accuracies in \[0, 1\]; found nan"),
        ([GOOD, GOOD, record(GRAPHS[1], 0.5, 0.5)], "not complete: expected 2 trainings of each module; 1 have fewer"),
        ([record(GRAPHS[1], 0.5, 0.5, epochs=4)], r"expected trainings of 108 epochs; found \[4\]"),
        (
            [record((GRAPHS[1][0], ["input", "conv5x5", "output"]), 0.5, 0.5, module="x")],
            "record 0, .* outside the space",
        ),
        ([], "found no record"),
    ],
)
def test_bad_records_are_refused_by_number(tmp_path, contents, message):
    path = write(tmp_path / "bad.tfrecord", contents)
    with pytest.raises(FileError, match=message):
        nasbench101.read_official(path)


def test_trainings_of_other_epochs_are_left_out(tmp_path):
    path = write(tmp_path / "some.tfrecord", [GOOD, record(GRAPHS[1], 0.5, 0.5, epochs=4)])
    assert len(nasbench101.read_official(path)) == 1


@pytest.mark.slow
def test_ecnas_is_complete():
    if "LANAS_DATA" not in os.environ:
        pytest.skip("LANAS_DATA does not name the folder of ecnas_5V9E_4epochs.npz")
    folder = Path(os.environ["LANAS_DATA"])
    benchmark = nasbench101.from_ecnas(folder / "ecnas_5V9E_4epochs.npz")
    assert len(benchmark) == 2532
    fields = np.load(folder / "ecnas_5V9E_4epochs.npz", allow_pickle=False)
    assert benchmark.table().best == pytest.approx(fields["val_acc_ep4"].max())
    repeated = nasbench101.from_ecnas(folder / "ecnas_4V9E_4epochs.npz")
    assert repeated.validation.shape == (91, 3)
    drawn = np.asarray(repeated.table(key=jax.random.key(0)).values)
    assert (drawn[:, None] == repeated.validation).any(axis=1).all()
    assert 0 < (drawn == repeated.validation[:, 0]).mean() < 0.7
