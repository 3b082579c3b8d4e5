"""The supernet: every mask is the network that its weights make on their own, and one program serves all masks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lanas_jax.models.nasnet import NASNetSupernet
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from tests.models.built import assert_near, flat, quick_jit

SMALL = {"channels": 4, "cells": 3, "image_channels": 2, "classes": 5}
SUPERNETS = {
    "float32": NASNetSupernet(NASNetMasks(2, image_size=8, **SMALL)),
    "standardised": NASNetSupernet(NASNetMasks(1, image_size=7, **SMALL), weight_standardisation=True),
    "bfloat16": NASNetSupernet(NASNetMasks(1, image_size=8, **SMALL), jnp.bfloat16),
    "five blocks": NASNetSupernet(NASNetMasks(5, image_size=8, **SMALL)),
}
# Which of the drawn masks. Of five blocks, those whose gradient is settled: in most others a maximum over pixels that
# are equal but for roundings passes its gradient on to whichever is larger, so that the gradient of the network alone
# moves by 5 % of its norm where weights move by 1e-7; in these it moves by 1e-6.
MASKS = {"float32": range(4), "standardised": range(2), "bfloat16": range(2), "five blocks": (3, 4)}
# Norms of differences over norms, of each array: float32 sums in different order (1e-5 was seen), and roundings to 8
# bits (0.02 was seen); a wrong weight is off by more than a tenth.
FLOAT32 = {"logits": 1e-5, "statistics": 1e-5, "gradient": 1e-4}
BFLOAT16 = {"logits": 0.02, "statistics": 0.01, "gradient": 0.06}
IMAGES = jax.random.normal(jax.random.key(9), (6, 8, 8, 2))
WEIGHTS = jax.random.normal(jax.random.key(2), (6, 5))


class Case:
    """A supernet with weights as if trained, and its programs; `traces` counts how often they were made."""

    def __init__(self, name):
        self.net = SUPERNETS[name]
        self.tolerance = BFLOAT16 if name == "bfloat16" else FLOAT32
        size = self.net.space.image_size
        self.images, self.traces = IMAGES[:, :size, :size], []
        self.codes = random_masks(self.net.space, max(MASKS[name]) + 1)[list(MASKS[name])]
        params, stats = quick_jit(self.net.init)(jax.random.key(0))
        self.params, self.stats = shaken(params, 1), shaken(stats, 2)
        self.infer = partial(quick_jit(self._infer), self.params, self.stats)
        self.train = partial(quick_jit(self._train), self.params, self.stats)

    def _infer(self, params, stats, code):
        self.traces.append("infer")
        return self.net.apply(params, stats, code, self.images, train=False)

    def _train(self, params, stats, code):
        self.traces.append("train")
        return outputs_and_gradient(lambda params: self.net.apply(params, stats, code, self.images, train=True), params)

    def alone(self, code):
        """The standalone network as a function of its weights, training or not."""
        final = self.net.standalone(code)

        def apply(params, stats, train):
            key, drop_path = jax.random.key(0), jnp.float32(0)
            logits, none, stats = final.apply(params, stats, self.images, train=train, key=key, drop_path=drop_path)
            assert none is None
            return logits, stats

        return apply

    def assert_near(self, ours, theirs, kind):
        assert_near(ours, theirs, self.tolerance[kind])


def random_masks(space, n):
    codes = np.asarray(space.random(jax.random.key(7), 4 * n))
    return codes[np.asarray(space.valid(codes))][:n]


def shaken(tree, seed):
    leaves, structure = jax.tree.flatten(tree)
    random = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [x + jnp.asarray(random.uniform(0, 0.4, x.shape), x.dtype) for x in leaves])


def outputs_and_gradient(apply, params):
    """`(logits, statistics), gradient` of a weighted sum of logits."""

    def loss(params):
        logits, stats = apply(params)
        return jnp.sum(logits * WEIGHTS), (logits, stats)

    (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return outputs, gradient


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "float32")) for name in SUPERNETS],
    name="case",
    scope="module",
)
def _case(request):
    return Case(request.param)


@pytest.fixture(name="plain", scope="module")
def _plain():
    return Case("float32")


def used(case, code):
    """Which numbers of the flattened weights, and of the statistics, the standalone network of a code has."""
    numbered = []
    for tree in (case.params, case.stats):
        leaves, structure = jax.tree.flatten(tree)
        ends = np.cumsum([leaf.size for leaf in leaves])
        numbered.append(
            jax.tree.unflatten(
                structure,
                [
                    np.arange(e - x.size, e, dtype=np.float32).reshape(x.shape)
                    for x, e in zip(leaves, ends, strict=True)
                ],
            )
        )
    return [flat(tree).astype(int) for tree in case.net.extract(*numbered, code)]


@pytest.mark.parametrize("case", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)], indirect=True)
def test_extracted_networks_infer_as_the_supernet(case):
    """Of the last mask, since the network of each is compiled anew; another one trains."""
    code = case.codes[-1]
    for other in (case.codes[0], code):
        logits, same = case.infer(other)
        jax.tree.map(np.testing.assert_array_equal, same, case.stats)
    alone = quick_jit(partial(case.alone(code), train=False))
    theirs, _ = alone(*case.net.extract(case.params, case.stats, code))
    case.assert_near(logits, theirs, "logits")
    assert case.traces.count("infer") == 1


@pytest.mark.slow
def test_extracted_networks_train_as_the_supernet(case):
    """Logits, statistics and gradient; nothing else moves, and nothing else has a gradient."""
    code = case.codes[0]
    (logits, stats), gradient = case.train(code)
    params, own_stats = case.net.extract(case.params, case.stats, code)
    alone = case.alone(code)
    run = quick_jit(lambda params, stats: outputs_and_gradient(lambda params: alone(params, stats, True), params))
    (their_logits, their_stats), theirs = run(params, own_stats)
    our_gradient, our_stats = case.net.extract(gradient, stats, code)
    case.assert_near(logits, their_logits, "logits")
    case.assert_near(our_stats, their_stats, "statistics")
    case.assert_near(our_gradient, theirs, "gradient")
    own, own_stats = used(case, code)
    assert len(set(own.tolist())) == len(own) < len(flat(gradient))
    assert not np.delete(flat(gradient), own).any()
    np.testing.assert_array_equal(np.delete(flat(stats), own_stats), np.delete(flat(case.stats), own_stats))
    case.train(case.codes[-1])
    assert case.traces.count("train") == 1


def test_extracted_weights_are_those_of_a_fresh_network(plain):
    for code in plain.codes[:3]:
        fresh = jax.eval_shape(plain.net.standalone(code).init, jax.random.key(0))
        extracted = plain.net.extract(plain.params, plain.stats, code)
        assert jax.tree.structure(extracted) == jax.tree.structure(fresh)
        assert jax.tree.map(jnp.shape, extracted) == jax.tree.map(jnp.shape, fresh)
        count = sum(x.size for x in jax.tree.leaves(extracted[0]))
        assert plain.net.space.cost(code[None]).parameters.tolist() == [count]


def test_order_of_branches_does_not_matter(plain):
    for code in plain.codes[:4]:
        ours, theirs = (plain.infer(c)[0] for c in (code, np.asarray(plain.net.space.canonical(code[None]))[0]))
        np.testing.assert_array_equal(ours, theirs)
    assert any((np.asarray(plain.net.space.canonical(code[None]))[0] != code).any() for code in plain.codes[:4])


@pytest.mark.slow
def test_statistics_are_those_of_the_batch(plain):
    """Normalising by them is what training does with the batch; the stem's by the definition of mean and variance."""
    statistics = quick_jit(lambda code: plain.net.statistics(plain.params, code, plain.images))
    infer = quick_jit(partial(plain.net.apply, train=False))
    for code in plain.codes[:2]:
        stats = statistics(code)
        logits, _ = infer(plain.params, stats, code, plain.images)
        (theirs, _), _ = plain.train(code)
        np.testing.assert_allclose(logits, theirs, rtol=1e-3, atol=1e-4)
        _, own = used(plain, code)
        assert not np.delete(flat(stats), own).any()
        assert flat(stats)[own].all()
    kernel = plain.params["stem"]["kernel"]
    stem = lax.conv_general_dilated(plain.images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(stats["stem"]["mean"], jnp.mean(stem, axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["stem"]["variance"], jnp.var(stem, axis=(0, 1, 2)), rtol=1e-4)


def parameters_by_hand(space):
    """Every separable convolution on every edge, skips that halve, and the stack around them."""
    blocks, stem = space.blocks, 3 * space.channels
    total = 9 * space.image_channels * stem + 2 * stem
    for shape in space.shapes:
        c = shape.channels
        edges = sum(block + 2 for block in range(blocks))
        total += edges * sum(2 * (size * c + c * c + 2 * c) for size in (9, 25))
        total += 2 * blocks * (c * c + 2 * c) * shape.reduction
        for source in shape.sources:
            total += (stem if source < 0 else blocks * space.shapes[source].channels) * c + 2 * c
    return total + (blocks * space.shapes[-1].channels + 1) * space.classes


@pytest.mark.parametrize("name", ["float32", "five blocks"])
def test_number_of_parameters(name):
    """Numbers that the initial weights leave at zero are biases, and pixels around the 3x3 kernels."""
    net = SUPERNETS[name]
    params, _ = quick_jit(net.init)(jax.random.key(0))
    count = 0
    for path, x in jax.tree.leaves_with_path(params):
        count += x.size if path[-1].key == "bias" else np.count_nonzero(x)
    assert count == parameters_by_hand(net.space)


def test_initial_variance_counts_all_blocks():
    """At least 4,608 weights of a kind: 10% off with probability < 1e-5."""
    net = NASNetSupernet(NASNetMasks(2, channels=64, cells=2, image_size=8, classes=40))
    params, stats = quick_jit(net.init)(jax.random.key(0))
    first, last = params["cells"]
    depthwise = np.asarray(last["branches"]["depthwise"])
    wide = depthwise[:, 0].any(axis=(1, 2))
    small = depthwise.any(axis=(1, 2, 3)) & ~wide
    for weights, fan_in in (
        (first["inputs"][1]["kernel"], 192),
        (last["inputs"][1]["kernel"], 2 * 128),
        (depthwise[small][:, 1:4, 1:4], 9),
        (depthwise[wide], 25),
        (last["branches"]["pointwise"], 256),
        (np.sqrt(2) * params["head"]["kernel"], 2 * 256),
    ):
        np.testing.assert_allclose(np.var(weights) * fan_in / 2, 1, rtol=0.1)
    assert small.sum() == wide.sum() == 10  # two halves on each of five inputs
    assert {float(x) for x in np.unique(flat(stats))} == {0, 1}


def test_bad_codes_are_refused():
    net = SUPERNETS["float32"]
    code = random_masks(net.space, 1)[0].copy()
    twice = code.copy()
    twice[[2, 3, 6, 7]] = 1  # block 1 of the normal cell
    code[0] = 4
    weights = jax.eval_shape(net.init, jax.random.key(0))
    for refused in (net.standalone, partial(net.extract, *weights)):
        with pytest.raises(ValueError, match=r"position 0 .* holds 4, expected 0 to 3"):
            refused(code)
        with pytest.raises(ValueError, match="block 1 of the normal cell has the same operation on the same input"):
            refused(twice)


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="float32 or bfloat16; got float16"):
        NASNetSupernet(NASNetMasks(2), jnp.float16)
