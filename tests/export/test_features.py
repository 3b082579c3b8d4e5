"""Feature maps of a network, read by the head of a detector. The scenes are digits on a larger canvas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lanas_jax.data.digits import load_digits
from lanas_jax.export.load import Exported
from lanas_jax.models.mobilenet.final import FinalMobileNet
from lanas_jax.models.nasnet import NASNet
from lanas_jax.models.nasnet.final import FinalNASNet
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.published_mobilenets import PublishedMobileNets
from lanas_jax.trainer.task import ReturnsFeatures, Weights

SPACE = NASNetSpace(1, two_cells=True, channels=4, cells=3, image_size=8, image_channels=1, classes=10)
DIGITS = load_digits().search
NETWORK = FinalNASNet(NASNet(SPACE), np.array([0, 1, 0, 1, 0, 2, 0, 1], np.int32), auxiliary=False)
SIDE = 20  # pixels of a scene


@pytest.fixture(scope="module")
def backbone():
    weights = Weights(*jax.jit(NETWORK.init)(jax.random.key(0)))
    return Exported({"image_shape": [8, 8, 1], "classes": 10}, NETWORK, weights, scaling=None)


def scenes(n, seed):
    """Scenes with a digit in one of four corners, their corners and their digits."""
    random = np.random.default_rng(seed)
    corners, chosen = random.integers(0, 2, (n, 2)), random.integers(0, len(DIGITS.train), n)
    images = random.normal(0, 0.2, (n, SIDE, SIDE, 1)).astype(np.float32)
    for image, (row, column), digit in zip(images, corners * (SIDE - 8), DIGITS.train.images[chosen], strict=True):
        image[row : row + 8, column : column + 8] = digit
    return images, 2 * corners[:, 0] + corners[:, 1], DIGITS.train.labels[chosen]


def init_head(stages):
    """A 1x1 convolution of each stage to logits of an object and of ten digits."""
    return [{"kernel": jnp.zeros((stage.shape[-1], 11)), "bias": jnp.zeros(11)} for stage in stages]


def loss_of(head, stages, corners, digits):
    """Cross entropy of the corner, by the largest logit of an object in each, and of the digit at this place."""
    total = 0.0
    for weights, stage in zip(head, stages, strict=True):
        maps = jnp.tensordot(stage, weights["kernel"], 1) + weights["bias"][None, None, None]
        n, rows, columns, _ = maps.shape
        half, right = rows // 2, columns // 2
        quarters = jnp.stack([maps[:, i * half :, j * right :][:, :half, :right] for i in (0, 1) for j in (0, 1)], 1)
        objects = jax.nn.logsumexp(quarters[..., 0], axis=(2, 3))
        total += optax.softmax_cross_entropy_with_integer_labels(objects, corners).mean()
        here = quarters[jnp.arange(n), corners]
        weight = jax.nn.softmax(here[..., 0], axis=(1, 2))
        found = (here[..., 1:] * weight[..., None]).sum((1, 2))
        total += optax.softmax_cross_entropy_with_integer_labels(found, digits).mean()
    return total / len(stages)


def trained(parameters, loss, steps, rate):
    """Losses of so many steps of Adam, in one program."""
    optimizer = optax.adam(rate)

    def step(carry, _):
        parameters, state = carry
        value, gradient = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    run = jax.jit(lambda parameters: jax.lax.scan(step, (parameters, optimizer.init(parameters)), length=steps)[1])
    with jax.numpy_dtype_promotion("standard"):  # as optax's Adam needs
        return np.asarray(run(parameters))


@pytest.mark.slow
def test_a_detector_head_learns_from_the_features(backbone):
    images, corners, digits = scenes(48, 0)
    stages = backbone.features(images)
    assert [stage.shape for stage in stages] == [(48, 20, 20, 4), (48, 10, 10, 8), (48, 5, 5, 16)]
    losses = trained(init_head(stages), lambda head: loss_of(head, stages, corners, digits), 60, 0.05)
    assert losses[0] == pytest.approx(np.log(4) + np.log(10), rel=1e-5)
    assert losses[-1] < 0.5 * losses[0]
    assert (np.diff(losses[::10]) < 0).all()


@pytest.mark.slow
def test_a_detector_trains_its_backbone_too(backbone):
    images, corners, digits = scenes(48, 0)
    params, stats = backbone.weights

    def loss(parameters):
        head, params = parameters
        return loss_of(head, NETWORK.features(params, stats, jnp.asarray(images)), corners, digits)

    head = init_head(backbone.features(images))
    frozen = trained((head, params), lambda both: loss((both[0], params)), 60, 0.01)
    whole = trained((head, params), loss, 60, 0.01)
    assert whole[0] == frozen[0]
    assert whole[-1] < 0.9 * frozen[-1] < 0.9 * frozen[0]


@pytest.mark.slow
def test_the_last_stage_is_what_the_head_reads(backbone):
    images = DIGITS.validation.images[:4]
    head = jax.tree.map(np.asarray, backbone.weights.params["head"])
    pooled = np.asarray(backbone.features(images)[-1]).mean((1, 2))
    np.testing.assert_allclose(pooled @ head["kernel"] + head["bias"], backbone(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_features_of_a_published_network_have_strides_of_2_to_32():
    space = PublishedMobileNets()
    network = FinalMobileNet(space, space.code("mobilenet_v2"))
    assert isinstance(network, ReturnsFeatures)
    assert isinstance(NETWORK, ReturnsFeatures)
    params, stats = network.module.params, network.module.batch_stats
    images = jax.ShapeDtypeStruct((2, 320, 256, 3), jnp.float32)
    stages = jax.eval_shape(network.features, params, stats, images)
    assert [stage.shape for stage in stages] == [
        (2, 160, 128, 16), (2, 80, 64, 24), (2, 40, 32, 32), (2, 20, 16, 96), (2, 10, 8, 320),
    ]  # fmt: skip


def test_images_of_another_kind_are_refused(backbone):
    with pytest.raises(ValueError, match=r"images must be float32 of shape \[n, height, width, 1\]; got uint8"):
        backbone.features(np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match=r"got float32 of shape \[2, 8, 8, 3\]"):
        backbone.features(np.zeros((2, 8, 8, 3), np.float32))


def test_a_network_without_features_says_so(backbone, unchecked):
    plain = Exported(backbone.architecture, object(), backbone.weights, scaling=None)
    with pytest.raises(ValueError, match="object returns no features"):
        plain.features(np.zeros((2, 8, 8, 1), np.float32))
