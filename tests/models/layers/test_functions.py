"""Operations written for CPUs against XLA's own, values and gradients."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lanas_jax.models import layers
from lanas_jax.models.layers import convolutions, pools
from tests.models.built import quick_jit

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


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


FORMS = {
    "shifted": (
        lambda *args: convolutions.shifted_separable(*args)[0],
        lambda x, depthwise, pointwise, dy, stride: convolutions.shifted_separable_gradient(
            x, depthwise, pointwise, convolutions.shifted_depthwise(x, depthwise, stride), dy, stride
        ),
    ),
    "dense": (
        lambda *args: convolutions.dense_separable(*args)[0],
        lambda x, depthwise, pointwise, dy, stride: convolutions.dense_separable_gradient(
            x, depthwise, pointwise, None, dy, stride
        ),
    ),
    "grouped": (
        lambda x, depthwise, pointwise, stride: convolutions.pointwise(
            convolutions.grouped_depthwise(x, depthwise, stride), pointwise
        ),
        None,
    ),
}


def xlas_separable(x, depthwise, pointwise, stride):
    """In float32, by XLA's convolutions and their own gradients."""
    pad, channels = depthwise.shape[0] // 2, x.shape[3]
    y = lax.conv_general_dilated(
        x.astype(jnp.float32),
        depthwise[:, :, None],
        (stride, stride),
        [(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )
    return y @ pointwise


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("size", "stride", "height", "width", "cached"),
    [(3, 1, 5, 7, 0), (3, 2, 8, 8, convolutions.CACHED), (5, 1, 8, 8, convolutions.CACHED), (5, 2, 5, 7, 0)],
)
def test_the_forms_of_a_separable_convolution(size, stride, height, width, dtype, cached, monkeypatch):
    """Values and gradients of all three, of standardised kernels; kernels and their gradients are float32.

    Bfloat16 has 8 bits: the forms round kernels and results at other places, each rounding by up to 1 in 256.
    """
    monkeypatch.setattr(convolutions, "CACHED", cached)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.02
    x, depthwise, pointwise = normal(0, 6, height, width, 3).astype(dtype), normal(1, size, size, 3), normal(3, 3, 4)

    @quick_jit
    def all_forms(x, depthwise, pointwise):
        def standardised(form):
            return lambda x, depthwise, pointwise: form(x, depthwise, layers.standardise(pointwise), stride)

        expected, pullback = jax.vjp(standardised(xlas_separable), x.astype(jnp.float32), depthwise, pointwise)
        dy = normal(2, *expected.shape).astype(dtype)
        found = {}
        standard, through = jax.vjp(layers.standardise, pointwise)
        for name, (form, gradient) in FORMS.items():
            if gradient is None:
                y, its_pullback = jax.vjp(standardised(form), x, depthwise, pointwise)
                found[name] = y, its_pullback(dy)
            else:
                *rest, dstandard = gradient(x, depthwise, standard, dy, stride)
                found[name] = form(x, depthwise, standard, stride), (*rest, *through(dstandard))
        return (expected, pullback(dy.astype(jnp.float32))), found

    expected, found = all_forms(x, depthwise, pointwise)
    for name, (y, gradients) in found.items():
        assert [leaf.dtype for leaf in (y, *gradients)] == [dtype, dtype, jnp.float32, jnp.float32], name
        for ours, theirs in zip((y, *gradients), (expected[0], *expected[1]), strict=True):
            assert jnp.linalg.norm(ours.astype(jnp.float32) - theirs) <= tolerance * jnp.linalg.norm(theirs), name


@pytest.mark.parametrize("channels", [3, convolutions.DENSE_CHANNELS + 1])
def test_a_separable_convolution_is_a_depthwise_and_a_pointwise_one(channels):
    """On the platform that runs the tests, by the public functions."""
    inputs = normal(0, 2, 5, 5, channels), normal(1, 3, 3, channels), normal(3, channels, 4)
    assert_same_function(partial(layers.separable, stride=2), partial(xlas_separable, stride=2), *inputs)


@pytest.mark.parametrize("operation", ["pointwise", "convolution", "depthwise"])
def test_the_gradient_of_a_kernel_is_not_rounded(operation):
    """In bfloat16, a sum of 1 and 256 times 1/512 is 1 if it is rounded at each addition, or else 1.5."""
    x = jnp.concatenate([jnp.ones((1, 1, 1, 1)), jnp.full((256, 1, 1, 1), 1 / 512)]).astype(jnp.bfloat16)
    shape = {"pointwise": (1, 1), "convolution": (3, 3, 1, 1), "depthwise": (3, 3, 1)}[operation]
    gradient = jax.jit(jax.grad(lambda kernel: getattr(layers, operation)(x, kernel).astype(jnp.float32).sum()))
    found = gradient(jnp.ones(shape))
    assert found.dtype == jnp.float32
    assert found.reshape(-1)[found.size // 2] == 1.5
    exact = jnp.float32(1 + 257 / 512)  # needs more bits than bfloat16 has
    more = jnp.concatenate([x, x[1:2]])
    again = jax.jit(jax.grad(lambda kernel: getattr(layers, operation)(more, kernel).astype(jnp.float32).sum()))
    assert again(jnp.ones(shape)).reshape(-1)[found.size // 2] == exact


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
def test_a_factorised_reduction_is_one_convolution(height, width):
    inputs = normal(0, 6, height, width, 3), normal(1, 3, 5)
    one = jax.custom_vjp(convolutions._one_convolution)
    one.defvjp(
        lambda *inputs: (one(*inputs), inputs),
        lambda inputs, dy: convolutions._one_convolution_gradient(*inputs, dy),
    )
    assert_same_function(layers.factorised_reduce, one, *inputs)


POOLS = {
    "shifted": (
        pools.shifted_maximum,
        lambda x, dy, stride: pools.shifted_maximum_gradient(x, pools.places_of_maxima(x, stride), dy, stride),
    ),
    "windowed": (
        pools.windowed_maximum,
        lambda x, dy, stride: pools.windowed_maximum_gradient(x, None, dy, stride),
    ),
}


def first_of_maxima(x, dy, stride):
    """Maxima over 3x3 pixels and their gradient, as loops."""
    x, dy = np.asarray(x, np.float32), np.asarray(dy, np.float32)
    y, dx = np.zeros(dy.shape, np.float32), np.zeros(x.shape, np.float32)
    for n, i, j, c in np.ndindex(dy.shape):
        rows, columns = (
            range(max(stride * k - 1, 0), min(stride * k + 2, size)) for k, size in ((i, x.shape[1]), (j, x.shape[2]))
        )
        at = max(((r, s) for r in rows for s in columns), key=lambda at: (x[n, *at, c], -at[0], -at[1]))
        y[n, i, j, c] = x[n, *at, c]
        dx[n, *at, c] += dy[n, i, j, c]
    return y, dx


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
def test_the_first_of_equal_pixels_has_the_gradient_of_a_maximum(stride, height, width, dtype):
    """Both forms, and the public function; small integers have many ties, and exact sums."""
    x = jax.random.randint(jax.random.key(0), (2, height, width, 3), 0, 3).astype(dtype)
    dy = jax.random.randint(jax.random.key(1), (2, -(-height // stride), -(-width // stride), 3), -8, 9).astype(dtype)

    @quick_jit
    def all_forms(x, dy):
        found = {name: (form(x, stride), gradient(x, dy, stride)) for name, (form, gradient) in POOLS.items()}
        y, pullback = jax.vjp(partial(layers.max_pool, stride=stride), x)
        return found | {"public": (y, *pullback(dy))}

    expected = first_of_maxima(x, dy, stride)
    for name, found in all_forms(x, dy).items():
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours.astype(jnp.float32), theirs, err_msg=name)


def test_the_gradient_of_a_maximum_of_what_is_computed_twice():
    """Optimized, XLA normalises the images in each loop that reads them, and not always with the same roundings."""
    scale, shift = jnp.float32([[[[1.1, 0.9, 1.3, 0.7]]]]), jnp.float32([[[[0.1, 0.2, 0.3, 0.4]]]])

    def after_norm(pool, x, mix, scale, shift):
        x = x @ mix
        centered = x - x.mean((0, 1, 2), keepdims=True)
        variance = jnp.square(centered).mean((0, 1, 2), keepdims=True)
        y = pool(centered * lax.rsqrt(variance + 1e-5) * scale + shift)
        return jnp.sum(y * jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    options = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]:  # of jax 0.10; later it always has them
        options["xla_cpu_use_fusion_emitters"] = True
    ours, theirs = (
        jax.jit(jax.grad(partial(after_norm, pool), (1, 2)), compiler_options=options)(
            normal(0, 6, 8, 8, 4), normal(1, 4, 4), scale, shift
        )
        for pool in (layers.max_pool, partial(pools.windowed_maximum, stride=1))
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), ours, theirs)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 1)])
def test_average_pool_is_a_mean_over_what_there_is(height, width):
    def windowed(x):
        def window_sum(x):
            return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

        return window_sum(x) / window_sum(jnp.ones_like(x))

    assert_same_function(layers.average_pool, windowed, normal(0, 6, height, width, 3))


def test_both_forms_of_a_window_sum():
    x = normal(0, 2, 5, 7, 3)
    np.testing.assert_allclose(pools.shifted_sum(x), pools.windowed_sum(x), **CLOSE)


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
    constants = {"momentum": 0.75, "epsilon": 5.0}
    y, mean, _ = layers.batch_norm(x, ones, zeros, zeros, ones, train=True, **constants)
    np.testing.assert_allclose(mean, 0.25 * jnp.mean(x, (0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(jnp.var(y, (0, 1, 2)), jnp.var(x, (0, 1, 2)) / (jnp.var(x, (0, 1, 2)) + 5), rtol=1e-3)
    y, _, _ = layers.batch_norm(x, ones, zeros, zeros, 4 * ones, train=False, **constants)
    np.testing.assert_allclose(y, x / 3, **CLOSE)


@pytest.mark.parametrize(("dtype", "epsilon"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-5), (jnp.float32, 1.0)])
def test_the_gradient_of_batch_norm(dtype, epsilon):
    """JAX's own gradient of the formula; the images that it saves have their own dtype."""

    def plain(x, scale, bias):
        scale, bias = scale[None, None, None], bias[None, None, None]
        z = x.astype(jnp.float32)
        deviation = jnp.sqrt(jnp.var(z, axis=(0, 1, 2), keepdims=True) + epsilon)
        return ((z - jnp.mean(z, axis=(0, 1, 2), keepdims=True)) / deviation * scale + bias).astype(dtype)

    def ours(x, scale, bias):
        return layers.batch_norm(x, scale, bias, jnp.zeros(5), jnp.ones(5), train=True, epsilon=epsilon)[0]

    x, scale, bias = (3 + 2 * normal(0, 6, 5, 7, 5)).astype(dtype), 1 + normal(1, 5), normal(3, 5)
    dy = normal(2, *x.shape).astype(dtype)

    @quick_jit
    def both(*inputs):
        return [[y, *pullback(dy)] for y, pullback in (jax.vjp(form, *inputs) for form in (ours, plain))]

    found, expected = both(x, scale, bias)
    tolerance = 1e-4 if dtype == jnp.float32 else 0.01  # of bfloat16, both round results alike
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        difference = np.linalg.norm(a.astype(jnp.float32) - b.astype(jnp.float32))
        assert difference <= tolerance * np.linalg.norm(b.astype(jnp.float32))
    saved = jax.tree.leaves(jax.eval_shape(lambda *inputs: jax.vjp(ours, *inputs)[1], x, scale, bias))
    assert [leaf.dtype for leaf in saved if leaf.shape == x.shape] == [dtype]
