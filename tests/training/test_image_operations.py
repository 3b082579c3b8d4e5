"""Every operation against Pillow's, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from lanas_jax.training import image_operations as operations
from tests.training.pictures import by_pillow, made_up, real

apply = jax.jit(jax.vmap(operations.apply, in_axes=(None, 0)))
FILL = (operations.FILL,) * 3
SHEARS, PIXELS = np.linspace(-0.5, 0.5, 41), range(-35, 36, 2)
FACTORS = np.linspace(0, 2, 81)


def affine(*matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=FILL)


def enhanced(enhancer, factor):
    return lambda image: enhancer(image).enhance(factor)


def cases(name, height, width):
    """Pairs of an operation and what Pillow does in its stead, over the whole range of its argument."""
    rotated = [float(d) for d in range(-60, 61, 3)] + [0.1, 7.77, -13.5]
    return {
        "identity": [(operations.identity(), lambda image: image)],
        "shear_x": [(operations.shear_x(s), affine(1, s, 0, 0, 1, 0)) for s in SHEARS],
        "shear_y": [(operations.shear_y(s), affine(1, 0, 0, s, 1, 0)) for s in SHEARS],
        "translate_x": [(operations.translate_x(p), affine(1, 0, p, 0, 1, 0)) for p in PIXELS],
        "translate_y": [(operations.translate_y(p), affine(1, 0, 0, 0, 1, p)) for p in PIXELS],
        "rotate": [
            (operations.rotate(d, height, width), lambda image, d=d: image.rotate(d, fillcolor=FILL)) for d in rotated
        ],
        "invert": [(operations.invert(), ImageOps.invert)],
        "solarize": [(operations.solarize(t), lambda image, t=t: ImageOps.solarize(image, t)) for t in range(257)],
        "posterize": [(operations.posterize(b), lambda image, b=b: ImageOps.posterize(image, b)) for b in range(1, 9)],
        "equalize": [(operations.equalize(), ImageOps.equalize)],
        "brightness": [(operations.brightness(f), enhanced(ImageEnhance.Brightness, f)) for f in FACTORS],
        "contrast": [(operations.contrast(f), enhanced(ImageEnhance.Contrast, f)) for f in FACTORS],
        "color": [(operations.color(f), enhanced(ImageEnhance.Color, f)) for f in FACTORS],
        "sharpness": [(operations.sharpness(f), enhanced(ImageEnhance.Sharpness, f)) for f in FACTORS],
    }[name]


NAMES = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "invert", "solarize", "posterize"),
    *("equalize", "brightness", "contrast", "color", "sharpness"),
)


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [lambda: made_up(20, 27), real], ids=["made_up", "real"])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_pillows_bit_for_bit(name, pictures):
    images = pictures()
    for number, (operation, function) in enumerate(cases(name, *images.shape[1:3])):
        ours = apply(operation, jnp.asarray(images))
        np.testing.assert_array_equal(ours, by_pillow(function, images), err_msg=f"argument {number} of {name}")


@pytest.mark.parametrize("pictures", [lambda: made_up(20, 27), real], ids=["made_up", "real"])
def test_autocontrast_is_exact_where_pillow_rounds_below_a_whole_level(pictures):
    images = pictures().astype(int)
    low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    span = np.where(high > low, high - low, 255)
    stretched = (images - np.where(high > low, low, 0)) * 255
    ours = np.asarray(apply(operations.autocontrast(), jnp.asarray(images, jnp.uint8))).astype(int)
    np.testing.assert_array_equal(ours, stretched // span)
    below = ours - by_pillow(ImageOps.autocontrast, images.astype(np.uint8))
    assert set(np.unique(below)) <= {0, 1}
    assert (stretched % span == 0)[below == 1].all()


@pytest.mark.parametrize("side", [1, 2, 15, 16])
def test_tiny_images_are_pillows_too(side):
    """Below 255 pixels nothing is equalized, and an image without an inside is not smoothed."""
    images = made_up(side, side)
    for operation, function in (
        (operations.equalize(), ImageOps.equalize),
        (operations.sharpness(0.3), enhanced(ImageEnhance.Sharpness, 0.3)),
        (operations.rotate(30.0, side, side), lambda image: image.rotate(30, fillcolor=FILL)),
    ):
        np.testing.assert_array_equal(apply(operation, jnp.asarray(images)), by_pillow(function, images))


def test_every_image_of_a_batch_can_have_an_operation_of_its_own():
    images = made_up(20, 27)
    chosen = [
        operations.equalize(),
        operations.sharpness(1.7),
        operations.shear_y(-0.2),
        operations.invert(),
        operations.color(0.2),
    ]
    stacked = jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts)), *chosen)
    together = jax.jit(jax.vmap(operations.apply))(stacked, jnp.asarray(images))
    in_turn = jax.jit(lambda pairs: jax.lax.map(lambda pair: operations.apply(*pair), pairs))
    np.testing.assert_array_equal(together, in_turn((stacked, jnp.asarray(images))))
    for i, operation in enumerate(chosen):
        np.testing.assert_array_equal(together[i], apply(operation, jnp.asarray(images))[i])


@pytest.mark.parametrize("levels", [256, 7, 1])
def test_what_stands_in_for_looking_up_on_tpus_is_the_same(levels):
    rng = np.random.default_rng(levels)
    image = jnp.asarray(rng.integers(0, levels, (13, 17, 3)), jnp.uint8)
    table = jnp.asarray(rng.integers(0, 256, (3, 256)), jnp.uint8)
    by_index, by_product = operations._look_up_by_index, operations._look_up_by_product
    np.testing.assert_array_equal(by_product(image, table), by_index(image, table))
    counted, compared = operations._histogram_by_index(image), operations._histogram_by_comparing(image)
    np.testing.assert_array_equal(compared, counted)
    assert counted.sum() == image.size
