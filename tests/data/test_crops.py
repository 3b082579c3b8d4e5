"""Crops against Pillow used by hand, and against the distribution they are drawn from."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from lanas_jax.data.crops import Crop, centre_box, random_box
from lanas_jax.formats.errors import FileError
from tests.data.made_up_cifar10 import encoded

PICTURE = encoded(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8), "jpeg", quality=90)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_centre_is_what_pillow_makes_of_the_same_square(name):
    size = 48 * 0.875
    square = ((64 - size) / 2, (48 - size) / 2, (64 + size) / 2, (48 + size) / 2)
    by_hand = Image.open(io.BytesIO(PICTURE)).resize((40, 40), getattr(Image.Resampling, name.upper()), square)
    np.testing.assert_array_equal(Crop(40, name).centre(PICTURE), np.asarray(by_hand))


def test_centre_without_resizing_is_a_slice_of_the_picture():
    whole = np.asarray(Image.open(io.BytesIO(PICTURE)))
    np.testing.assert_array_equal(Crop(42).centre(PICTURE), whole[3:45, 11:53])


def test_a_picture_decoded_at_half_its_size_shows_the_same():
    ramps = np.stack(np.meshgrid(np.linspace(0, 255, 256), np.linspace(0, 255, 192)), -1)
    ramps = np.concatenate([ramps, ramps[..., :1]], -1).astype(np.uint8)
    large = encoded(ramps, "jpeg", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(large)).resize((40, 40), Image.Resampling.BICUBIC, (44, 12, 212, 180)))
    np.testing.assert_allclose(Crop(40).centre(large).astype(int), expected.astype(int), atol=4)


def test_random_crop_is_a_box_of_the_picture_flipped_or_not():
    seen = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        box = random_box((64, 48), (0.5, 1.0), (3 / 4, 4 / 3), rng)
        flipped = rng.random() < 0.5
        expected = np.asarray(Image.open(io.BytesIO(PICTURE)).resize((40, 40), Image.Resampling.BICUBIC, box))
        expected = expected[:, ::-1] if flipped else expected
        found = Crop(40, area=(0.5, 1.0)).random(PICTURE, np.random.default_rng(seed))
        np.testing.assert_array_equal(found, expected)
        seen.add(flipped)
    assert seen == {True, False}


def test_boxes_have_the_areas_ratios_and_places_that_were_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((1000, 800), (0.08, 0.3), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, ratios = width * height / 800_000, np.log(width / height)
    assert areas.min() > 0.079
    assert areas.max() < 0.301
    # means of uniform draws: five standard errors and the rounding to pixels, false once in 1,700,000 runs
    assert abs(areas.mean() - 0.19) < 5 * 0.22 / math.sqrt(12 * 4000) + 1e-3
    assert abs(ratios.mean()) < 5 * 2 * math.log(4 / 3) / math.sqrt(12 * 4000) + 1e-3
    left = boxes[:, 0] / (1000 - width)
    assert abs(left.mean() - 0.5) < 5 / math.sqrt(12 * 4000)
    assert left.min() < 0.01
    assert left.max() > 0.99


@pytest.mark.parametrize(("size", "box"), [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506))])
def test_a_strip_in_which_no_box_fits_gives_its_middle(size, box):
    assert random_box(size, (1.0, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0)) == box


def test_centre_box_of_a_tall_picture():
    assert centre_box((100, 200), 0.5) == (25, 75, 75, 125)


@pytest.mark.parametrize("damaged", [PICTURE[:400], b"", b"not a picture", PICTURE[:20]])
def test_damaged_pictures_are_refused(damaged):
    for make in (Crop(40).centre, lambda data: Crop(40).random(data, np.random.default_rng(0))):
        with pytest.raises(FileError, match="JPEG picture"):
            make(damaged)


def test_gray_pictures_become_three_equal_channels():
    gray = encoded(np.arange(48 * 64, dtype=np.uint8).reshape(48, 64), "jpeg")
    image = Crop(40).centre(gray)
    assert image.shape == (40, 40, 3)
    assert (image == image[..., :1]).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("resolution", 0),
        ("area", (0.5, 0.1)),
        ("area", (0.0, 1.0)),
        ("aspect", (0.0, 1.0)),
        ("crop_share", 1.5),
    ],
)
def test_settings_out_of_range_are_named(setting, value):
    with pytest.raises(ValueError, match=setting):
        Crop(**{setting: value})
