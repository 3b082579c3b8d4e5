"""A prepared folder of 60 training and 7 validation pictures of three classes, written without its reader."""

import json
import os
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from lanas_jax.data.sources import Contents
from tests.data.made_up_cifar10 import encoded, field, framed

CONTENTS = Contents("ImageNet", (40, 40, 3), 3, train=60, test=7)
SIZES = ((64, 48), (48, 64), (72, 72))  # width and height


def pixels():
    """67 images of 32 x 32: real ones where there are some, else noise."""
    data = Path(os.environ.get("LANAS_DATA", "")) / "cifar10_jpegbytes.npz"
    if not data.is_file():
        return np.random.default_rng(0).integers(0, 256, (67, 32, 32, 3), dtype=np.uint8)
    import io

    with np.load(data) as found:
        ends, blob = np.cumsum(found["len_test"][:67]), found["jpeg_test"]
    pieces = [blob[a:b].tobytes() for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return np.stack([np.asarray(Image.open(io.BytesIO(piece))) for piece in pieces])


def pictures():
    """JPEG files, each of one of three sizes."""
    images = [Image.fromarray(image).resize(SIZES[i % 3]) for i, image in enumerate(pixels())]
    return [encoded(np.asarray(image), "jpeg", quality=90) for image in images]


PICTURES = pictures()
LABELS = [i % 3 for i in range(60)] + [i % 3 for i in range(7)]


def example(image, label, label_first):
    """A tf.train.Example as tensorflow-datasets serializes it, its features in either order."""
    label = field(1, b"label") + field(2, field(3, field(1, bytes([label]))))
    image = field(1, b"image") + field(2, field(1, field(1, image)))
    name = field(1, b"file_name") + field(2, field(1, field(1, b"n01440764_10026.JPEG")))
    return field(
        1, b"".join(field(1, entry) for entry in ((label, image, name) if label_first else (image, name, label)))
    )


def write(data_dir, kind="tfrecord", pictures=PICTURES, labels=LABELS):
    """The folder: training pictures in three files of 20, validation pictures in one."""
    folder = data_dir / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    records = [example(image, label, i % 2) for i, (image, label) in enumerate(zip(pictures, labels, strict=True))]
    shards = {"train": [records[:20], records[20:40], records[40:60]], "validation": [records[60:]]}
    splits = [
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": name,
            "shardLengths": [str(len(part)) for part in parts],
        }
        for name, parts in shards.items()
    ]
    info = {"fileFormat": kind, "name": "imagenet2012", "splits": splits, "version": "5.1.0"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    image, label = tfds.features.Image(encoding_format="jpeg"), tfds.features.ClassLabel(num_classes=3)
    tfds.features.FeaturesDict({"file_name": tfds.features.Text(), "image": image, "label": label}).save_config(folder)
    for name, parts in shards.items():
        for number, part in enumerate(parts):
            path = folder / f"imagenet2012-{name}.{kind}-{number:05d}-of-{len(parts):05d}"
            if kind == "tfrecord":
                path.write_bytes(b"".join(map(framed, part)))
            else:
                write_array_record(path, part)
    return folder


def write_array_record(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
