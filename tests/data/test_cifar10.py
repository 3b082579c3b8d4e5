"""CIFAR-10: every form gives the same images, and every fault is named."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lanas_jax.data import cifar10, cifar10_archives, cifar10_npz, tfds_folder
from lanas_jax.data.sources import MissingDatasetError
from lanas_jax.formats.errors import FileError
from tests.data import made_up_cifar10 as made_up
from tests.data.made_up_cifar10 import CONTENTS, TEST, TRAIN


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """120 images instead of 60,000, and no folder to look in but those that a test names."""
    monkeypatch.setattr(cifar10, "SOURCE", dataclasses.replace(cifar10.SOURCE, contents=CONTENTS))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("LANAS_DATA", raising=False)


def write(form, folder):
    files = {"python": made_up.python_files, "binary": made_up.binary_files}
    if form in ("tfrecord", "array_record"):
        return made_up.write_tfds(folder, form)
    if form.endswith("folder"):
        name = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"}[form.split()[0]]
        return made_up.write_folder(folder / name, files[form.split()[0]]())
    if form.endswith("archive"):
        kind = form.split()[0]
        inside = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"}[kind]
        return made_up.write_archive(folder / f"cifar-10-{kind}.tar.gz", inside, files[kind]())
    path = folder / {"arrays": "cifar10.npz", "jpeg": "cifar10_jpegbytes.npz"}[form]
    np.savez(path, **{"arrays": made_up.arrays, "jpeg": made_up.jpeg}[form]())
    return path


LOSSLESS = (
    "tfrecord",
    "array_record",
    "python folder",
    "python archive",
    "binary folder",
    "binary archive",
    "arrays",
)


@pytest.mark.parametrize("form", LOSSLESS)
def test_every_form_gives_the_images_that_were_written(tmp_path, form):
    if form == "array_record":
        pytest.importorskip("array_record", reason="the package array_record is not installed")
    path = write(form, tmp_path)
    for given in (tmp_path, path):
        train, test = cifar10.SOURCE.read(given)
        np.testing.assert_array_equal(train.images, TRAIN[0])
        np.testing.assert_array_equal(train.labels, TRAIN[1])
        np.testing.assert_array_equal(test.images, TEST[0])
        np.testing.assert_array_equal(test.labels, TEST[1])


def test_jpeg_is_near(tmp_path):
    write("jpeg", tmp_path)
    train, test = cifar10.SOURCE.read(tmp_path)
    for split, (images, labels) in ((train, TRAIN), (test, TEST)):
        np.testing.assert_array_equal(split.labels, labels)
        assert np.abs(split.images.astype(int) - images).mean() < 3


def test_a_seed_means_the_same_images_from_every_form(tmp_path):
    reversed_order = made_up.arrays()
    reversed_order = {name: array[::-1] for name, array in reversed_order.items()}
    np.savez(tmp_path / "cifar10.npz", **reversed_order)
    write("binary archive", tmp_path)
    options = {"seed": 3, "validation": 20, "train": 30, "test": 10}
    first = cifar10.load_cifar10(tmp_path / "cifar10.npz", **options)
    second = cifar10.load_cifar10(tmp_path / "cifar-10-binary.tar.gz", **options)
    for one, other in zip(parts_of(first), parts_of(second), strict=True):
        np.testing.assert_array_equal(one.images, other.images)
    assert first.search.scaling == second.search.scaling


def parts_of(dataset):
    return dataset.search.train, dataset.search.validation, dataset.test


def test_load_divides_and_scales(tmp_path):
    write("binary folder", tmp_path)
    dataset = cifar10.load_cifar10(tmp_path, validation=20, size=16)
    assert [len(part) for part in parts_of(dataset)] == [80, 20, 20]
    assert dataset.search.image_shape == (16, 16, 3)
    assert all(part.images.dtype == np.uint8 for part in parts_of(dataset))
    mean = dataset.search.train.images.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(dataset.search.scaling.mean, mean)


def test_where_it_looks(tmp_path, monkeypatch):
    folders = {name: tmp_path / name for name in ("first", "home/tensorflow_datasets", "last")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        np.savez(folder / "cifar10.npz", **{**made_up.arrays(), "x_train": TRAIN[0] // (1 + list(folders).index(name))})
    monkeypatch.setenv("TFDS_DATA_DIR", str(folders["first"]))
    monkeypatch.setenv("LANAS_DATA", str(folders["last"]))
    for divisor, folder in enumerate(folders.values(), start=1):
        np.testing.assert_array_equal(cifar10.SOURCE.read()[0].images, TRAIN[0] // divisor)
        (folder / "cifar10.npz").unlink()


def test_what_is_missing_is_said_with_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setenv("LANAS_DATA", str(tmp_path))
    with pytest.raises(MissingDatasetError) as caught:
        cifar10.load_cifar10()
    message = str(caught.value)
    assert f"{tmp_path / 'home' / 'tensorflow_datasets'} (does not exist), {tmp_path}\n" in message
    for form in ("cifar10/3.*/dataset_info.json", "cifar-10-batches-py/data_batch_1", "cifar-10-binary.tar.gz"):
        assert form in message
    assert "tfds.builder('cifar10').download_and_prepare()" in message
    assert "lanas-jax[tensorflow]" in message
    assert isinstance(caught.value, FileNotFoundError)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "cifar10.zip").write_bytes(b"PK")
    with pytest.raises(MissingDatasetError, match=r"cifar10\.zip \(a file of another kind\)"):
        cifar10.load_cifar10(tmp_path / "cifar10.zip")


def fault(read, path, message):
    with pytest.raises(FileError, match=message):
        read(path, CONTENTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("data_batch_2"), "the member cifar-10-batches-py/data_batch_2 is missing"),
        (
            lambda files: files.update(data_batch_4=files["data_batch_4"][:50_000]),
            "data_batch_4: expected a pickled batch .* in 50000 bytes; .* truncated",
        ),
        (
            lambda files: files.update(data_batch_3=labelled(11)),
            "data_batch_3: expected labels from 0 to 9; image 6 has the label 11",
        ),
        (
            lambda files: files.update(test_batch=made_up.pickled({"data": TEST[0], "labels": [0] * 20})),
            r"test_batch: expected 20 images as uint8 of shape \(20, 3072\), .* of shape \(20, 32, 32, 3\)",
        ),
        (
            lambda files: files.update(data_batch_1=files["test_batch"].replace(b"labels", b"fables")),
            r"data_batch_1: .* b'labels'.*KeyError",
        ),
        (
            lambda files: files.update(data_batch_1=b"cos\nsystem\n(S'true'\ntR."),
            "data_batch_1: .* names os.system, which is not allowed",
        ),
    ],
    ids=["missing", "cut off", "label", "shape", "keys", "malicious"],
)
def test_faults_of_pickled_batches(tmp_path, change, message):
    files = made_up.python_files()
    change(files)
    path = made_up.write_archive(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    fault(cifar10_archives.read_archive, path, message)


def labelled(label):
    return made_up.pickled({"labels": [0] * 6 + [label] + [0] * 13, "data": made_up.planes(TRAIN[0][:20])})


def test_faults_of_binary_batches(tmp_path):
    files = made_up.binary_files()
    folder = made_up.write_folder(tmp_path / "cut", {**files, "data_batch_5.bin": files["data_batch_5.bin"][:-1]})
    fault(cifar10_archives.read_folder, folder, "data_batch_5.bin: expected 61460 bytes, 20 images of 3073 .*61459")
    folder = made_up.write_folder(tmp_path / "label", {**files, "test_batch.bin": bytes([10]) * 61460})
    fault(cifar10_archives.read_folder, folder, "test_batch.bin: .* image 0 has the label 10, the first of 20")
    del files["data_batch_2.bin"]
    folder = made_up.write_folder(tmp_path / "missing", files)
    fault(cifar10_archives.read_folder, folder, "data_batch_2.bin: No such file")


def noisy_files():
    """Batches that do not compress, so that a cut archive ends within a known one."""
    random = np.random.default_rng(0)
    rows = {name: random.integers(0, 256, (20, 3073)).astype(np.uint8) for name in made_up.binary_files()}
    for content in rows.values():
        content[:, 0] = np.arange(20) % 10
    return {name: content.tobytes() for name, content in rows.items()}


def test_a_damaged_archive(tmp_path):
    path = made_up.write_archive(tmp_path / "whole.tar.gz", "cifar-10-batches-bin", noisy_files())
    whole = path.read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    message = (
        "the member cifar-10-batches-bin/data_batch_3.bin is damaged or cut off: expected 61460 bytes; found .*"
        "MD5 of the archive is .*c32a1d4ab5d03f1284b67883e8d87530: download it again"
    )
    fault(cifar10_archives.read_archive, cut, message)
    cut.write_bytes(whole[:-8] + bytes(4) + whole[-4:])  # gzip's checksum
    fault(cifar10_archives.read_archive, cut, "after 6 of 6 batches: CRC check failed")
    cut.write_bytes(b"<html>Not found</html>")
    fault(cifar10_archives.read_archive, cut, "not a .tar.gz archive")
    other = made_up.write_archive(tmp_path / "other.tar.gz", "cifar-100-python", {"train": b"", "test": b""})
    fault(cifar10_archives.read_archive, other, "expected members such as cifar-10-batches-py/data_batch_1; found none")


def test_an_example_as_tensorflow_serializes_it():
    # tf.train.Example(...).SerializeToString() of TensorFlow 2.21; the second has two integers, and a float beside them
    first = (
        "0a3a0a110a05696d61676512080a060a0489504e470a0e0a056c6162656c12051a030a01070a150a026964120f0a0d0a0b"
        "747261696e5f3030303031"
    )
    text, number = tfds.features.Text(), tfds.features.ClassLabel(num_classes=1000)
    features = tfds.features.FeaturesDict({"id": text, "image": tfds.features.Image(), "label": number})
    assert tfds_folder.parse_example(features, bytes.fromhex(first)) == (b"\x89PNG", 7)
    second = bytes.fromhex("0a210a100a056c6162656c12071a050a03ac02010a0d0a0178120812060a040000c03f")
    with pytest.raises(ValueError, match="label"):
        tfds_folder.parse_example(features, second)
    assert tfds_folder.label_within(second, 0, len(second)) == 300


RECORDS = made_up.examples(TEST)


def with_record(number, data):
    return [*RECORDS[:number], data, *RECORDS[number + 1 :]]


PNG = made_up.encoded(TEST[0][0], "png")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (with_record(3, made_up.example(PNG, 10)), "record 3: expected a label from 0 to 9; found 10"),
        (with_record(3, made_up.example(PNG, -1)), "record 3: expected a label from 0 to 9; found -1"),
        (
            with_record(4, made_up.example(PNG[:200], 1)),
            "record 4: not a PNG or JPEG .* damaged one: .*truncated",
        ),
        (with_record(4, made_up.example(b"GIF89a..", 1)), "record 4: not a PNG or JPEG .* begins with b'GIF89a..'"),
        (
            with_record(5, made_up.example(made_up.encoded(TEST[0][0][:28], "png"), 1)),
            "record 5: expected a picture of 32 x 32, mode RGB; found 28 x 32, mode RGB",
        ),
        (
            with_record(6, made_up.example(made_up.encoded(TEST[0][0][..., 0], "png"), 1)),
            "record 6: .* found 32 x 32, mode L",
        ),
        (with_record(7, RECORDS[7][:-1]), "record 7: expected a tf.train.Example with an image and a label"),
        (with_record(7, b""), "record 7: expected a tf.train.Example"),
        (
            with_record(7, RECORDS[7].replace(b"label", b"lapel")),
            "record 7: .*; the image is bytes, the label NoneType",
        ),
        (RECORDS[:-1], "expected 20 records, as dataset_info.json says; found 19"),
    ],
    ids=["label", "no label", "cut png", "no png", "shape", "grey", "cut example", "empty", "feature", "count"],
)
def test_faults_of_records(tmp_path, records, message):
    folder = made_up.write_tfds(tmp_path)
    made_up.write_records(folder / "cifar10-test.tfrecord-00000-of-00001", records)
    fault(tfds_folder.read_tfds_folder, folder, f"cifar10-test.tfrecord-00000-of-00001: {message}")


def test_faults_of_a_prepared_folder(tmp_path):
    folder = made_up.write_tfds(tmp_path)
    path = folder / "cifar10-train.tfrecord-00001-of-00002"
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    fault(tfds_folder.read_tfds_folder, folder, f"{path.name}: record 0, .* is damaged: expected the checksum")
    path.unlink()
    fault(tfds_folder.read_tfds_folder, folder, f"{path.name}: No such file")
    info = folder / "dataset_info.json"
    text = info.read_text()
    info.write_text(text.replace('"tfrecord"', '"riegeli"'))
    fault(tfds_folder.read_tfds_folder, folder, "unsupported file format riegeli; prepare the dataset as tfrecord")
    info.write_text(text.replace('"test"', '"rest"'))
    fault(
        tfds_folder.read_tfds_folder,
        folder,
        "dataset_info.json: expected a dataset with the splits train and test, .* Unknown split 'test'",
    )
    info.write_text(text[:100])
    fault(tfds_folder.read_tfds_folder, folder, "dataset_info.json: .* ParseError: Failed to load JSON")


def test_a_damaged_array_record(tmp_path):
    pytest.importorskip("array_record", reason="the package array_record is not installed")
    folder = made_up.write_tfds(tmp_path, "array_record")
    path = folder / "cifar10-test.array_record-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-1])
    fault(tfds_folder.read_tfds_folder, folder, f"{path.name}: ")
    path.unlink()
    fault(tfds_folder.read_tfds_folder, folder, f"{path.name}: No such file")


JPEG = made_up.jpeg()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": TRAIN[0]}, "expected the field x_train or jpeg_train; found images"),
        ({"x_train": TRAIN[0], "y_train": TRAIN[1]}, "expected a field 'x_test'; found x_train, y_train"),
        (made_up.arrays() | {"x_train": TRAIN[0] / 255}, r"x_train .* of shape \[n, 32, 32, 3\]; found float64"),
        (made_up.arrays() | {"x_test": TEST[0].transpose(0, 3, 1, 2)}, r"x_test .* found uint8 of shape \(20, 3, 32"),
        (made_up.arrays() | {"y_test": TEST[1] - 1}, "y_test: expected labels from 0 to 9; image 0 has the label -1"),
        (made_up.arrays() | {"y_test": TEST[1][:-1]}, r"label for each of 20 images, .* int64 of shape \(19,\)"),
        (made_up.arrays() | {"y_test": TEST[1] / 1}, "an integer label for each .* found float64"),
        (JPEG | {"len_test": JPEG["len_test"][:-1]}, "len_test: expected positive lengths that add up to the"),
        (JPEG | {"len_test": JPEG["len_test"] / 1}, "len_test as integers; found uint8 .* and float64"),
        (JPEG | {"y_test": TEST[1][:-1]}, "cifar10.npz: test: .* each of 20 images"),
        (JPEG | {"jpeg_test": np.roll(JPEG["jpeg_test"], 9)}, "picture 0 of test: not a PNG or JPEG picture"),
    ],
    ids=[
        "foreign", "no test", "floats", "planes", "label", "labels", "label kind",
        "lengths", "length kind", "jpeg labels", "jpeg",
    ],
)  # fmt: skip
def test_faults_of_npz_files(tmp_path, fields, message):
    np.savez(tmp_path / "cifar10.npz", **fields)
    fault(cifar10_npz.read_cifar10_npz, tmp_path / "cifar10.npz", message)


def test_wrong_counts_are_refused(tmp_path):
    short = {"x_train": TRAIN[0][:-1], "y_train": TRAIN[1][:-1]}
    np.savez(tmp_path / "cifar10.npz", **{**made_up.arrays(), **short})
    with pytest.raises(FileError, match="has 100 training images, 10 of each class; found 99, of class 9 9"):
        cifar10.load_cifar10(tmp_path, validation=20)
    uneven = TEST[1].copy()
    uneven[0] = 1
    np.savez(tmp_path / "cifar10.npz", **{**made_up.arrays(), "y_test": uneven})
    with pytest.raises(FileError, match="has 20 test images, 2 of each class; found 20, of class 0 1"):
        cifar10.load_cifar10(tmp_path, validation=20)


REAL = os.path.join(os.environ.get("LANAS_DATA", ""), "cifar10_jpegbytes.npz")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isfile(REAL), reason="LANAS_DATA names no folder with cifar10_jpegbytes.npz")
def test_the_real_images(monkeypatch):
    contents = dataclasses.replace(CONTENTS, train=50_000, test=10_000)
    monkeypatch.setattr(cifar10, "SOURCE", dataclasses.replace(cifar10.SOURCE, contents=contents))
    dataset = cifar10.load_cifar10(REAL)
    for part, each in zip(parts_of(dataset), (4000, 1000, 1000), strict=True):
        assert np.bincount(part.labels).tolist() == [each] * 10
    # the mean and deviation of CIFAR-10's training images that everybody uses
    np.testing.assert_allclose(dataset.search.scaling.mean, (0.4914, 0.4822, 0.4465), atol=2e-3)
    np.testing.assert_allclose(dataset.search.scaling.deviation, (0.2470, 0.2435, 0.2616), atol=3e-3)
    images, labels = dataset.search.train.images.astype(np.float32), dataset.search.train.labels
    blue = images[..., 2].mean(axis=(1, 2)) - images[..., 0].mean(axis=(1, 2))
    shares = [(blue[labels == label] > 0).mean() for label in range(10)]
    assert sorted(np.argsort(shares)[-2:].tolist()) == [0, 8]  # airplanes in the sky, ships at sea
    rows = np.abs(np.diff(images, axis=1)).mean()
    shuffled = np.abs(images - images[::-1]).mean()
    assert rows < shuffled / 3  # neighbouring rows are alike: pixels are in place
