"""The wire format: the examples of its documentation, and what is refused."""

import struct

import pytest

from lanas_jax.formats.protobuf import fields


def test_the_examples_of_the_documentation():
    assert fields(bytes.fromhex("089601")) == [(1, 150)]
    assert fields(bytes.fromhex("120774657374696e67")) == [(2, b"testing")]
    assert fields(bytes.fromhex("1a03089601")) == [(3, b"\x08\x96\x01")]


def test_numbers_of_eight_and_four_bytes_and_negative_ones():
    message = b"\x09" + struct.pack("<d", 0.1) + b"\x15" + struct.pack("<f", 0.5) + b"\x18" + b"\xff" * 9 + b"\x01"
    assert fields(message) == [(1, 0.1), (2, 0.5), (3, 2**64 - 1)]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("0896", "cut off at byte 2, in an integer"),
        ("1207746573", "cut off at byte 5, expected 9"),
        ("0900", "cut off at byte 2, in a number"),
        ("0b", "wire type 3 at byte 1"),
    ],
)
def test_damage_is_placed(message, fault):
    with pytest.raises(ValueError, match=fault):
        fields(bytes.fromhex(message))
