"""The supernet of NAS-Bench-201: every part is the network that its weights make on their own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.models.nasbench import NASBench201Supernet
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.supernet.base import Supernet
from lanas_jax.trainer.task import FinalNetwork
from tests.models.built import assert_near, flat, quick_jit

NET = NASBench201Supernet(NASBench201Space(channels=4, cells=1, image_size=8, image_channels=2, classes=3))
# Every operation; the two convolutions on other edges; no convolution.
CODES = np.array([[3, 2, 4, 1, 0, 3], [2, 3, 0, 3, 2, 4], [1, 0, 4, 1, 4, 1]], np.int32)
IMAGES = jax.random.normal(jax.random.key(9), (6, 8, 8, 2))
WEIGHTS = jax.random.normal(jax.random.key(2), (6, 3))
# Norms of differences over norms, as in tests/models/nasnet/test_supernet.py; a wrong weight is off by over a tenth.
TOLERANCE = {"logits": 1e-5, "statistics": 1e-5, "gradient": 1e-4}


def shaken(tree, seed):
    leaves, structure = jax.tree.flatten(tree)
    random = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [x + jnp.asarray(random.uniform(0, 0.4, x.shape), x.dtype) for x in leaves])


@pytest.fixture(name="weights", scope="module")
def _weights():
    """Parameters and statistics as if trained."""
    return tuple(shaken(tree, i) for i, tree in enumerate(quick_jit(NET.init)(jax.random.key(0))))


@pytest.fixture(name="infer", scope="module")
def _infer(weights):
    return partial(quick_jit(lambda *args: NET.apply(*args, IMAGES, train=False)), *weights)


def alone(code, params, stats, train):
    """Logits and statistics of the standalone network."""
    key, drop_path = jax.random.key(0), jnp.float32(0)
    logits, none, stats = NET.standalone(code).apply(params, stats, IMAGES, train=train, key=key, drop_path=drop_path)
    assert none is None
    return logits, stats


def outputs_and_gradient(apply, params):
    """`(logits, statistics), gradient` of a weighted sum of logits."""

    def loss(params):
        logits, stats = apply(params)
        return jnp.sum(logits * WEIGHTS), (logits, stats)

    (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return outputs, gradient


def used(weights, code):
    """Which numbers of the flattened weights, and of the statistics, the standalone network of a code has."""
    numbered = []
    for tree in weights:
        leaves, structure = jax.tree.flatten(tree)
        ends = np.cumsum([leaf.size for leaf in leaves])
        numbers = [
            np.arange(e - x.size, e, dtype=np.float32).reshape(x.shape) for x, e in zip(leaves, ends, strict=True)
        ]
        numbered.append(jax.tree.unflatten(structure, numbers))
    return [flat(tree).astype(int) for tree in NET.extract(*numbered, code)]


def test_it_is_a_supernet_of_trainable_networks():
    assert isinstance(NET, Supernet)
    assert isinstance(NET.standalone(CODES[0]), FinalNetwork)


@pytest.mark.slow
def test_extracted_networks_infer_as_the_supernet(weights, infer):
    code = CODES[0]
    logits, same = infer(code)
    jax.tree.map(np.testing.assert_array_equal, same, weights[1])
    theirs, _ = quick_jit(partial(alone, code, train=False))(*NET.extract(*weights, code))
    assert_near(logits, theirs, TOLERANCE["logits"])


def test_extracted_weights_are_those_of_a_fresh_network(weights):
    for code in CODES:
        fresh = jax.eval_shape(NET.standalone(code).init, jax.random.key(0))
        extracted = NET.extract(*weights, code)
        assert jax.tree.structure(extracted) == jax.tree.structure(fresh)
        assert jax.tree.map(jnp.shape, extracted) == jax.tree.map(jnp.shape, fresh)
        assert NET.space.cost(code[None]).parameters.tolist() == [sum(x.size for x in jax.tree.leaves(extracted[0]))]


@pytest.fixture(name="train", scope="module")
def _train(weights):
    return partial(
        quick_jit(
            lambda params, stats, code: outputs_and_gradient(
                lambda params: NET.apply(params, stats, code, IMAGES, train=True), params
            )
        ),
        *weights,
    )


@pytest.mark.slow
def test_gradient_reaches_only_what_a_code_selects(weights, train):
    """Nor do other statistics move. All that it selects and that its output depends on has a gradient."""
    for code in CODES:
        (_, stats), gradient = train(code)
        own, own_stats = used(weights, code)
        assert len(set(own.tolist())) == len(own) < len(flat(gradient))
        assert not np.delete(flat(gradient), own).any()
        assert np.count_nonzero(flat(gradient)[own]) > 0.5 * len(own)
        np.testing.assert_array_equal(np.delete(flat(stats), own_stats), np.delete(flat(weights[1]), own_stats))
        assert (flat(stats)[own_stats] != flat(weights[1])[own_stats]).all()


@pytest.mark.slow
def test_extracted_networks_train_as_the_supernet(weights, train):
    """Logits, statistics and gradient."""
    code = CODES[0]
    (logits, stats), gradient = train(code)
    run = quick_jit(lambda params, stats: outputs_and_gradient(lambda p: alone(code, p, stats, True), params))
    (their_logits, their_stats), theirs = run(*NET.extract(*weights, code))
    our_gradient, our_stats = NET.extract(gradient, stats, code)
    assert_near(logits, their_logits, TOLERANCE["logits"])
    assert_near(our_stats, their_stats, TOLERANCE["statistics"])
    assert_near(our_gradient, theirs, TOLERANCE["gradient"])


@pytest.mark.slow
def test_statistics_are_those_of_the_batch(weights):
    """All that the code uses and nothing else; the stem's by the definition of mean and variance."""
    stats = quick_jit(lambda code: NET.statistics(weights[0], code, IMAGES))(CODES[0])
    _, own = used(weights, CODES[0])
    assert not np.delete(flat(stats), own).any()
    assert flat(stats)[own].all()
    stem = jax.lax.conv_general_dilated(
        IMAGES, weights[0]["stem"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(stats["stem"]["mean"], stem.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["stem"]["variance"], stem.var(axis=(0, 1, 2)), rtol=1e-4)


def test_number_of_parameters():
    """A network of 3x3 convolutions alone, and 1x1 convolutions with a normalisation on every edge."""
    params, stats = quick_jit(NET.init)(jax.random.key(0))
    count = sum(
        x.size if path[-1].key == "bias" else np.count_nonzero(x) for path, x in jax.tree.leaves_with_path(params)
    )
    narrow = sum(6 * (c * c + 2 * c) for c in (4, 8, 16))
    assert count == NET.space.cost(np.full((1, 6), 3)).parameters[0] + narrow
    assert {float(x) for x in np.unique(flat(stats))} == {0, 1}


def test_bad_codes_and_dtypes_are_refused(weights):
    bad = np.array([0, 5, 0, 0, 0, 0])
    for refused in (NET.standalone, partial(NET.extract, *weights)):
        with pytest.raises(ValueError, match=r"position 1 .* holds 5, expected 0 to 4"):
            refused(bad)
    with pytest.raises(ValueError, match="float32 or bfloat16; got float16"):
        NASBench201Supernet(NET.space, jnp.float16)
