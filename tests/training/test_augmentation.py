import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from scipy import stats

from lanas_jax.data.scaling import Scaling
from lanas_jax.training.augmentation import Augmentation, augment, draw_share, erase
from tests.training.pictures import made_up

KEY = jax.random.key(0)
COLOURS = Scaling((0.4, 0.5, 0.6), (0.25, 0.2, 0.3))
POLICY = Augmentation(policy="autoaugment")
augmented = jax.jit(augment, static_argnums=(0, 4))


def images_only(config, images, key=KEY, scaling=None):
    images = jnp.asarray(images)
    return np.asarray(augmented(config, key, images, jnp.ones((len(images), 2)), scaling)[0])


def numbered(count, height, width):
    """Grey images of float32 whose pixels all differ, and none of which is 0."""
    return 1 + np.arange(count * height * width, dtype=np.float32).reshape(count, height, width, 1)


def test_nothing_on_is_the_identity():
    images, targets = numbered(3, 4, 5), np.eye(3, dtype=np.float32)
    ours = augmented(Augmentation(), KEY, jnp.asarray(images), jnp.asarray(targets), None)
    np.testing.assert_array_equal(ours[0], images)
    np.testing.assert_array_equal(ours[1], targets)
    pixels = jnp.asarray(made_up(6, 7))
    np.testing.assert_array_equal(images_only(Augmentation(), pixels, scaling=COLOURS), jax.jit(COLOURS)(pixels))


@pytest.mark.parametrize(("config", "draws"), [(Augmentation(), False), (Augmentation(flip=True), True)])
def test_nothing_on_costs_nothing(config, draws):
    """What is compiled does not even read the key, whose words are the only 32-bit integers about."""
    images = jnp.zeros((2, 4, 4, 1))
    text = augmented.lower(config, KEY, images, jnp.ones((2, 2)), None).compile().as_text()
    assert ("u32[" in text) == draws


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_crop_is_a_slice_of_the_padded_image_and_every_place_comes_alike(dtype):
    """The chi-square test fails for one seed in 10^6, were the draws right."""
    count, padding = 2_500, 2
    image = numbered(1, 4, 5)[0].astype(dtype)
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    places = itertools.product(range(2 * padding + 1), repeat=2)
    slices = np.stack([padded[y : y + 4, x : x + 5] for y, x in places]).astype(np.float32)
    scaling = Scaling((0.0,), (1 / 255,)) if dtype == np.uint8 else None
    ours = images_only(Augmentation(crop=padding), np.stack([image] * count), scaling=scaling)
    same = (np.round(ours)[:, None] == slices[None]).all(axis=(2, 3, 4))
    assert (same.sum(axis=1) == 1).all()
    assert stats.chisquare(same.sum(axis=0)).pvalue > 1e-6


def test_half_of_the_images_are_mirrored():
    """Fails for one seed in 10^6, were the draws right."""
    images = numbered(2_000, 2, 3)
    ours = images_only(Augmentation(flip=True), images)
    kept, mirrored = ((ours == other).all(axis=(1, 2, 3)) for other in (images, images[:, :, ::-1]))
    assert (kept ^ mirrored).all()
    assert stats.binomtest(int(mirrored.sum()), len(images), 0.5).pvalue > 1e-6


@pytest.mark.parametrize("side", [1, 3, 4])
def test_cutout_is_the_loop_of_its_paper_with_centres_drawn_alike(side):
    """The chi-square test fails for one seed in 10^6, were the draws right."""
    count, height, width = 3_000, 5, 6
    masks = np.ones((height, width, height, width), np.float32)
    for y, x in itertools.product(range(height), range(width)):
        top, left = y - side // 2, x - side // 2
        masks[y, x, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    images = numbered(count, height, width)
    ours = images_only(Augmentation(cutout=side), images)
    kept = np.where(ours == images, 1.0, ours)[..., 0]
    same = (kept[:, None] == masks.reshape(1, -1, height, width)).all(axis=(2, 3))
    assert (same.sum(axis=1) == 1).all()
    assert stats.chisquare(same.sum(axis=0)).pvalue > 1e-6


def test_cutout_cuts_to_the_mean():
    ours = images_only(Augmentation(cutout=4), made_up(8, 8), scaling=COLOURS)
    whole = images_only(Augmentation(), made_up(8, 8), scaling=COLOURS)
    assert ((ours == 0).all(axis=-1).sum(axis=(1, 2)) >= 4).all()
    np.testing.assert_allclose(ours, np.where(ours == 0, np.float32(0), whole), rtol=1e-5, atol=1e-6)


def mixed_batches(config, count, side=6, images=3):
    """`count` batches of one-hot targets and numbered images, each mixed by a key of its own."""
    batch, targets = jnp.asarray(numbered(images, side, side)), jnp.eye(images)
    keys = jax.random.split(jax.random.key(9), count)
    ours = jax.jit(jax.vmap(lambda key: augment(config, key, batch, targets, None)))(keys)
    return np.asarray(batch), np.asarray(ours[0]), np.asarray(ours[1])


@pytest.mark.parametrize("alpha", [0.05, 1.0, 8.0])
def test_shares_follow_the_beta_distribution(alpha):
    """Kolmogorov-Smirnov fails for one seed in 10^6."""
    keys = jax.random.split(jax.random.key(3), 20_000)
    shares = np.asarray(jax.jit(jax.vmap(draw_share, (0, None)))(keys, jnp.float32(alpha)), np.float64)
    inside = shares[(shares > 1e-6) & (shares < 1 - 1e-6)]  # where 32 bits resolve both sides
    beta = stats.beta(alpha, alpha)
    low, high = beta.cdf([1e-6, 1 - 1e-6])
    assert stats.kstest(inside, lambda x: (beta.cdf(x) - low) / (high - low)).pvalue > 1e-6
    expected = len(shares) * (high - low)
    assert abs(len(inside) - expected) < 6 * np.sqrt(expected * (1 - high + low)) + 1


def test_mixup_averages_an_image_and_the_one_before_it_by_the_beta_distribution():
    """Mean and variance are six standard errors off, or Kolmogorov-Smirnov fails, for one seed in 10^6 or less."""
    alpha, count = 0.4, 20_000
    batch, images, targets = mixed_batches(Augmentation(mixup=alpha), count, side=2)
    kept = targets[:, 0, 0].astype(np.float64)
    np.testing.assert_allclose(targets.sum(axis=2), 1, atol=1e-6)
    expected = kept[:, None, None] * np.eye(3) + (1 - kept)[:, None, None] * np.roll(np.eye(3), 1, axis=0)
    np.testing.assert_allclose(targets, expected, atol=1e-6)
    weights = kept[:, None, None, None, None]
    np.testing.assert_allclose(images, weights * batch + (1 - weights) * np.roll(batch, 1, axis=0), rtol=1e-5)
    beta = stats.beta(alpha, alpha)
    variance, kurtosis = 1 / (4 * (2 * alpha + 1)), float(beta.stats("k")) + 3
    assert abs(kept.mean() - 0.5) < 6 * np.sqrt(variance / count)
    assert abs(np.square(kept - 0.5).mean() - variance) < 6 * variance * np.sqrt((kurtosis - 1) / count)
    assert stats.kstest(kept, beta.cdf).pvalue > 1e-6


@pytest.fixture(scope="module")
def pasted_batches():
    return mixed_batches(Augmentation(cutmix=1.0), 5_000, side=8)


def test_the_mass_of_cutmix_is_the_share_of_pixels(pasted_batches):
    batch, images, targets = pasted_batches
    own, other = images == batch, images == np.roll(batch, 1, axis=0)
    assert (own ^ other).all()
    share = own.mean(axis=(2, 3, 4)).astype(np.float32)[..., None]
    targets_of_own = np.eye(3, dtype=np.float32)
    expected = share * targets_of_own + (1 - share) * np.roll(targets_of_own, 1, axis=0)
    np.testing.assert_array_equal(targets, expected)
    assert (own == own[:, :1]).all()  # one box for the whole batch
    pasted = other[:, 0, :, :, 0]
    rectangles = pasted.any(axis=2)[:, :, None] & pasted.any(axis=1)[:, None]
    np.testing.assert_array_equal(pasted, rectangles)


def test_boxes_of_cutmix_have_the_areas_of_the_paper(pasted_batches):
    """The mean share that is kept, integrated by NumPy; six standard errors are exceeded by one seed in 10^8."""
    side, kept = 8, pasted_batches[2][:, 0, 0]
    lengths = (side * np.sqrt(1 - (np.arange(20_000) + 0.5) / 20_000)).astype(int)
    chances = np.bincount(lengths, minlength=side) / len(lengths)
    covered = [
        np.mean([min(c - n // 2 + n, side) - max(c - n // 2, 0) for c in range(side)]) / side for n in range(side)
    ]
    expected = 1 - np.dot(chances, np.square(covered))
    assert abs(kept.mean() - expected) < 6 * kept.std() / np.sqrt(len(kept))


def test_a_batch_takes_mixup_or_cutmix_and_some_batches_neither():
    """Fails for one seed in 10^6, were the draws right."""
    count, probability = 2_000, 0.75
    config = Augmentation(mixup=1.0, cutmix=8.0, mix_probability=probability)
    batch, images, _ = mixed_batches(config, count)
    own, other = images == batch, images == np.roll(batch, 1, axis=0)
    untouched = own.all(axis=(1, 2, 3, 4))
    pasted = (own | other).all(axis=(1, 2, 3, 4)) & ~untouched
    seen = [untouched.sum(), pasted.sum(), (~untouched & ~pasted).sum()]
    assert stats.chisquare(seen, count * np.array([0.25, 0.375, 0.375])).pvalue > 1e-6


def test_parts_come_in_their_order_and_draw_independently():
    """A crop and cutout together are the crop with the same cutout, whose zeros are not moved nor scaled."""
    images = made_up(8, 8)
    both = images_only(Augmentation(crop=2, flip=True, cutout=3), images, scaling=COLOURS)
    moved = images_only(Augmentation(crop=2, flip=True), images, scaling=COLOURS)
    mask = images_only(Augmentation(cutout=3), np.ones((5, 8, 8, 3), np.float32))
    assert (both[mask == 0] == 0).all()
    np.testing.assert_allclose(both, np.where(mask == 0, np.float32(0), moved), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment"])
def test_policies_work_on_levels(policy):
    pixels = np.repeat(made_up(20, 20)[:2], 8, axis=0)
    ours = images_only(Augmentation(policy=policy, operations=1), pixels, scaling=COLOURS)
    levels = 255 * (ours * np.array(COLOURS.deviation) + np.array(COLOURS.mean))
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert levels.min() > -0.5
    assert levels.max() < 255.5
    changed = (np.round(levels) != pixels).any(axis=(1, 2, 3))
    assert changed.sum() >= 4


def test_the_key_decides_and_every_image_draws_for_itself():
    images = np.stack([made_up(12, 12)[0]] * 6)
    config = Augmentation(crop=2, flip=True, cutout=4)
    ours = images_only(config, images, scaling=COLOURS)
    np.testing.assert_array_equal(ours, images_only(config, images, scaling=COLOURS))
    assert len(np.unique(ours.reshape(6, -1), axis=0)) == 6
    assert (ours != images_only(config, images, key=jax.random.key(1), scaling=COLOURS)).any(axis=(1, 2, 3)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        Augmentation(policy="randaugment", operations=1),
        Augmentation(2, True, "autoaugment", cutout=3, mixup=0.4, cutmix=1.0),
    ],
    ids=["policy", "all"],
)
def test_trials_can_be_mapped_in_every_way(config):
    """Under vmap, and under lax.map in shard_map, each of four trials gets what its key alone gives."""
    keys = jax.random.split(jax.random.key(2), 4)
    images, targets = jnp.asarray(made_up(10, 10)), jnp.eye(5)

    def trial(key):
        return augmented(config, key, images, targets, COLOURS)

    mesh = jax.make_mesh((4,), ("trial",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("trial")
    mapped = jax.shard_map(lambda keys: jax.lax.map(trial, keys), mesh=mesh, in_specs=spec, out_specs=spec)
    alone = [trial(key) for key in keys]
    expected = [np.stack(parts) for parts in zip(*alone, strict=True)]
    for way in (jax.vmap(trial), mapped):
        for ours, theirs in zip(jax.jit(way)(keys), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (expected[0][0] != expected[0][1]).any()


@pytest.mark.slow
def test_boxes_are_erased():
    """2,000 images: the share of erased ones has a standard deviation of 0.011, their mean area one of 0.002."""
    images = jnp.full((2_000, 16, 24, 1), 7.0)
    erased = np.asarray(jax.jit(erase, static_argnums=2)(KEY, images, 0.4))[..., 0] != 7
    areas = erased.mean(axis=(1, 2))
    assert (areas > 0).mean() == pytest.approx(0.4, abs=0.05)
    assert areas[areas > 0].min() > 0.01
    assert areas.max() < 0.36
    assert areas[areas > 0].mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    for one in erased[areas > 0]:
        rows, columns = one.any(axis=1), one.any(axis=0)
        np.testing.assert_array_equal(one, rows[:, None] & columns[None])
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
    noise = np.asarray(erase(KEY, images, 1.0))
    assert noise[noise != 7].std() == pytest.approx(1, abs=0.02)
    assert (np.asarray(erase(KEY, images, 0.0)) == 7).all()


def test_grey_images_of_floats_take_all_but_a_policy():
    config = Augmentation(crop=2, flip=True, cutout=4, mixup=0.4)
    images, targets = augmented(config, KEY, jnp.asarray(numbered(4, 8, 6)), jnp.eye(4), None)
    assert images.shape == (4, 8, 6, 1)
    assert images.dtype == targets.dtype == jnp.float32
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "config", "scaling", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), POLICY, None, "needs uint8 images of 3 channels; got float32 of 3"),
        (np.zeros((2, 4, 4, 1), np.uint8), POLICY, Scaling((0.5,), (0.5,)), "3 channels; got uint8 of 1"),
        (np.zeros((2, 4, 4, 3), np.uint8), Augmentation(), None, "only uint8 images need a scaling"),
        (np.zeros((2, 4, 4, 3), np.float32), Augmentation(), COLOURS, "only uint8 images need a scaling"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, config, scaling, message):
    with pytest.raises(ValueError, match=message):
        images_only(config, images, scaling=scaling)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", -1),
        ("operations", 0),
        ("magnitude", 10.5),
        ("magnitude_deviation", -0.5),
        ("erasing", 1.5),
        ("magnitude", -1),
        ("cutout", -2),
        ("mixup", -0.1),
        ("mixup", float("inf")),
        ("cutmix", float("nan")),
        ("mix_probability", 1.5),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*got {value}"):
        Augmentation(**{field: value})
