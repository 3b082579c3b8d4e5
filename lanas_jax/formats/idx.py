"""IDX files, the format of MNIST: an array of bytes preceded by its shape, plain or gzip-compressed.

The format is two zero bytes, 8 for unsigned bytes, the number of dimensions, each dimension (uint32, big endian), then
the array (yann.lecun.com/exdb/mnist). Only unsigned bytes are supported.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from lanas_jax.formats.errors import FileError

_BYTES = 8  # element type: unsigned 8-bit integers


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Reads the array of a file; decompresses a file whose name ends in ``.gz``.

    Args:
      path: IDX file.
      dimensions: required number of dimensions of the array.

    Raises:
      FileError: if the file is missing, of another kind, cut off or too long; says what was expected.
    """
    content = _content(path)
    start = bytes((0, 0, _BYTES, dimensions))
    if content[:4] != start:
        raise FileError(
            f"{path}: expected an idx file of {dimensions} dimensions, {start!r} at byte 0; found {content[:4]!r}"
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise FileError(f"{path}: cut off: expected a header of {header} bytes; found {len(content)} bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise FileError(
            f"{path}: {'cut off' if len(content) < expected else 'too long'}: expected {expected} bytes, a header and "
            f"an array of shape {shape}; found {len(content)}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    try:
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path}: damaged or cut off at byte {len(raw)}, as gzip: {error}") from error
