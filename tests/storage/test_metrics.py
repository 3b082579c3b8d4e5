"""Metrics by step, as CSV and as TensorBoard events: neither missing nor double after any interruption."""

import math

import pytest

from lanas_jax.formats import tfrecord
from lanas_jax.storage.metrics import Metrics, tensorboard_events

COLUMNS = ("step", "loss", "accuracy")
ROWS = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": math.nan, "accuracy": 1}, {"step": 3, "accuracy": None}]
LINES = ["step,loss,accuracy\n", "1,0.3,\n", "2,nan,1\n", "3,,\n"]


def events(folder):
    """All scalars in a folder: tag, step and value."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted(folder.iterdir()):
        for record in tfrecord.records(file):
            event = event_pb2.Event.FromString(record.data)
            found += [(value.tag, event.step, round(value.simple_value, 6)) for value in event.summary.value]
    return found


def write(path, rows, step=0, wanted=True):
    with tensorboard_events(wanted), Metrics(path, COLUMNS, step) as metrics:
        metrics.write(rows)


def test_rows_are_lines_and_events(tmp_path):
    write(path := tmp_path / "metrics.csv", ROWS)
    assert path.read_text() == "".join(LINES)
    (first, nan, last) = events(tmp_path / "tensorboard")
    assert (first, last) == (("loss", 1, 0.3), ("accuracy", 2, 1.0))
    assert nan[:2] == ("loss", 2)
    assert math.isnan(nan[2])


def test_rows_that_are_repeated_and_incomplete_lines_are_not_double(tmp_path):
    """The first process wants no events, the second is killed within a line, and the third one begins at step 1."""
    path = tmp_path / "metrics.csv"
    write(path, ROWS[:1], wanted=False)
    assert not (tmp_path / "tensorboard").exists()
    write(path, [{"step": 2, "loss": 9.0}], step=1)
    with path.open("a") as file:
        file.write("1")
    write(path, [ROWS[1] | {"loss": 0.5}, ROWS[2]], step=1)
    assert path.read_text() == "".join(LINES).replace("nan", "0.5")
    assert events(tmp_path / "tensorboard") == [("loss", 1, 0.3), ("loss", 2, 0.5), ("accuracy", 2, 1.0)]


def test_a_file_of_other_columns_is_replaced(tmp_path):
    (path := tmp_path / "metrics.csv").write_text("step,other\n1,2\n")
    write(path, ROWS[:1], step=1, wanted=False)
    assert path.read_text() == "".join(LINES[:2])
