"""Images of 8 bits for the tests of augmentation, made up or real."""

import functools
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CIFAR10 = "cifar10_jpegbytes.npz"


def made_up(height, width):
    """Noise, a faint gradient, two levels, one level, and a channel of each: uint8[5, height, width, 3]."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height, width, 3))
    gradient = 90 + np.add.outer(np.arange(height), np.arange(width))[..., None] + np.array([0, 7, 31])
    two = np.where(noise > 200, 180, 20)
    one = np.full_like(noise, 77)
    mixed = np.stack([noise[..., 0], two[..., 1], one[..., 2]], axis=-1)
    return np.stack([noise, gradient, two, one, mixed]).astype(np.uint8)


@functools.cache
def real(count=6):
    """Test images of CIFAR-10 from all over the file, which is sorted by class; skips where they are not at hand."""
    path = Path(os.environ.get("LANAS_DATA", "")) / CIFAR10
    if "LANAS_DATA" not in os.environ or not path.exists():
        pytest.skip(f"LANAS_DATA does not name the folder of {CIFAR10}")
    with np.load(path) as file:
        ends = np.cumsum(file["len_test"])
        blob, starts = file["jpeg_test"].tobytes(), ends - file["len_test"]
    rows = np.linspace(0, len(ends) - 1, count).astype(int)
    return np.stack([np.asarray(Image.open(io.BytesIO(blob[starts[i] : ends[i]]))) for i in rows])


def by_pillow(function, images):
    """`function` of each image as Pillow has it."""
    return np.stack([np.asarray(function(Image.fromarray(image))) for image in images])
