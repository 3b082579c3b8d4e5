"""Tables of measured latencies: files, equality, and what is missing from one."""

import json

import pytest

from lanas_jax.spaces.latency import LatencyTable

TABLE = LatencyTable("a made-up device", 8, {"stem": 12_000, "head": 9_000})


def test_a_table_comes_back_from_its_file(tmp_path):
    path = tmp_path / "table.json"
    TABLE.write(path)
    back = LatencyTable.read(path)
    assert back == TABLE
    assert hash(back) == hash(TABLE)
    assert (back.device, back.batch, dict(back.nanoseconds)) == ("a made-up device", 8, {"stem": 12_000, "head": 9_000})


@pytest.mark.parametrize(
    "other",
    [
        LatencyTable("another", 8, TABLE.nanoseconds),
        LatencyTable(TABLE.device, 4, TABLE.nanoseconds),
        LatencyTable(TABLE.device, 8, {"stem": 12_001, "head": 9_000}),
        LatencyTable(TABLE.device, 8, {"stem": 12_000}),
    ],
)
def test_tables_that_differ_in_anything_are_different(other):
    assert other != TABLE


def test_the_order_of_layers_does_not_matter():
    assert LatencyTable(TABLE.device, 8, {"head": 9_000, "stem": 12_000}) == TABLE


def test_a_table_keeps_its_own_numbers():
    numbers = {"stem": 1}
    table = LatencyTable("a", 1, numbers)
    numbers["stem"] = 2
    assert table.nanoseconds["stem"] == 1


def test_missing_layers_are_named_and_counted():
    TABLE.check(["stem", "head", "stem"])
    with pytest.raises(ValueError, match=r"a made-up device lacks 2 of the 3 layers of the space, .* 'block'"):
        TABLE.check(["stem", "block", "block 2", "block"])


@pytest.mark.parametrize("time", [0, -1])
def test_times_are_whole_nanoseconds(time):
    with pytest.raises(ValueError, match="'stem' must be whole nanoseconds"):
        LatencyTable("a", 1, {"stem": time})


def test_a_batch_has_an_image():
    with pytest.raises(ValueError, match="batch must be at least 1; got 0"):
        LatencyTable("a", 0, {})


@pytest.mark.parametrize(
    "text", ["", "[]", json.dumps({"device": "a", "batch": 1}), '{"device": "a", "batch": 1, "nanoseconds": {"x": 0}}']
)
def test_files_that_hold_no_table_are_refused(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json is not a latency table"):
        LatencyTable.read(path)
