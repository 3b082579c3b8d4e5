"""Protocol buffers without their compiler: the numbered fields of a message, on the wire's terms.

The wire format is that of protobuf.dev/programming-guides/encoding. Which numbers mean what is left to the readers.
"""

import mmap
import struct
from collections.abc import Iterator


def fields(message: bytes) -> list[tuple[int, bytes | float | int]]:
    """Field numbers and values of a protocol buffer: varints, doubles, floats and bytes, in order.

    Raises:
      ValueError: a wire type that there is none of, or a message that is cut off; names the byte.
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
            raise ValueError(f"wire type {kind} at byte {at} is none of protocol buffers")
        found.append((tag >> 3, value))
    if at > len(message):
        raise ValueError(f"message cut off at byte {len(message)}, expected {at}")
    return found


def spans(message: bytes | mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Field numbers of the messages and bytes within a message, and where each begins and ends; none is copied or read.

    Raises:
      ValueError: a field of another wire type, or one that does not end in the message; names the byte.
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
    """An integer of seven bits a byte, least first, and the byte after it.

    Raises:
      ValueError: the message ends before the integer does.
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
