import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from lanas_jax.training import image_operations, policies
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.pixel_augmentation import PixelAugmentation, apply_by_pillow, draw_operations
from tests.training.pictures import by_pillow, made_up, real

apply = jax.jit(jax.vmap(image_operations.apply, in_axes=(None, 0)))
FILL = (image_operations.FILL,) * 3
MOVING = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
ENHANCING = {name: getattr(ImageEnhance, name) for name in ("Contrast", "Color", "Brightness", "Sharpness")}


def affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=FILL)


def moved(image, name, shear, pixels, degrees):
    return {
        "ShearX": lambda: affine(image, 1, shear, 0, 0, 1, 0),
        "ShearY": lambda: affine(image, 1, 0, 0, shear, 1, 0),
        "TranslateX": lambda: affine(image, 1, 0, pixels, 0, 1, 0),
        "TranslateY": lambda: affine(image, 1, 0, 0, 0, 1, pixels),
        "Rotate": lambda: image.rotate(degrees, fillcolor=FILL),
    }[name]()


def stretched(image):
    """Autocontrast in whole numbers, which is Pillow's but for rounding: see test_image_operations.py."""
    levels = np.asarray(image).astype(int)
    low, high = levels.min((0, 1)), levels.max((0, 1))
    return Image.fromarray(np.where(high > low, (levels - low) * 255 // np.maximum(high - low, 1), levels).astype("u1"))


def as_published(image, name, level, sign):
    """An operation of AutoAugment on a 32x32 image, levels read as in the authors' program for CIFAR-10."""
    if name in MOVING:
        return moved(image, name, sign * level * 0.03, sign * level, sign * level * 3)
    if name in ENHANCING:
        return ENHANCING[name](image).enhance(level * 1.8 / 10 + 0.1)
    return {
        "Solarize": lambda: ImageOps.solarize(image, 256 - int(level * 25.6)),
        "Posterize": lambda: ImageOps.posterize(image, 4 - int(level * 0.4)),
        "Invert": lambda: ImageOps.invert(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "AutoContrast": lambda: stretched(image),
    }[name]()


def of_magnitude(image, name, magnitude, sign):
    """An operation of RandAugment on a 32x32 image."""
    if name in MOVING:
        return moved(image, name, sign * magnitude / 100, sign * round(magnitude / 3), sign * magnitude)
    if name in ENHANCING:
        return ENHANCING[name](image).enhance(1 + sign * 0.03 * magnitude)
    return {
        "Identity": lambda: image,
        "Solarize": lambda: ImageOps.solarize(image, 256 - int(magnitude * 256 / 30)),
        "Posterize": lambda: ImageOps.posterize(image, 8 - round(magnitude * 4 / 30)),
        "Equalize": lambda: ImageOps.equalize(image),
        "AutoContrast": lambda: stretched(image),
    }[name]()


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [lambda: made_up(32, 32), real], ids=["made_up", "real"])
def test_the_levels_of_autoaugment_are_those_of_the_authors_program(pictures):
    images = pictures()
    operations = policies.autoaugment_operations(32, 32)
    for row, steps in enumerate(policies.CIFAR10):
        for position, (name, _, level) in enumerate(steps):
            nothing, *both = (policies.pick(operations, row, position, variant) for variant in range(3))
            np.testing.assert_array_equal(apply(nothing, jnp.asarray(images)), images)
            for sign, operation in zip((1, -1), both, strict=True):
                theirs = by_pillow(lambda image: as_published(image, name, level, sign), images)  # noqa: B023
                np.testing.assert_array_equal(apply(operation, jnp.asarray(images)), theirs, err_msg=name)


@pytest.mark.parametrize("magnitude", [0, 1, 9, 17, 30])
def test_the_operations_of_randaugment_grow_in_tenths(magnitude):
    """Here in thirtieths, as of the authors' code."""
    images = made_up(32, 32)
    operations = policies.randaugment_operations(magnitude / 3, 32, 32)
    for row, name in enumerate(policies.RANDAUGMENT):
        for direction, sign in enumerate((1, -1)):
            operation = policies.pick(operations, row, direction)
            theirs = by_pillow(lambda image: of_magnitude(image, name, magnitude, sign), images)  # noqa: B023
            np.testing.assert_array_equal(apply(operation, jnp.asarray(images)), theirs, err_msg=name)


PUBLISHED = {  # steps, and their probabilities and levels added up, of each operation, as torchvision 0.28 has them
    "autoaugment": {
        "AutoContrast": (7, pytest.approx(5.0), 0),
        "Brightness": (4, pytest.approx(2.3), 25),
        "Color": (5, pytest.approx(2.9), 27),
        "Contrast": (2, pytest.approx(0.8), 13),
        "Equalize": (9, pytest.approx(4.7), 0),
        "Invert": (3, pytest.approx(0.2), 0),
        "Posterize": (1, pytest.approx(0.3), 7),
        "Rotate": (1, pytest.approx(0.7), 2),
        "Sharpness": (5, pytest.approx(2.8), 24),
        "ShearY": (2, pytest.approx(0.7), 15),
        "Solarize": (4, pytest.approx(1.9), 18),
        "TranslateX": (2, pytest.approx(0.8), 17),
        "TranslateY": (5, pytest.approx(3.4), 39),
    },
    "autoaugment_imagenet": {
        "AutoContrast": (2, pytest.approx(1.2), 0),
        "Color": (6, pytest.approx(3.8), 18),
        "Contrast": (2, pytest.approx(2.0), 16),
        "Equalize": (17, pytest.approx(11.2), 0),
        "Invert": (3, pytest.approx(1.8), 0),
        "Posterize": (5, pytest.approx(2.8), 32),
        "Rotate": (6, pytest.approx(3.6), 45),
        "Sharpness": (1, pytest.approx(0.4), 7),
        "ShearX": (1, pytest.approx(0.6), 5),
        "Solarize": (7, pytest.approx(3.6), 36),
    },
}


@pytest.mark.parametrize("policy", policies.POLICIES)
def test_the_tables_add_up_to_the_published_ones(policy):
    sums = {}
    for name, probability, level in (step for steps in policies.POLICIES[policy] for step in steps):
        count, probabilities, levels = sums.get(name, (0, 0.0, 0))
        sums[name] = count + 1, probabilities + probability, levels + level
    assert sums == PUBLISHED[policy]


def test_subpolicies_are_drawn_alike_and_their_operations_by_their_probabilities():
    """All p-values together fail for one seed in 10^5, were the draws right: 1e-5 is shared by 76 tests."""
    count, threshold = 50_000, 1e-5 / 76
    subpolicy, variant = map(np.asarray, policies.draw_subpolicies(jax.random.key(3), count))
    drawn = np.bincount(subpolicy, minlength=25)
    assert len(drawn) == 25
    assert stats.chisquare(drawn).pvalue > threshold
    for row, steps in enumerate(policies.CIFAR10):
        seen = variant[:, subpolicy == row]
        for position, (_, probability, _) in enumerate(steps):
            happened = (seen[position] > 0).sum()
            assert stats.binomtest(int(happened), seen.shape[1], probability).pvalue > threshold
        together = (seen > 0).all(axis=0).sum()
        both = steps[0][1] * steps[1][1]
        assert stats.binomtest(int(together), seen.shape[1], both).pvalue > threshold


def test_directions_are_drawn_alike():
    """Fails for one seed in 10^6, were the draws right."""
    _, variant = policies.draw_subpolicies(jax.random.key(4), 20_000)
    left, right = np.bincount(np.asarray(variant).ravel(), minlength=3)[1:]
    assert stats.binomtest(int(left), int(left + right), 0.5).pvalue > 1e-6


def test_an_image_goes_through_its_subpolicy():
    """AutoAugment of a batch is what Pillow makes of each image by the operations that were drawn for it."""
    key, images = jax.random.key(5), np.resize(made_up(32, 32)[:2], (64, 32, 32, 3))
    augmented = jax.jit(policies.autoaugment)(key, jnp.asarray(images))
    subpolicy, variant = map(np.asarray, policies.draw_subpolicies(key, len(images)))
    for image, ours, row, variants in zip(images, augmented, subpolicy, variant.T, strict=True):
        expected = Image.fromarray(image)
        for (name, _, level), v in zip(policies.CIFAR10[row], variants, strict=True):
            if v:
                expected = as_published(expected, name, level, (0, 1, -1)[v])
        np.testing.assert_array_equal(ours, expected, err_msg=str(policies.CIFAR10[row]))
    assert (variant > 0).any()
    assert (variant == 0).any()


@pytest.mark.slow
def test_randaugment_draws_operations_and_directions_alike_for_every_image():
    """Fails for one seed in 10^6, were the draws right. Each operation is told by what it makes of one image."""
    image, count = made_up(20, 20)[0], 2_800
    image = image // 2 + 40  # no full range, so that autocontrast is seen
    operations = policies.randaugment_operations(10.0, 20, 20)
    results = {}
    for row in range(len(policies.RANDAUGMENT)):
        for direction in range(2):
            operation = policies.pick(operations, row, direction)
            results.setdefault(np.asarray(apply(operation, image[None])).tobytes(), []).append((row, direction))
    images = jnp.asarray(np.broadcast_to(image, (count, 20, 20, 3)))
    augmented = jax.jit(policies.randaugment, static_argnums=(2, 3))(jax.random.key(1), images, 1, 10.0)
    outcomes = list(results)
    seen = np.bincount([outcomes.index(np.asarray(a).tobytes()) for a in augmented], minlength=len(outcomes))
    ways = np.array([len(results[outcome]) for outcome in outcomes])
    assert sorted(ways) == [1] * 18 + [2] * 5  # nine operations have directions
    assert stats.chisquare(seen, count * ways / 28).pvalue > 1e-6


def test_randaugment_applies_the_given_number_of_operations():
    images = jnp.asarray(made_up(20, 20))
    randaugment = jax.jit(policies.randaugment, static_argnums=(2, 3))
    one, two = (np.asarray(randaugment(jax.random.key(7), images, rounds, 5.0)) for rounds in (1, 2))
    assert (one != two).any()
    operations = policies.randaugment_operations(5.0, 20, 20)
    which = jnp.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    rounds = policies.pick(operations, which, 1)
    expected = np.asarray(images)
    for r in range(2):
        each = [policies.pick(rounds, r, i) for i in range(5)]
        expected = np.concatenate([apply(op, jnp.asarray(expected[i : i + 1])) for i, op in enumerate(each)])
    np.testing.assert_array_equal(jax.jit(policies.apply_rounds)(rounds, images), expected)


def test_magnitudes_are_drawn_around_theirs():
    """20,000 draws of mean 9 and deviation 0.5: those above 10 are cut; the mean's own error is 0.004."""
    levels = policies.draw_magnitudes(jax.random.key(0), (20_000,), 9.0, 0.5)
    drawn = policies.MAGNITUDES[np.asarray(levels)]
    expected = np.clip(9 + 0.5 * np.random.default_rng(0).normal(size=200_000), 0, 10)
    assert drawn.mean() == pytest.approx(expected.mean(), abs=0.02)
    assert drawn.std() == pytest.approx(expected.std(), abs=0.02)
    assert drawn.max() == 10


def test_operations_of_random_magnitudes_are_those_of_the_magnitudes_drawn():
    images, key = jnp.asarray(made_up(20, 20)), jax.random.key(7)
    found = jax.jit(policies.randaugment, static_argnums=(2, 3, 4))(key, images, 1, 5.0, 2.0)
    which_key, direction_key = jax.random.split(key)
    which = jax.random.randint(which_key, (1, 5), 0, len(policies.RANDAUGMENT))[0]
    direction = jax.random.randint(direction_key, (1, 5), 0, 2)[0]
    levels = policies.draw_magnitudes(jax.random.fold_in(key, 2), (1, 5), 5.0, 2.0)[0]
    assert len(set(levels.tolist())) > 1
    for i, level in enumerate(levels.tolist()):
        operations = policies.randaugment_operations(float(policies.MAGNITUDES[level]), 20, 20)
        expected = apply(policies.pick(operations, which[i], direction[i]), images[i : i + 1])
        np.testing.assert_array_equal(found[i], expected[0])


def test_the_levels_of_imagenets_policy_are_those_of_the_paper():
    """Table 6: posterized images keep 4 to 8 bits; all else is as in the policy for CIFAR-10."""
    images = made_up(32, 32)
    operations = policies.autoaugment_operations(32, 32, "autoaugment_imagenet")
    for row, steps in enumerate(policies.IMAGENET):
        for position, (name, _, level) in enumerate(steps):
            for variant, sign in ((1, 1), (2, -1)):
                operation = policies.pick(operations, row, position, variant)
                if name == "Posterize":
                    theirs = by_pillow(lambda image: ImageOps.posterize(image, 8 - round(0.4 * level)), images)  # noqa: B023
                else:
                    theirs = by_pillow(lambda image: as_published(image, name, level, sign), images)  # noqa: B023
                np.testing.assert_array_equal(apply(operation, jnp.asarray(images)), theirs, err_msg=name)


def test_an_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="unknown operation 'SamplePairing'"):
        policies.named("SamplePairing", 0.5, 1.0, 4, 32, 32)


@pytest.mark.parametrize("pictures", [lambda: made_up(32, 32), real], ids=["made_up", "real"])
def test_workers_compute_what_devices_compute(pictures):
    images = pictures()
    of_policy = policies.autoaugment_operations(32, 32, "autoaugment_imagenet")
    for operations in (policies.randaugment_operations(7.0, 32, 32), of_policy):
        rows = jax.tree.map(lambda leaf, of=operations: leaf.reshape(-1, *leaf.shape[of.factor.ndim :]), operations)
        for i in range(len(rows.factor)):
            operation = jax.tree.map(lambda leaf, i=i: leaf[i], rows)
            theirs = by_pillow(lambda image: apply_by_pillow(operation, image), images)  # noqa: B023
            np.testing.assert_array_equal(apply(operation, jnp.asarray(images)), theirs, err_msg=str(i))


@pytest.mark.parametrize("policy", list(policies.POLICIES))
def test_workers_draw_as_often_as_the_policy_says(policy):
    """Fails without a fault once in about 10,000 runs for each seed; the seed is fixed."""
    rng, draws = np.random.default_rng(0), 4000
    found = [len(draw_operations(Augmentation(policy=policy), rng, 32, 32)) for _ in range(draws)]
    expected = np.array([[chance for _, chance, _ in steps] for steps in policies.POLICIES[policy]]).sum(1).mean()
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / np.sqrt(draws)


def test_workers_draw_operations_and_magnitudes_of_randaugment():
    rng, settings = np.random.default_rng(0), Augmentation(policy="randaugment", operations=3, magnitude=5.0)
    known = policies.randaugment_operations(5.0, 32, 32)
    drawn = [draw_operations(settings, rng, 32, 32) for _ in range(200)]
    assert {len(each) for each in drawn} == {3}
    matrices = {tuple(row) for row in known.matrix.reshape(-1, 6).tolist()}
    assert {tuple(one.matrix.tolist()) for each in drawn for one in each} == matrices
    varied = dataclasses.replace(settings, magnitude_deviation=1.0)
    drawn = [one for _ in range(300) for one in draw_operations(varied, rng, 32, 32)]
    assert len({float(one.factor) for one in drawn}) > 20  # two of each operation at equal magnitudes


def test_crops_and_flips_of_workers_are_those_of_the_image():
    image = np.arange(1, 49, dtype=np.uint8).reshape(4, 4, 3)
    change = PixelAugmentation(Augmentation(crop=1, flip=True))
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    possible = [padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    possible = {each.tobytes() for crop in possible for each in (crop, np.ascontiguousarray(crop[:, ::-1]))}
    rng = np.random.default_rng(0)
    assert {change(image, rng).tobytes() for _ in range(300)} == possible
