"""120 made-up images in every form in which CIFAR-10 is kept, written without the code that reads them."""

import io
import json
import pickle
import struct
import tarfile

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from lanas_jax.data.sources import Contents
from lanas_jax.formats.tfrecord import masked_crc32c

CONTENTS = Contents("CIFAR-10", (32, 32, 3), 10, train=100, test=20)
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


def images(n, seed):
    """Smooth pictures, all different, so that JPEG keeps them nearly; labels in turn."""
    labels = np.arange(n) % 10
    corners = np.random.default_rng(seed).integers(0, 256, (n, 2, 2, 3))
    ramp = np.linspace(0, 1, 32)
    weights = np.stack([1 - ramp, ramp])
    return np.einsum("nijc,ih,jw->nhwc", corners, weights, weights).astype(np.uint8), labels


TRAIN, TEST = images(100, 0), images(20, 1)


def planes(pixels):
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), 3072)


def batches():
    """Pixels and labels of each of the six files."""
    parts = [(TRAIN[0][i : i + 20], TRAIN[1][i : i + 20]) for i in range(0, 100, 20)]
    return dict(zip([*BATCHES, "test_batch"], [*parts, TEST], strict=True))


class Python2(pickle._Pickler):
    """Strings as Python 2 wrote them: bytes without an encoding."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_text(self, text):
        raw = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)

    dispatch[str] = dispatch[bytes] = save_text


def pickled(content):
    file = io.BytesIO()
    Python2(file, 2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def python_files():
    return {
        name: pickled({"batch_label": name, "labels": labels.tolist(), "data": planes(pixels), "filenames": ["a.png"]})
        for name, (pixels, labels) in batches().items()
    }


def binary_files():
    return {
        f"{name}.bin": np.column_stack([labels.astype(np.uint8), planes(pixels)]).tobytes()
        for name, (pixels, labels) in batches().items()
    }


def write_folder(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path, folder, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"readme.html": b"about", **files}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def field(number, content):
    size, length = len(content), b""
    while size > 127:
        size, length = size >> 7, length + bytes([size & 127 | 128])
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def example(image, label):
    """A tf.train.Example as tensorflow-datasets serializes it; labels below 128, or -1."""
    number = b"\xff" * 9 + b"\x01" if label == -1 else bytes([label])
    features = {
        b"image": field(1, field(1, image)),
        b"label": field(3, field(1, number)),
        b"id": field(1, field(1, b"train_00000")),
    }
    return field(1, b"".join(field(1, field(1, name) + field(2, value)) for name, value in features.items()))


def examples(part):
    return [example(encoded(pixels, "png"), label) for pixels, label in zip(*part, strict=True)]


def framed(data):
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def write_tfds(data_dir, kind="tfrecord"):
    """A prepared folder, the training images in two files."""
    folder = data_dir / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    train = examples(TRAIN)
    shards = {"train": [train[:60], train[60:]], "test": [examples(TEST)]}
    splits = [
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": name,
            "shardLengths": [str(len(shard)) for shard in parts],
        }
        for name, parts in shards.items()
    ]
    info = {"fileFormat": kind, "name": "cifar10", "splits": splits, "version": "3.0.2"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    image, label = tfds.features.Image(shape=(32, 32, 3)), tfds.features.ClassLabel(num_classes=10)
    tfds.features.FeaturesDict({"id": tfds.features.Text(), "image": image, "label": label}).save_config(folder)
    for name, parts in shards.items():
        for number, shard in enumerate(parts):
            path = folder / f"cifar10-{name}.{kind}-{number:05d}-of-{len(parts):05d}"
            write_records(path, shard, kind)
    return folder


def write_records(path, contents, kind="tfrecord"):
    if kind == "tfrecord":
        path.write_bytes(b"".join(map(framed, contents)))
        return
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for content in contents:
        writer.write(content)
    writer.close()


def arrays():
    return {"x_train": TRAIN[0], "y_train": TRAIN[1][:, None], "x_test": TEST[0], "y_test": TEST[1]}


def jpeg():
    fields = {}
    for part, (pixels, labels) in {"train": TRAIN, "test": TEST}.items():
        files = [encoded(image, "jpeg", quality=95) for image in pixels]
        fields[f"jpeg_{part}"] = np.frombuffer(b"".join(files), np.uint8)
        fields[f"len_{part}"] = np.array([len(file) for file in files])
        fields[f"y_{part}"] = labels
    return fields
