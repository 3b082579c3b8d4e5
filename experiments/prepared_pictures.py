"""Writes images in the format in which tensorflow-datasets prepares ImageNet, without TensorFlow.

`experiments/imagenet_dry_run.py` uses it to run the ImageNet input pipeline end to end without ImageNet.
"""

import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from lanas_jax.data.imagenet import NAME
from lanas_jax.data.splits import Split
from lanas_jax.formats.tfrecord import masked_crc32c

VERSION = "5.1.0"
QUALITY = 95  # JPEG quality
SHARD = 2_000  # most images per file
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
    lengths = {name: _write_split(partial / VERSION, name, splits[name]) for name in _SPLITS}
    (partial / VERSION / "features.json").write_text("{}\n", encoding="utf-8")
    (partial / VERSION / "dataset_info.json").write_text(json.dumps(_info(lengths), indent=2) + "\n", encoding="utf-8")
    try:
        partial.rename(folder / NAME)
    except OSError:  # another process was faster
        if not prepared.exists():
            raise
        shutil.rmtree(partial)
    return prepared


def _write_split(folder: Path, name: str, split: Split) -> list[int]:
    """Writes the files of a split and returns their numbers of images."""
    shards = -(-len(split) // SHARD)
    rows = np.array_split(np.arange(len(split)), shards)
    for number, chosen in enumerate(rows):
        records = (_example(split.images[row], int(split.labels[row]), f"{name}_{row}.JPEG") for row in chosen)
        path = folder / f"{NAME}-{name}.tfrecord-{number:05d}-of-{shards:05d}"
        path.write_bytes(b"".join(map(_framed, records)))
    return [len(chosen) for chosen in rows]


def _info(lengths: Mapping[str, list[int]]) -> dict[str, object]:
    """Returns the content of dataset_info.json."""
    splits = [
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": name,
            "shardLengths": list(map(str, shards)),
        }
        for name, shards in lengths.items()
    ]
    return {"fileFormat": "tfrecord", "name": NAME, "splits": splits, "version": VERSION}


def _example(image: np.ndarray, label: int, name: str) -> bytes:
    """Encodes a ``tf.train.Example`` (tensorflow/core/example/example.proto)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=QUALITY)
    features = {
        "file_name": _field(1, _field(1, name.encode())),
        "image": _field(1, _field(1, file.getvalue())),
        "label": _field(3, _field(1, _varint(label))),
    }
    entries = (_field(1, key.encode()) + _field(2, feature) for key, feature in features.items())
    return _field(1, b"".join(_field(1, entry) for entry in entries))


def _field(number: int, content: bytes) -> bytes:
    """Encodes a length-delimited protobuf field, which holds bytes or another message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Encodes a varint: seven bits per byte, least significant first; the last byte has its highest bit unset."""
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _framed(record: bytes) -> bytes:
    """Encodes a TFRecord record: length, checksum of the length, content, checksum of the content."""
    length = len(record).to_bytes(8, "little")
    checks = (masked_crc32c(part).to_bytes(4, "little") for part in (length, record))
    return length + next(checks) + record + next(checks)
