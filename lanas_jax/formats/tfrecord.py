"""TFRecord files without TensorFlow: a sequence of records, each with its length and two checksums.

A record is its length (uint64, little endian), the masked CRC-32C of these eight bytes, the data, and the masked
CRC-32C of the data (tensorflow/core/lib/io/record_writer.h). Every checksum is verified.
"""

import functools
import mmap
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from lanas_jax.formats.errors import FileError

with warnings.catch_warnings():  # of platforms for which it has no compiled code
    warnings.simplefilter("ignore", RuntimeWarning)
    import google_crc32c

_POLYNOMIAL = 0x82F63B78  # Castagnoli polynomial, bits reversed
_BLOCK = 1024  # bytes per table look-up


class Record(NamedTuple):
    """One record and its position."""

    number: int  # index in the file, from 0
    offset: int  # position of the record's first byte in the file
    data: bytes


def records(path: Path) -> Iterator[Record]:
    """Yields the records of a file, in order.

    Raises:
      FileError: if the file is missing, cut off, damaged, or not a TFRecord file; names the record and the byte.
    """
    try:
        with path.open("rb", buffering=1 << 20) as file:
            number = offset = 0
            while (data := _read_record(file, path, number, offset)) is not None:
                yield Record(number, offset, data)
                number, offset = number + 1, offset + len(data) + 16
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error


def read_at(path: Path, offset: int) -> bytes:
    """Returns the data of the record that begins at byte `offset`.

    Raises:
      FileError: for the same reasons as `records`, or if the file ends there.
    """
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            data = _read_record(file, path, None, offset)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    if data is None:
        raise FileError(f"{path}: no record begins at byte {offset}, where the file ends")
    return data


def spans(content: bytes | mmap.mmap, path: Path) -> Iterator[tuple[int, int]]:
    """Yields start and end of each record's data, from the record lengths; reads and verifies no data.

    Args:
      content: content of the whole file.
      path: path of the file, for errors.

    Raises:
      FileError: if the file is cut off, or a length is damaged; names the record and the byte.
    """
    number = offset = 0
    while offset < len(content):
        where = _where(path, number, offset)
        length = _length(content[offset : offset + 12], where, offset)
        if offset + length + 16 > len(content):
            raise FileError(f"{where} is cut off: expected {length + 16} bytes; found {len(content) - offset}")
        yield offset + 12, offset + 12 + length
        number, offset = number + 1, offset + length + 16


def _where(path: Path, number: int | None, offset: int) -> str:
    return f"{path}: {'the record' if number is None else f'record {number}'}, which begins at byte {offset},"


def _length(head: bytes, where: str, offset: int) -> int:
    """Returns the length of a record after verifying its checksum."""
    if len(head) < 12:
        raise FileError(f"{where} is cut off: expected 12 bytes of length and checksum; found {len(head)}")
    length, check = struct.unpack("<QI", head)
    if (computed := masked_crc32c(head[:8])) != check:
        raise FileError(
            f"{where} is damaged, or this is not a TFRecord file: expected the checksum {computed:08x} of the length "
            f"{length} at byte {offset + 8}; found {check:08x}"
        )
    return length


def _read_record(file: IO[bytes], path: Path, number: int | None, offset: int) -> bytes | None:
    where = _where(path, number, offset)
    head = file.read(12)
    if not head:
        return None
    length = _length(head, where, offset)
    body = file.read(length + 4)
    if len(body) < length + 4:
        raise FileError(f"{where} is cut off: expected {length + 4} bytes after its length; found {len(body)}")
    data, (check,) = body[:length], struct.unpack("<I", body[length:])
    if (computed := masked_crc32c(data)) != check:
        raise FileError(
            f"{where} is damaged: expected the checksum {computed:08x} of its data at byte {offset + 12 + length}; "
            f"found {check:08x}"
        )
    return data


def masked_crc32c(data: bytes) -> int:
    """Returns the CRC-32C as stored in TFRecord files: rotated, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C (Castagnoli) of bytes."""
    if google_crc32c.implementation == "c":
        return google_crc32c.value(data)
    return crc32c_by_table(data)


def crc32c_by_table(data: bytes) -> int:
    """Computes `crc32c` with NumPy, for platforms without compiled code in google-crc32c.

    The checksum is linear: each byte contributes its image at the end of the block, which is looked up in a table by
    position and value. The state before a block is combined with its first four bytes.
    """
    state = 0xFFFFFFFF
    if len(data) <= 16:  # such as a record's length
        for byte in data:
            state = (state >> 8) ^ _bytes()[(state ^ byte) & 255]
        return state ^ 0xFFFFFFFF
    table = _table()
    for start in range(0, len(data), _BLOCK):
        block = np.frombuffer(data, np.uint8, min(_BLOCK, len(data) - start), start)
        index = _places(len(block)) + block
        n = min(4, len(block))
        index[:n] ^= np.frombuffer(struct.pack("<I", state), np.uint8, n)
        state = (state >> 8 * n) ^ int(np.bitwise_xor.reduce(table[index]))
    return state ^ 0xFFFFFFFF


@functools.lru_cache(maxsize=2048)
def _places(n: int) -> np.ndarray:
    """Returns the table offset of each byte of a block of `n` bytes: 256 entries per following byte."""
    return np.arange(n - 1, -1, -1, dtype=np.int64) * 256


@functools.cache
def _bytes() -> list[int]:
    return _table()[:256].tolist()


@functools.cache
def _table() -> np.ndarray:
    """Returns the table of images of byte value ``v`` after ``k`` more bytes, at index ``256 k + v``; uint32."""
    first = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        first = np.where(first & 1, (first >> 1) ^ np.uint32(_POLYNOMIAL), first >> 1)
    rows = [first]
    for _ in range(_BLOCK - 1):
        rows.append((rows[-1] >> 8) ^ first[rows[-1] & 255])
    return np.concatenate(rows)
