"""CIFAR-10 as distributed by its author: six batches, pickled or as plain bytes, in an archive or a folder.

Source: cs.toronto.edu/~kriz/cifar.html. An image is 3,072 bytes: the red, then the green, then the blue channel, each
row by row. In the binary version the label precedes the image. Archives are read in memory; nothing is extracted to
disk, and only lists and arrays are read from pickles (`lanas_jax.formats.array_pickle`).

An archive whose MD5 is not the official one is accepted if its content is complete, since it may have been repacked;
the gzip checksum, every size and every label are verified in any case. If an archive cannot be read, the error reports
its MD5, which shows whether the download was damaged.
"""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from lanas_jax.data.sources import Contents
from lanas_jax.data.splits import Split
from lanas_jax.formats import array_pickle
from lanas_jax.formats.errors import FileError

MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
}
_PIECE = 1 << 16  # bytes
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error)


class Version(NamedTuple):
    """One of the two versions of the batches."""

    folder: str
    ending: str  # suffix of file names
    parse: Callable[[bytes, int, str], tuple[np.ndarray, np.ndarray]]  # arguments: content, number of images, place

    @property
    def train(self) -> list[str]:
        """Names of the files of training images."""
        return [f"data_batch_{number}{self.ending}" for number in range(1, 6)]

    @property
    def test(self) -> str:
        """Name of the file of test images."""
        return f"test_batch{self.ending}"


def read_folder(folder: Path, contents: Contents) -> tuple[Split, Split]:
    """Reads training and test images of an extracted archive.

    Raises:
      FileError: if a batch is missing, damaged or cut off, its number of images is wrong, or a label is out of range;
        names the file.
    """
    version = next((version for version in VERSIONS if (folder / version.train[0]).is_file()), PYTHON)
    files = {}
    for name in (*version.train, version.test):
        try:
            files[name] = (folder / name).read_bytes()
        except OSError as error:
            raise FileError(f"{folder / name}: {error.strerror or error}") from error
    return _splits(files, version, contents, str(folder))


def read_archive(path: Path, contents: Contents) -> tuple[Split, Split]:
    """Reads training and test images of one of the two archives.

    Raises:
      FileError: for the same reasons as `read_folder`, or if the archive is damaged, cut off, or another one; names the
        member.
    """
    try:
        members = _members(path)
        version = next((version for version in VERSIONS if (version.folder, version.train[0]) in members), None)
        if version is None:
            raise FileError(f"{path}: expected members such as {PYTHON.folder}/{PYTHON.train[0]}; found none")
        files = {name: content for (folder, name), content in members.items() if folder == version.folder}
        for name in (*version.train, version.test):
            if name not in files:
                raise FileError(f"{path}: the member {version.folder}/{name} is missing")
        return _splits(files, version, contents, str(path))
    except FileError as error:
        raise FileError(f"{error}{_md5_note(path)}") from error


def _members(path: Path) -> dict[tuple[str, str], bytes]:
    """Returns the batches in an archive, by folder and name."""
    wanted = {(version.folder, name) for version in VERSIONS for name in (*version.train, version.test)}
    found: dict[tuple[str, str], bytes] = {}
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isreg() and (key := (name.parent.name, name.name)) in wanted:
                    found[key] = _content(archive, member, path)
            while stream.read(_PIECE):  # read to the end, where gzip's checksum is verified
                pass
    except _DAMAGE as error:
        raise FileError(
            f"{path}: not a .tar.gz archive, or damaged or cut off, after {len(found)} of 6 batches: {error}"
        ) from error
    return found


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    content, reason = bytearray(), ""
    try:
        file = archive.extractfile(member)
        while file is not None and (piece := file.read(_PIECE)):
            content += piece
    except _DAMAGE as error:
        reason = f": {error}"
    if len(content) != member.size:
        raise FileError(
            f"{path}: the member {member.name} is damaged or cut off: expected {member.size} bytes; "
            f"found {len(content)}{reason}"
        )
    return bytes(content)


def _md5_note(path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
    except OSError:
        return ""
    if found in MD5.values():
        return f" (though the MD5 of the archive, {found}, is the official one)"
    return f" (the MD5 of the archive is {found}, official are {' and '.join(MD5.values())}: download it again)"


def _splits(files: dict[str, bytes], version: Version, contents: Contents, where: str) -> tuple[Split, Split]:
    each = contents.train // len(version.train)
    batches = [_batch(files[name], version, each, contents, f"{where}: {name}") for name in version.train]
    train = Split(
        np.concatenate([batch.images for batch in batches]), np.concatenate([batch.labels for batch in batches])
    )
    return train, _batch(files[version.test], version, contents.test, contents, f"{where}: {version.test}")


def _batch(content: bytes, version: Version, images: int, contents: Contents, where: str) -> Split:
    pixels, labels = version.parse(content, images, where)
    planes = pixels.reshape(-1, contents.image_shape[2], *contents.image_shape[:2])
    return contents.split(planes.transpose(0, 2, 3, 1), labels, where)


_PIXELS = 3072


def _pickled(content: bytes, images: int, where: str) -> tuple[UInt8[np.ndarray, "n 3072"], np.ndarray]:
    try:
        batch = array_pickle.load_array_pickle(content)
        pixels, labels = np.asarray(batch[b"data"]), np.array(batch[b"labels"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{where}: expected a pickled batch with b'data' and b'labels' in {len(content)} bytes; "
            f"{type(error).__name__}: {error}"
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape != (images, _PIXELS) or labels.shape != (images,):
        raise FileError(
            f"{where}: expected {images} images as uint8 of shape ({images}, {_PIXELS}), and as many labels; "
            f"found {pixels.dtype} of shape {pixels.shape} and {len(labels) if labels.ndim else 'no'} labels"
        )
    return pixels, labels


def _binary(content: bytes, images: int, where: str) -> tuple[UInt8[np.ndarray, "n 3072"], np.ndarray]:
    expected = images * (1 + _PIXELS)
    if len(content) != expected:
        raise FileError(
            f"{where}: expected {expected} bytes, {images} images of {1 + _PIXELS} bytes; found {len(content)}"
        )
    rows = np.frombuffer(content, np.uint8).reshape(images, 1 + _PIXELS)
    return rows[:, 1:], rows[:, 0]


PYTHON = Version("cifar-10-batches-py", "", _pickled)
BINARY = Version("cifar-10-batches-bin", ".bin", _binary)
VERSIONS = (PYTHON, BINARY)
