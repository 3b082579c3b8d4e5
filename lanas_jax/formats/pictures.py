"""Decoding of PNG or JPEG bytes by Pillow to arrays of a known shape."""

import io
import struct
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lanas_jax.formats.errors import FileError

_MODES = {1: "L", 3: "RGB"}  # modes of Pillow, by number of channels


def decode_picture(data: bytes, shape: tuple[int, int, int], where: str) -> UInt8[np.ndarray, "height width channels"]:
    """Decodes a PNG or JPEG image.

    Args:
      data: content of the image file.
      shape: required height, width and channels (1 or 3); nothing is resized or converted.
      where: name of the file and the record, for errors.

    Raises:
      FileError: if the image is of another format, damaged, or of another shape; names the record.
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
        raise FileError(f"{where}: not a PNG or JPEG picture, or a damaged one: {_reason(error, data)}") from error


def _reason(error: Exception, data: bytes) -> str:
    """Returns the reason of a decoding error; replaces Pillow's message that only contains the stream's address."""
    return f"begins with {data[:8]!r}" if "cannot identify" in str(error) else str(error)
