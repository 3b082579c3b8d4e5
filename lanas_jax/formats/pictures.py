"""Pictures as PNG or JPEG bytes, decoded by Pillow to arrays of one known shape."""

import io
import struct
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lanas_jax.formats.errors import FileError

_MODES = {1: "L", 3: "RGB"}  # of Pillow, by channels


def decode_picture(data: bytes, shape: tuple[int, int, int], where: str) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels of a PNG or JPEG picture.

    Args:
      data: the whole file.
      shape: height, width and channels (1 or 3) that it must have; nothing is resized or converted.
      where: the file and the record, for errors.

    Raises:
      FileError: no such picture, a damaged one, or one of another shape; names the record.
    """
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            if picture.size != (width, height) or picture.mode != _MODES[channels]:
                raise FileError(
                    f"{where}: expected a picture of {height} x {width}, mode {_MODES[channels]}; "
                    f"found {picture.height} x {picture.width}, mode {picture.mode}"
                )
            return np.asarray(picture).reshape(shape)
    except (OSError, SyntaxError, zlib.error, struct.error, EOFError, Image.DecompressionBombError) as error:
        raise FileError(f"{where}: no PNG or JPEG picture, or a damaged one: {_reason(error, data)}") from error


def _reason(error: Exception, data: bytes) -> str:
    """Pillow names a stream that it cannot identify by its address, which says nothing."""
    return f"begins with {data[:8]!r}" if "cannot identify" in str(error) else str(error)
