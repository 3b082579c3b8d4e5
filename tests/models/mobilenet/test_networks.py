"""Networks of inverted residuals: published counts, an independent block, and what training drops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.models import layers
from lanas_jax.models.functional import Functional
from lanas_jax.models.mobilenet import FinalMobileNet, MobileNetNetwork
from lanas_jax.models.mobilenet.final import initial_weights
from lanas_jax.models.mobilenet.network import InvertedResidual
from lanas_jax.spaces.inverted_residuals import PUBLISHED, Block, MobileNet
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_settings import MobileNetStage
from lanas_jax.spaces.published_mobilenets import PublishedMobileNets
from lanas_jax.trainer.task import FinalNetwork, costs
from tests.models.built import counted, flat, quick_jit

SPACE = MobileNetSpace(
    (MobileNetStage(8, 1), MobileNetStage(8, 2, squeezes=True)),
    depths=(1, 2),
    kernels=(3, 5),
    expansions=(2, 3),
    resolutions=(6, 8),
    stem=8,
    last=16,
    hidden=24,
    stem_stride=1,
    classes=5,
)
CODE = np.array([1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0], np.int32)
PARAMETERS = {"mobilenet_v2": 3_504_872, "mobilenet_v3_large": 5_483_032, "efficientnet_b0": 5_288_548}
BLOCKS = {
    "mobilenet_v2": (Block(6, 12, 6, 3, 1, "relu6"), "hard_sigmoid"),
    "no expansion": (Block(6, 6, 4, 3, 1, "relu"), "hard_sigmoid"),
    "mobilenet_v3": (Block(4, 10, 6, 5, 2, "hard_swish", 3), "hard_sigmoid"),
    "efficientnet": (Block(4, 10, 4, 7, 1, "swish", 2), "sigmoid"),
    "attentive, pooled": (Block(4, 10, 4, 3, 2, "swish", 3, connected=True), "hard_sigmoid"),
    "attentive, projected": (Block(4, 10, 6, 5, 2, "swish", connected=True), "hard_sigmoid"),
}


def abstract(spec):
    return nnx.eval_shape(lambda: MobileNetNetwork(spec, dtype=jnp.float32, rngs=nnx.Rngs(0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_their_counts(name):
    spec = PUBLISHED[name]()
    multiply_adds, parameters = counted(abstract(spec), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert parameters == spec.cost.parameters == PARAMETERS[name]
    assert multiply_adds == spec.cost.multiply_adds


@pytest.mark.parametrize("code", [np.zeros(12, np.int32), CODE])
def test_networks_of_codes_have_the_counts_of_their_layers(code):
    spec = SPACE.network(code)
    size = spec.resolution
    assert counted(abstract(spec), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)) == spec.cost


def module_of(block, gate):
    """A block, with weights and statistics from -0.5 to 1; variances are positive."""
    module = Functional(lambda: InvertedResidual(block, gate, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: np.float32(random.uniform(-0.5, 1, x.shape)), module.params)
    return module, params, jax.tree.map(lambda x: np.float32(random.uniform(0.5, 1, x.shape)), module.batch_stats)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_those_of_an_independent_implementation(name):
    pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    from tests.models.mobilenet.block_in_torch import in_torch, tensor

    block, gate = BLOCKS[name]
    module, params, stats = module_of(block, gate)
    x = np.float32(2 * np.random.default_rng(1).normal(size=(2, 7, 7, block.inputs)))
    run = quick_jit(lambda x: module.run(params, stats, lambda module: module(x), train=False)[0])
    theirs = in_torch(params, stats, block, gate, tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(run(x), theirs, rtol=1e-4, atol=1e-4)


@pytest.fixture(name="final", scope="module")
def _final():
    return FinalMobileNet(SPACE, CODE, dropout=0.5)


@pytest.fixture(name="weights", scope="module")
def _weights(final):
    return quick_jit(final.init)(jax.random.key(0))


IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


@pytest.mark.slow
def test_what_is_dropped_follows_the_key(final, weights):
    assert isinstance(final, FinalNetwork)
    train = quick_jit(partial(final.apply, images=IMAGES, train=True))
    first, none, stats = train(*weights, key=jax.random.key(0), drop_path=jnp.float32(0.5))
    again, other = (train(*weights, key=jax.random.key(k), drop_path=jnp.float32(0.5))[0] for k in (0, 1))
    assert none is None
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(flat(stats) - flat(weights[1])).max() > 0.01
    assert train._cache_size() == 1


def test_images_are_resized_and_nothing_is_dropped_but_in_training(final, weights):
    large = jnp.repeat(jnp.repeat(IMAGES, 2, axis=1), 2, axis=2)
    infer = quick_jit(partial(final.apply, train=False))
    told = {"key": jax.random.key(0), "drop_path": jnp.float32(0.9)}
    logits, _, stats = infer(*weights, images=IMAGES, **told)
    jax.tree.map(np.testing.assert_array_equal, stats, weights[1])
    theirs = infer(*weights, images=layers.resized(large, 8), **told)[0]
    np.testing.assert_allclose(infer(*weights, images=large, **told)[0], theirs, rtol=1e-4, atol=1e-5)
    again = infer(*weights, images=IMAGES, **told | {"drop_path": jnp.float32(0)})[0]
    np.testing.assert_array_equal(logits, again)


def test_paths_are_dropped_more_often_towards_the_last_block(final):
    """Of 40,000 images a share of 0.1 has a standard deviation of 0.0015 at most 0.0025: 0.02 is eight."""
    paths, units = final._scales(jax.random.key(0), jnp.float32(0.5), 40_000)
    blocks = len(final.spec.blocks)
    np.testing.assert_allclose(np.mean(paths == 0, axis=1), 0.5 * np.arange(blocks) / blocks, atol=0.02)
    assert units.shape == (40_000, 24)
    assert np.mean(units == 0) == pytest.approx(0.5, abs=0.01)


def test_a_path_is_a_whole_block():
    module, params, stats = module_of(Block(4, 8, 4), "sigmoid")
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
    run = quick_jit(lambda scales: module.run(params, stats, lambda module: module(x, scales), train=False)[0])
    y, whole = run(jnp.array([0.0, 2.0])), run(jnp.ones(2))
    np.testing.assert_array_equal(y[0], x[0])
    np.testing.assert_allclose(y[1], 2 * whole[1] - x[1], rtol=1e-4, atol=1e-5)


def test_initial_variance():
    """Wide layers: 4,608 weights at least, 10% off with probability < 1e-5."""
    wide = MobileNet((Block(64, 512, 64, 3, 1, "relu"),), 64, 256, 64, classes=32)
    module = Functional(lambda: MobileNetNetwork(wide, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    params, stats = quick_jit(partial(initial_weights, module=module))(jax.random.key(0))
    block = params["blocks"][0]
    for layer, variance in (
        (block["expansion"]["convolution"], 2 / 512),
        (block["depthwise"]["convolution"], 2 / 9),
        (block["projection"]["convolution"], 2 / 64),
        (params["head"]["hidden"], 1 / 256),
    ):
        assert np.var(layer["kernel"]) == pytest.approx(variance, rel=0.1)
    assert {float(x) for x in np.unique(flat(stats))} == {0, 1}


def test_bfloat16_keeps_float32_parameters_and_logits():
    final = FinalMobileNet(SPACE, CODE, jnp.bfloat16)
    weights = jax.eval_shape(final.init, jax.random.key(0))
    out = jax.eval_shape(
        partial(final.apply, train=True), *weights, IMAGES, key=jax.random.key(0), drop_path=jnp.float32(0)
    )
    assert {x.dtype for x in jax.tree.leaves((weights, out))} == {jnp.dtype(jnp.float32)}


def test_costs_of_a_published_network():
    space = PublishedMobileNets(classes=10, resolution=32)
    code = space.code("efficientnet_b0")
    network = FinalMobileNet(space, code)
    spec = PUBLISHED["efficientnet_b0"](10, 32)
    assert network.spec == spec
    assert costs(network, code) == {
        "multiply_adds": spec.cost.multiply_adds,
        "parameters": 5_288_548 - 990 * 1281,  # 990 classes less
    }


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="unknown published network 'resnet'; choose from mobilenet_v2"):
        PublishedMobileNets().code("resnet")
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\); got 1"):
        FinalMobileNet(SPACE, CODE, dropout=1.0)
    with pytest.raises(ValueError, match="float32 or bfloat16; got float16"):
        FinalMobileNet(SPACE, CODE, jnp.float16)
    with pytest.raises(ValueError, match=r"position 0 \(resolution\) holds 2, expected 0 to 1"):
        FinalMobileNet(SPACE, np.full(12, 2))
