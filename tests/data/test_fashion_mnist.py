"""Fashion-MNIST from idx files, made up and real."""

import dataclasses
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from lanas_jax.data import fashion_mnist
from lanas_jax.data.sources import Contents, MissingDatasetError
from lanas_jax.formats.errors import FileError

INSTALLED = fashion_mnist.SOURCE.folders[0]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """60 images instead of 70,000, and no folder to look in but those that a test names."""
    contents = Contents("Fashion-MNIST", (28, 28, 1), 10, train=40, test=20)
    monkeypatch.setattr(
        fashion_mnist, "SOURCE", dataclasses.replace(fashion_mnist.SOURCE, contents=contents, folders=())
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("LANAS_DATA", raising=False)


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def files():
    random = np.random.default_rng(0)
    content = {}
    for part, n in (("train", 40), ("t10k", 20)):
        content[f"{part}-images-idx3-ubyte"] = idx(random.integers(0, 256, (n, 28, 28)).astype(np.uint8))
        content[f"{part}-labels-idx1-ubyte"] = idx((np.arange(n) % 10).astype(np.uint8))
    return content


def write(folder, content, compressed):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(data) if compressed else data)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("below", ["", "fashion-mnist"])
def test_what_was_written_is_read(tmp_path, compressed, below):
    content = files()
    write(tmp_path / below, content, compressed)
    train, test = fashion_mnist.SOURCE.read(tmp_path)
    assert train.images.shape == (40, 28, 28, 1)
    assert train.images.tobytes() == content["train-images-idx3-ubyte"][16:]
    assert test.labels.tolist() == list(content["t10k-labels-idx1-ubyte"][8:])
    dataset = fashion_mnist.load_fashion_mnist(tmp_path, validation=10, train=20, test=10, size=14)
    assert [len(part) for part in (dataset.search.train, dataset.search.validation, dataset.test)] == [20, 10, 10]
    assert dataset.search.image_shape == (14, 14, 1)


FILES = files()
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (IMAGES, FILES[IMAGES][:-1], "cut off: expected 31376 bytes, .* of shape .40, 28, 28.; found 31375"),
        (IMAGES, FILES[IMAGES] + b"x", "too long: expected 31376 bytes, .*; found 31377"),
        (IMAGES, FILES[IMAGES][:9], "cut off: expected a header of 16 bytes; found 9"),
        (IMAGES, FILES[LABELS], "expected an idx file of 3 dimensions, .*x08.x03' at byte 0; found .*x08.x01'"),
        (IMAGES, b"", "expected an idx file"),
        (
            IMAGES,
            idx(np.zeros((40, 32, 32), np.uint8)),
            r"of shape \[n, 28, 28, 1\]; found uint8 of shape \(40, 32, 32",
        ),
        (LABELS, idx(np.zeros(39, np.uint8)), r"label for each of 40 images, .* shape \(39,\)"),
        (LABELS, idx(np.full(40, 10, np.uint8)), "expected labels from 0 to 9; image 0 has the label 10"),
        (LABELS, idx(np.zeros(40, np.uint8)), "has 40 training images, 4 of each class; found 40, of class 0 40"),
    ],
    ids=["cut", "long", "cut header", "labels for images", "empty", "shape", "labels", "label", "another dataset"],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_faults_are_named(tmp_path, compressed, name, data, message):
    write(tmp_path, {**FILES, name: data}, compressed)
    with pytest.raises(FileError, match=message):
        fashion_mnist.load_fashion_mnist(tmp_path)


@pytest.mark.usefixtures("small")
def test_damaged_gzip_and_missing_files_are_named(tmp_path):
    write(tmp_path, FILES, True)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(FileError, match=f"{path.name}: damaged or cut off at byte {len(whole) - 5}, as gzip"):
        fashion_mnist.load_fashion_mnist(tmp_path)
    path.unlink()
    with pytest.raises(FileError, match=f"{path.name}: No such file"):
        fashion_mnist.load_fashion_mnist(tmp_path)
    with pytest.raises(MissingDatasetError, match="dataset-fashion-mnist"):
        fashion_mnist.load_fashion_mnist()


@pytest.mark.skipif(not INSTALLED.is_dir(), reason=f"{INSTALLED} is not there: apt install dataset-fashion-mnist")
def test_the_real_images():
    dataset = fashion_mnist.load_fashion_mnist(Path(INSTALLED))
    for part, each in ((dataset.search.train, 5000), (dataset.search.validation, 1000), (dataset.test, 1000)):
        assert np.bincount(part.labels).tolist() == [each] * 10
    # the mean and deviation of Fashion-MNIST's training images that everybody uses
    np.testing.assert_allclose(dataset.search.scaling.mean, 0.2860, atol=5e-4)
    np.testing.assert_allclose(dataset.search.scaling.deviation, 0.3530, atol=5e-4)
    trousers = dataset.test.images[dataset.test.labels == 1].mean(axis=(0, 3))
    assert trousers[:, 10:18].mean() > 5 * trousers[:, :5].mean()  # upright, in the middle
