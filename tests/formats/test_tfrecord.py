"""TFRecord framing: checksums with known values, and what is refused."""

import struct

import numpy as np
import pytest

from lanas_jax.formats import tfrecord
from lanas_jax.formats.errors import FileError
from lanas_jax.formats.tfrecord import crc32c, crc32c_by_table, masked_crc32c, records


def framed(data):
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # the test vectors of RFC 3720, appendix B.4, and the usual check value
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_checksums_are_those_of_the_standard(data, expected):
    assert crc32c(data) == crc32c_by_table(data) == expected


def bitwise(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("n", [1, 3, 1023, 1024, 1025, 1026, 3000])
def test_blocks_join(n):
    data = np.random.default_rng(n).bytes(n)
    assert crc32c(data) == crc32c_by_table(data) == bitwise(data)


def test_records_come_in_order(tmp_path):
    path, contents = tmp_path / "some.tfrecord", [b"first", b"", b"third" * 1000]
    path.write_bytes(b"".join(map(framed, contents)))
    found = list(records(path))
    assert [record.data for record in found] == contents
    assert [(record.number, record.offset) for record in found] == [(0, 0), (1, 21), (2, 37)]


# Bytes of a frame: 0-7 length, 8-11 its checksum, then data and checksum; the second record here begins at byte 21.
FILE = framed(b"first") + framed(b"second")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FILE[:25], "record 1, which begins at byte 21, is cut off: expected 12 bytes of length and checksum; found 4"),
        (FILE[:-1], "record 1, which begins at byte 21, is cut off: expected 10 bytes after its length; found 9"),
        (
            FILE[:21] + b"\x07" + FILE[22:],
            "record 1, .* is damaged, or this is not a TFRecord .* of the length 7 at byte 29",
        ),
        (FILE[:35] + b"X" + FILE[36:], "record 1, .* is damaged: expected the checksum .* of its data at byte 39"),
        (b'{"some": "other", "kind": 1}', "record 0, which begins at byte 0, .* this is not a TFRecord file"),
    ],
    ids=["cut in the length", "cut in the data", "damaged length", "damaged data", "foreign"],
)
def test_damage_is_placed(tmp_path, content, message):
    path = tmp_path / "bad.tfrecord"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message):
        list(records(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match="No such file or directory"):
        list(records(tmp_path / "none.tfrecord"))


def test_lengths_alone_lead_to_every_record(tmp_path):
    path = tmp_path / "file"
    contents = [b"first", b"", b"x" * 3000]
    path.write_bytes(b"".join(map(framed, contents)))
    content = path.read_bytes()
    spans = list(tfrecord.spans(content, path))
    assert [content[start:end] for start, end in spans] == contents
    assert [tfrecord.read_at(path, start - 12) for start, _ in spans] == contents
    for end in (len(content) - 1, spans[0][1], 3):
        with pytest.raises(FileError, match="is cut off"):
            list(tfrecord.spans(content[:end], path))
    with pytest.raises(FileError, match="begins at byte 1, is damaged"):
        tfrecord.read_at(path, 1)
    with pytest.raises(FileError, match="no record begins"):
        tfrecord.read_at(path, len(content))
