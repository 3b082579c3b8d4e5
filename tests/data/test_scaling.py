import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.data.scaling import Scaling


def test_scaled_images_have_mean_zero_and_deviation_one():
    images = np.random.default_rng(0).integers(0, [60, 256, 101], (50, 8, 8, 3)).astype(np.uint8)
    scaled = np.asarray(Scaling.of(images)(jnp.asarray(images)), np.float64)
    np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_the_formula():
    pixels = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(Scaling((0.2,), (0.4,))(pixels).ravel(), [-0.5, 0.0, 2.0], atol=1e-6)


def test_a_constant_channel_becomes_zero():
    images = np.full((2, 3, 3, 1), 7, np.uint8)
    np.testing.assert_allclose(Scaling.of(images)(jnp.asarray(images)), 0, atol=1e-6)


def test_a_wrong_scaling_is_refused():
    with pytest.raises(ValueError, match="2 means, but 1 deviations"):
        Scaling((0.1, 0.2), (0.1,))
    with pytest.raises(ValueError, match="must be positive"):
        Scaling((0.1,), (0.0,))
    with pytest.raises(ValueError, match="3 channels, expected 1"):
        Scaling((0.1,), (1.0,))(jnp.zeros((1, 2, 2, 3), jnp.uint8))
