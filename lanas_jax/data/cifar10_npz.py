"""CIFAR-10 in an ``.npz`` file: as arrays, or as JPEG images in a tenth of the space.

Arrays:
  ``x_train`` uint8[50000, 32, 32, 3], ``x_test`` uint8[10000, 32, 32, 3], ``y_train`` and ``y_test``, integers of shape
  [n] or [n, 1] (as in Keras).

JPEG:
  ``jpeg_train`` and ``jpeg_test`` uint8, all images concatenated; ``len_train`` and ``len_test``, the number of bytes
  of each image; ``y_train`` and ``y_test``. JPEG is lossy: accuracies on such images differ slightly from CIFAR-10's.
"""

from pathlib import Path

import numpy as np

from lanas_jax.data.sources import Contents
from lanas_jax.data.splits import Split
from lanas_jax.formats import npz, pictures
from lanas_jax.formats.errors import FileError


def read_cifar10_npz(path: Path, contents: Contents) -> tuple[Split, Split]:
    """Reads training and test images of an ``.npz`` file in either form.

    Raises:
      FileError: if the file has neither form, a field or picture is damaged, or a shape or length is wrong; names it.
    """
    found = npz.fields_of(path)
    if "x_train" in found:
        return _arrays(path, "train", contents), _arrays(path, "test", contents)
    if "jpeg_train" in found:
        return _jpeg(path, "train", contents), _jpeg(path, "test", contents)
    raise FileError(f"{path}: expected the field x_train or jpeg_train; found {', '.join(found)}")


def _arrays(path: Path, part: str, contents: Contents) -> Split:
    images, labels = npz.read_npz(path, (f"x_{part}", f"y_{part}")).values()
    column = labels.ndim == 2 and labels.shape[1] == 1
    return contents.split(images, labels[:, 0] if column else labels, f"{path}: x_{part} and y_{part}")


def _jpeg(path: Path, part: str, contents: Contents) -> Split:
    blob, lengths, labels = npz.read_npz(path, (f"jpeg_{part}", f"len_{part}", f"y_{part}")).values()
    if blob.dtype != np.uint8 or blob.ndim != 1 or lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
        raise FileError(
            f"{path}: expected jpeg_{part} as uint8[bytes] and len_{part} as integers; found {blob.dtype} of shape "
            f"{blob.shape} and {lengths.dtype} of shape {lengths.shape}"
        )
    if (lengths <= 0).any() or lengths.sum() != len(blob):
        raise FileError(
            f"{path}: len_{part}: expected positive lengths that add up to the {len(blob)} bytes of jpeg_{part}; "
            f"found {lengths.sum()}, the least {lengths.min(initial=0)}"
        )
    content, ends = blob.tobytes(), np.cumsum(lengths, dtype=np.int64).tolist()
    images = np.empty((len(ends), *contents.image_shape), np.uint8)
    for row, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        images[row] = pictures.decode_picture(
            content[start:end], contents.image_shape, f"{path}: picture {row} of {part}"
        )
    return contents.split(images, labels, f"{path}: {part}")
