"""The auxiliary head against the layers of DARTS in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.models.nasnet.auxiliary import AuxiliaryHead, pool_window


@pytest.fixture(name="head", scope="module")
def _head():
    return AuxiliaryHead(6, 5, 8, dtype=jnp.float32, rngs=nnx.Rngs(0))


@pytest.fixture(name="images", scope="module")
def _images():
    return jax.random.normal(jax.random.key(1), (4, 8, 8, 6))


@pytest.fixture(name="twin", scope="module")
def _twin(head):
    """The head of DARTS, with the same weights."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    nn = torch.nn
    twin = nn.Sequential(
        nn.ReLU(),
        nn.AvgPool2d(5, stride=3, padding=0, count_include_pad=False),
        nn.Conv2d(6, 128, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 768, 2, bias=False),
        nn.BatchNorm2d(768),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, 5),
    )
    kernels = {2: np.array(head.pointwise.kernel)[None, None], 5: np.array(head.conv.kernel)}
    with torch.no_grad():
        for layer, kernel in kernels.items():
            twin[layer].weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
        twin[9].weight.copy_(torch.from_numpy(np.array(head.head.kernel).T.copy()))
        twin[9].bias.copy_(torch.from_numpy(np.array(head.head.bias)))
    return lambda images: twin(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)).detach().numpy()


def test_it_is_the_head_of_darts(head, twin, images):
    np.testing.assert_allclose(head(images), twin(images), rtol=1e-3, atol=1e-4)


def test_bfloat16_gives_what_float32_gives_but_for_roundings(head, images):
    rounded = AuxiliaryHead(6, 5, 8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    ours, theirs = rounded(images.astype(jnp.bfloat16)), head(images)
    assert ours.dtype == jnp.float32
    assert 0 < np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)


@pytest.mark.parametrize("size", [*range(2, 40), 112])
def test_any_size_is_pooled_to_two_windows_that_cover_it(size):
    window, stride = pool_window(size)
    assert window + stride == size
    assert window >= stride > 0
    assert (size - window) // stride + 1 == 2


def test_initial_variances(head):
    """At least 3,840 weights of a kind, so 15% is six standard deviations or more; the narrow 1x1 has 768."""
    for kernel, fan_in, scale, tolerance in (
        (head.pointwise.kernel, 6, 2, 0.3),
        (head.conv.kernel, 4 * 128, 2, 0.15),
        (head.head.kernel, 768, 1, 0.15),
    ):
        np.testing.assert_allclose(np.var(kernel[...]) * fan_in / scale, 1, rtol=tolerance)


def test_a_single_pixel_is_refused():
    with pytest.raises(ValueError, match="at least 2x2 pixels; got 1x1"):
        AuxiliaryHead(6, 5, 1, dtype=jnp.float32, rngs=nnx.Rngs(0))
