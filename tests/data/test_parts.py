"""Stratified parts: sizes, shares, and what they do not depend on."""

import numpy as np
import pytest

from lanas_jax.data.splits import Split, SplitSizes, average_pixels, check_parts, draw_stratified

RANDOM = np.random.default_rng(0)
TRAIN = Split(RANDOM.integers(0, 256, (400, 4, 4, 1)).astype(np.uint8), (np.arange(400) % 10).astype(np.int32))
TEST = Split(RANDOM.integers(0, 256, (100, 4, 4, 1)).astype(np.uint8), (np.arange(100) % 10).astype(np.int32))


def divided(images=TRAIN, **options):
    dataset = SplitSizes(**options).divide(images, TEST, 10)
    return dataset.search.train, dataset.search.validation, dataset.test


def rows(split):
    return {image.tobytes() for image in split.images}


def test_parts_are_apart_stratified_and_whole():
    train, validation, test = divided(validation=100)
    assert rows(train) | rows(validation) == rows(TRAIN)
    assert rows(test) == rows(TEST)
    assert not rows(train) & rows(validation)
    for part, each in ((train, 30), (validation, 10), (test, 10)):
        assert np.bincount(part.labels).tolist() == [each] * 10


def test_labels_stay_with_their_images():
    labels = {image.tobytes(): label for image, label in zip(TRAIN.images, TRAIN.labels, strict=True)}
    for part in divided(validation=100)[:2]:
        assert [labels[image.tobytes()] for image in part.images] == part.labels.tolist()


def test_fewer_training_images_leave_the_validation_images_as_they_are():
    all_train, validation, _ = divided(validation=100)
    train, same, test = divided(validation=100, train=50, test=20)
    np.testing.assert_array_equal(validation.images, same.images)
    assert rows(train) < rows(all_train)
    assert rows(test) < rows(TEST)
    assert np.bincount(train.labels).tolist() == [5] * 10
    assert np.bincount(test.labels).tolist() == [2] * 10


def test_the_seed_decides_and_the_order_of_the_file_does_not():
    order = np.random.default_rng(1).permutation(400)
    first, _, _ = divided(validation=100)
    shuffled, _, _ = divided(Split(TRAIN.images[order], TRAIN.labels[order]), validation=100)
    np.testing.assert_array_equal(first.images, shuffled.images)
    assert rows(divided(validation=100, seed=1)[0]) != rows(first)


def test_rows_are_the_same_on_every_machine():
    chosen, rest = draw_stratified(np.repeat(np.arange(2, dtype=np.int32), 4), 2, seed=0)
    assert chosen.tolist() == [7, 0]  # of scikit-learn 1.9
    assert sorted([*chosen, *rest]) == list(range(8))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"validation": 395, "train": None},
            r"400 images in parts of 395 .*, 5 \(train\): each .* at least 10",
        ),
        ({"validation": 5, "train": None}, r"5 \(validation\)"),
        ({"validation": 300, "train": 200}, "the remainder needs"),
        ({"validation": 300, "train": 95}, "the remainder needs"),
    ],
)
def test_parts_that_cannot_be_filled_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        check_parts(400, 10, parts)
    with pytest.raises(ValueError, match=message):
        divided(**parts)


def test_too_small_a_test_part_is_refused():
    with pytest.raises(ValueError, match=r"100 images in parts of 95 \(test\)"):
        divided(validation=100, test=95)


def test_pixels_are_averaged():
    image = np.array([[0, 1, 10, 10], [1, 0, 10, 11], [255, 255, 0, 0], [255, 254, 0, 3]], np.uint8)
    small = average_pixels(image[None, ..., None], 2)
    assert small[0, ..., 0].tolist() == [[1, 10], [255, 1]]  # means 0.5, 10.25, 254.75, 0.75, halves upward
    np.testing.assert_array_equal(average_pixels(TRAIN.images, 4), TRAIN.images)


@pytest.mark.parametrize("size", [3, 8, 0, -2])
def test_sizes_that_do_not_divide_are_refused(size):
    with pytest.raises(ValueError, match=f"images of 4 x 4 cannot be averaged to {size} x {size}"):
        divided(validation=100, size=size)
