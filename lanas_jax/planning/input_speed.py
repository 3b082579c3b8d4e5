"""The number of images that a core of this machine reads per second, and the number that a stage needs.

A core's speed is measured: images are decoded, cropped and augmented as input workers do it, in one thread, for a short
time that counts this thread's processor time alone. Waiting for disks and networks is not part of it. What a stage
needs is its batch divided by the estimated time of a step.
"""

import dataclasses
import io
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lanas_jax.data.sources import MissingDatasetError
from lanas_jax.formats.errors import FileError
from lanas_jax.planning.estimate import Estimate
from lanas_jax.planning.stage import StreamedInput
from lanas_jax.training.pixel_augmentation import PixelAugmentation, in_step

PICTURES = 16  # images of a sample
SECONDS = 1.0  # processor time of a measurement
WIDTH, HEIGHT = 500, 375  # of synthetic images; ImageNet's typical size


@dataclasses.dataclass(frozen=True)
class InputSpeed:
    """The measured speed of a core, and what a stage needs.

    Attributes:
      stage: name of the stage.
      needed: images per second that keep the devices busy; None if the time of a step is unknown.
      per_core: images per second of one core of this machine.
      sample: description of the images that were read.
      seconds: processor time of the measurement.
    """

    stage: str
    needed: float | None
    per_core: float
    sample: str
    seconds: float

    @property
    def cores(self) -> float | None:
        """The number of cores like this one that the stage needs, over all hosts."""
        return None if self.needed is None else self.needed / self.per_core


def measure_input(stage: Estimate, reading: StreamedInput, seconds: float = SECONDS) -> InputSpeed:
    """Measures how fast a core reads the images of a stage.

    Args:
      stage: estimate of the stage.
      reading: way in which images are read.
      seconds: least processor time to measure; each image of the sample is read at least once.
    """
    pictures, sample = _sample(reading)
    transform = None
    if in_step(reading.augmentation) != reading.augmentation:
        transform = PixelAugmentation(reading.augmentation)
    rng, read = np.random.default_rng(0), 0

    def prepare(picture: bytes) -> None:
        image = reading.crop.random(picture, rng)
        if transform is not None:
            transform(image, rng)

    prepare(pictures[0])  # builds the tables of a policy
    began = time.thread_time()
    while read < len(pictures) or time.thread_time() - began < seconds:
        prepare(pictures[read % len(pictures)])
        read += 1
    took = time.thread_time() - began
    step = stage.estimated_seconds or stage.step_seconds
    return InputSpeed(stage.stage, stage.batch_size / step if step else None, read / took, sample, took)


def synthetic_picture(rng: np.random.Generator) -> bytes:
    """Returns a smooth JPEG image of 500 x 375 pixels with some noise, about as large as one of ImageNet."""
    smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT), 3)
    noise = rng.normal(0, 12, (HEIGHT, WIDTH, 3))
    content = io.BytesIO()
    Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
    return content.getvalue()


def _sample(reading: StreamedInput) -> tuple[Sequence[bytes], str]:
    if reading.pictures is not None:
        try:
            found = reading.pictures()
            return found, f"{len(found)} images of the dataset"
        except (MissingDatasetError, FileError, ImportError, OSError):
            pass  # plans need no dataset
    rng = np.random.default_rng(0)
    return [synthetic_picture(rng) for _ in range(PICTURES)], f"{PICTURES} synthetic JPEG images of {WIDTH} x {HEIGHT}"
