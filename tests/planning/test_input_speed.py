"""What a core reads of a sample, and what a stage needs; no figure here depends on the machine."""

import dataclasses

import numpy as np
import pytest

from lanas_jax.data.crops import Crop
from lanas_jax.data.sources import MissingDatasetError
from lanas_jax.formats.errors import FileError
from lanas_jax.planning import input_speed
from lanas_jax.planning.estimate import Estimate
from lanas_jax.planning.input_speed import measure_input, synthetic_picture
from lanas_jax.planning.stage import StreamedInput
from lanas_jax.training.augmentation import Augmentation

STAGE = Estimate("final", 4, 96, 10, None, None, 1e9, *[None] * 3, 0.5, "memory", 0.8, 0.8, None, (1.0,), 1.0, "")
PICTURE = synthetic_picture(np.random.default_rng(0))
CROP = Crop(8)


def test_each_image_of_the_sample_is_read_and_the_need_is_that_of_the_estimated_step():
    reading = StreamedInput(CROP, Augmentation(policy="randaugment"), lambda: [PICTURE] * 3)
    found = measure_input(STAGE, reading, seconds=0.0)
    assert (found.stage, found.needed, found.sample) == ("final", 96 / 0.8, "3 images of the dataset")
    assert found.per_core == pytest.approx(3 / found.seconds)
    assert found.cores == found.needed / found.per_core
    with pytest.raises(FileError, match="damaged"):
        measure_input(STAGE, StreamedInput(CROP, pictures=lambda: [PICTURE] * 2 + [PICTURE[:900]]), seconds=0.0)


def test_without_the_dataset_images_are_synthetic_and_without_an_estimate_the_bound_counts(monkeypatch):
    monkeypatch.setattr(input_speed, "PICTURES", 2)

    def missing():
        raise MissingDatasetError("nowhere")

    bound = dataclasses.replace(STAGE, estimated_seconds=None)
    found = measure_input(bound, StreamedInput(CROP, pictures=missing), seconds=0.0)
    assert (found.needed, found.sample) == (96 / 0.5, "2 synthetic JPEG images of 500 x 375")
