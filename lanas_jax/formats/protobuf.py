"""Protocol buffers without a compiler: the numbered fields of a message in wire format.

The wire format is defined in protobuf.dev/programming-guides/encoding. Callers interpret the field numbers.
"""

import mmap
import struct
from collections.abc import Iterator


def fields(message: bytes) -> list[tuple[int, bytes | float | int]]:
    """Returns the field numbers and values of a protocol buffer, in order: varints, doubles, floats and bytes.

    Raises:
      ValueError: if a wire type is unknown, or the message is cut off; names the byte.
    """
    found: list[tuple[int, bytes | float | int]] = []
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        value: bytes | float | int
        if kind == 0:
            value, at = varint(message, at)
        elif kind == 1:
            value, at = _unpacked("<d", message, at), at + 8
        elif kind == 2:
            size, at = varint(message, at)
            value, at = message[at : at + size], at + size
        elif kind == 5:
            value, at = _unpacked("<f", message, at), at + 4
        else:
            raise ValueError(f"unknown wire type {kind} at byte {at}")
        found.append((tag >> 3, value))
    if at > len(message):
        raise ValueError(f"message cut off at byte {len(message)}, expected {at}")
    return found


def spans(message: bytes | mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields field number, start and end of each length-delimited field of a message, without reading its content.

    Raises:
      ValueError: if a field has another wire type, or ends after the message; names the byte.
    """
    at = start
    while at < end:
        tag, first = varint(message, at)
        if tag & 7 != 2:
            raise ValueError(f"expected bytes at byte {at}; found the wire type {tag & 7}")
        size, first = varint(message, first)
        if first + size > end:
            raise ValueError(f"message cut off at byte {end}, expected {first + size}")
        yield tag >> 3, first, first + size
        at = first + size


def varint(message: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """Decodes a varint (seven bits per byte, least significant first); returns it and the position after it.

    Raises:
      ValueError: if the message ends before the integer does.
    """
    value = shift = 0
    while at < len(message):
        value |= (message[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if message[at - 1] < 128:
            return value, at
    raise ValueError(f"message cut off at byte {at}, in an integer")


def _unpacked(kind: str, message: bytes, at: int) -> float:
    if at + struct.calcsize(kind) > len(message):
        raise ValueError(f"message cut off at byte {len(message)}, in a number")
    return struct.unpack_from(kind, message, at)[0]
