"""Writes images in the format in which tensorflow-datasets prepares ImageNet, without TensorFlow.

`experiments/imagenet_dry_run.py` uses it to run the ImageNet input pipeline end to end without ImageNet.
"""

import io
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lanas_jax.data.imagenet import NAME
from lanas_jax.data.splits import Split
from lanas_jax.formats.tfrecord import masked_crc32c

VERSION = "5.1.0"
QUALITY = 95  # JPEG quality
SHARD = 2_000  # maximum number of images per file
_SPLITS = ("train", "validation")


def write_pictures(folder: Path, splits: Mapping[str, Split]) -> Path:
    """Writes ``imagenet2012`` into a folder unless it exists. Atomic, so several processes may call it concurrently.

    Args:
      folder: target folder, created if missing.
      splits: 8-bit images and labels of ``train`` and ``validation``.

    Returns:
      The prepared folder.
    """
    prepared = folder / NAME / VERSION
    if prepared.exists():
        return prepared
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{NAME}.", dir=folder))
    partial.chmod(0o755)
    (partial / VERSION).mkdir()
    features = _features(max(int(split.labels.max()) for split in splits.values()) + 1)
    lengths = {name: _write_split(partial / VERSION, name, splits[name], features) for name in _SPLITS}
    _write_metadata(partial / VERSION, lengths, features)
    try:
        partial.rename(folder / NAME)
    except OSError:  # another process was faster
        if not prepared.exists():
            raise
        shutil.rmtree(partial)
    return prepared


def _write_split(folder: Path, name: str, split: Split, features: Any) -> list[int]:
    """Writes the files of a split and returns the number of images in each."""
    shards = -(-len(split) // SHARD)
    rows = np.array_split(np.arange(len(split)), shards)
    for number, chosen in enumerate(rows):
        records = (
            features.serialize_example(
                {"file_name": f"{name}_{row}.JPEG", "image": _jpeg(split.images[row]), "label": int(split.labels[row])}
            )
            for row in chosen
        )
        path = folder / f"{NAME}-{name}.tfrecord-{number:05d}-of-{shards:05d}"
        path.write_bytes(b"".join(map(_framed, records)))
    return [len(chosen) for chosen in rows]


def _features(classes: int) -> Any:
    """Returns the features of an image: those of ImageNet, except for the number of classes."""
    import tensorflow_datasets as tfds

    image, label = tfds.features.Image(encoding_format="jpeg"), tfds.features.ClassLabel(num_classes=classes)
    return tfds.features.FeaturesDict({"file_name": tfds.features.Text(), "image": image, "label": label})


def _write_metadata(folder: Path, lengths: Mapping[str, list[int]], features: Any) -> None:
    """Writes dataset_info.json and features.json; `lengths` holds the number of records of each file of a split."""
    import tensorflow_datasets as tfds

    files = tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name=NAME, filetype_suffix="tfrecord")
    splits = [
        tfds.core.SplitInfo(name=name, shard_lengths=of_split, num_bytes=0, filename_template=files.replace(split=name))
        for name, of_split in lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=splits, version=VERSION, check_data=False
    )


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=QUALITY)
    return file.getvalue()


def _framed(record: bytes) -> bytes:
    """Encodes a TFRecord record: length, checksum of the length, content, checksum of the content."""
    length = len(record).to_bytes(8, "little")
    checks = (masked_crc32c(part).to_bytes(4, "little") for part in (length, record))
    return length + next(checks) + record + next(checks)
