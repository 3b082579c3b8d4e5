"""Operations written for CPUs against XLA's own, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lanas_jax.models import layers
from lanas_jax.models.layers import functions

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_same_function(ours, theirs, *inputs, exact=False):
    """Equal values, and equal gradients of a weighted sum of them, in one program."""

    @jax.jit
    def both(*inputs):
        dy = normal(2, *jax.eval_shape(ours, *inputs).shape)
        found = [jax.vjp(function, *inputs) for function in (ours, theirs)]
        return [(values, pullback(dy)) for values, pullback in found]

    (values, gradients), (expected, expected_gradients) = both(*inputs)
    np.testing.assert_allclose(values, expected, **({"rtol": 0, "atol": 0} if exact else CLOSE))
    for gradient, its in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, its, **CLOSE)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
def test_convolution_has_the_gradient_of_xlas(size, stride, height, width):
    def xlas(x, kernel):
        padding = 2 * [(size // 2, size // 2)]
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, kernel = normal(0, 6, height, width, 3), normal(1, size, size, 3, 4)
    assert_same_function(lambda x, kernel: layers.convolution(x, kernel, stride), xlas, x, kernel)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
@pytest.mark.parametrize("cached", [functions.CACHED, 0], ids=["at once", "a few images at a time"])
def test_shifted_depthwise_is_the_grouped_convolution(size, stride, height, width, cached, monkeypatch):
    monkeypatch.setattr(functions, "CACHED", cached)
    x, kernel = normal(0, 6, height, width, 3), normal(1, size, size, 3)
    assert_same_function(
        lambda x, kernel: functions._shifted_depthwise(x, kernel, stride),
        lambda x, kernel: functions._grouped_depthwise(x, kernel, stride),
        x,
        kernel,
    )


def windowed_maximum(x, stride):
    padding = [(0, 0), (1, 1), (1, 1), (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
def test_max_pool_is_the_windowed_maximum(stride, height, width):
    x = normal(0, 6, height, width, 3)
    assert_same_function(lambda x: layers.max_pool(x, stride), partial(windowed_maximum, stride=stride), x, exact=True)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_first_of_equal_pixels_has_the_gradient_of_a_maximum(stride):
    x = jax.random.randint(jax.random.key(0), (4, 8, 8, 3), 0, 3).astype(jnp.float32)
    assert_same_function(lambda x: layers.max_pool(x, stride), partial(windowed_maximum, stride=stride), x, exact=True)


def test_the_gradient_of_a_maximum_of_what_is_computed_twice():
    """Optimized, XLA normalises the images in each loop that reads them, and not always with the same roundings."""
    scale, shift = jnp.float32([[[[1.1, 0.9, 1.3, 0.7]]]]), jnp.float32([[[[0.1, 0.2, 0.3, 0.4]]]])

    def after_norm(pool, x, mix, scale, shift):
        x = x @ mix
        centered = x - x.mean((0, 1, 2), keepdims=True)
        variance = jnp.square(centered).mean((0, 1, 2), keepdims=True)
        y = pool(centered * lax.rsqrt(variance + 1e-5) * scale + shift)
        return jnp.sum(y * jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    options = {
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
        "xla_cpu_use_fusion_emitters": True,
    }
    ours, theirs = (
        jax.jit(jax.grad(partial(after_norm, pool), (1, 2)), compiler_options=options)(
            normal(0, 6, 8, 8, 4), normal(1, 4, 4), scale, shift
        )
        for pool in (layers.max_pool, partial(windowed_maximum, stride=1))
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), ours, theirs)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 1)])
def test_average_pool_is_a_mean_over_what_there_is(height, width):
    def windowed(x):
        def window_sum(x):
            return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

        return window_sum(x) / window_sum(jnp.ones_like(x))

    assert_same_function(layers.average_pool, windowed, normal(0, 6, height, width, 3))


def test_average_of_four():
    assert layers.average_of_four(jnp.arange(8.0).reshape(1, 2, 4, 1))[0, :, :, 0].tolist() == [[2.5, 4.5]]


def test_alternate_pixels():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    even, odd = layers.alternate_pixels(x)
    assert even[0, :, :, 0].tolist() == [[0, 2], [6, 8]]
    assert odd[0, :, :, 0].tolist() == [[4, 0], [0, 0]]


def test_standardised_weights_are_those_of_torch():
    """Outputs and gradients of a 1x1 convolution whose kernel is standardised as the authors' PyTorch code does it."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    x, kernel, dy = normal(0, 2, 4, 4, 6), 0.5 + normal(1, 6, 3), normal(2, 2, 4, 4, 3)
    ours, pullback = jax.vjp(lambda x, kernel: x @ layers.standardise(kernel), x, kernel)

    def channels_first(images):
        return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)

    images, weight = channels_first(x), torch.from_numpy(np.array(kernel.T)[:, :, None, None])
    images.requires_grad_(), weight.requires_grad_()
    flat = weight.view(3, -1)
    standard = (flat - flat.mean(dim=1, keepdim=True)) / (flat.std(dim=1, keepdim=True) + 1e-5)
    theirs = torch.nn.functional.conv2d(images, standard.view_as(weight))
    theirs.backward(channels_first(dy))
    np.testing.assert_allclose(ours, theirs.detach().permute(0, 2, 3, 1), **CLOSE)
    dx, dkernel = pullback(dy)
    np.testing.assert_allclose(dx, images.grad.permute(0, 2, 3, 1), **CLOSE)
    np.testing.assert_allclose(dkernel, weight.grad[:, :, 0, 0].T, **CLOSE)


def test_weights_that_are_not_used_do_not_count():
    kernel, used = 0.5 + normal(0, 6, 3), jnp.array([True, False, True, True, False, True])
    ours, pullback = jax.vjp(lambda kernel: layers.standardise(kernel, used), kernel)
    theirs, their_pullback = jax.vjp(layers.standardise, kernel[used])
    np.testing.assert_allclose(ours[used], theirs, rtol=1e-5)
    assert not ours[~used].any()
    dy = normal(1, 6, 3)
    (gradient,), (expected,) = pullback(dy), their_pullback(dy[used])
    np.testing.assert_allclose(gradient[used], expected, **CLOSE)
    assert not gradient[~used].any()


@pytest.mark.parametrize("rows", [1, 4])
def test_equal_weights_become_zero(rows):
    value, gradient = jax.value_and_grad(lambda kernel: layers.standardise(kernel).sum())(jnp.full((rows, 2), 3.0))
    assert value == 0
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_batch_norm_normalises_and_follows_the_statistics():
    x = 3 + 2 * normal(0, 16, 4, 4, 5)
    ones, zeros = jnp.ones(5), jnp.zeros(5)
    y, mean, variance = layers.batch_norm(x, ones, zeros, zeros, ones, train=True)
    np.testing.assert_allclose(jnp.mean(y, (0, 1, 2)), zeros, atol=1e-5)
    np.testing.assert_allclose(jnp.var(y, (0, 1, 2)), ones, rtol=1e-3)
    np.testing.assert_allclose(mean, 0.1 * jnp.mean(x, (0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * jnp.var(x, (0, 1, 2)), rtol=1e-4)
    y, same_mean, _ = layers.batch_norm(x, 2 * ones, ones, 3 * ones, 4 * ones, train=False)
    np.testing.assert_allclose(y, (x - 3) / jnp.sqrt(4 + 1e-5) * 2 + 1, **CLOSE)
    np.testing.assert_array_equal(same_mean, 3 * ones)
