"""The supernet: every code is the network that its weights make on their own, and one program serves all codes."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.models.layers.norm import NormConstants
from lanas_jax.models.mobilenet import AttentiveSupernet, MobileNetSupernet
from lanas_jax.spaces.attentive import AttentiveSpace, ElasticStage
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_settings import MobileNetStage
from lanas_jax.supernet.base import Supernet
from lanas_jax.supernet.sandwich import Sandwich
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import Weights
from tests.models.built import assert_near, flat, quick_jit

SMALL = {"stem": 8, "last": 16, "hidden": 16, "stem_stride": 1, "classes": 5, "depths": (1, 2)}
PLAIN = MobileNetSpace(
    (MobileNetStage(8, 2, "relu", squeezes=True),),
    kernels=(3, 5),
    expansions=(2, 3),
    resolutions=(8,),
    **SMALL,
)
WIDE = MobileNetSpace(
    (MobileNetStage(16, 2),), kernels=(3, 5), expansions=(2,), widths=(0.5, 1.0), resolutions=(6, 8), **SMALL
)
ELASTIC = AttentiveSpace(
    (ElasticStage((8, 16), (1, 2), (1,), 1), ElasticStage((8, 16), (1,), (2, 3), 2, squeezes=True)),
    resolutions=(8,),
    stems=(8, 16),
    heads=(8, 16),
    stem_stride=1,
    classes=5,
)
PROJECTED = ((0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1), (0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0))  # widths rise and fall
SUPERNETS = {
    "plain": MobileNetSupernet(PLAIN),
    "widths": MobileNetSupernet(WIDE),
    "elastic": AttentiveSupernet(ELASTIC),
}
IMAGES = jax.random.normal(jax.random.key(9), (6, 8, 8, 3))
WEIGHTS = jax.random.normal(jax.random.key(2), (6, 5))


class Case:
    """A supernet with weights as if trained, and its programs; `traces` counts how often they were made."""

    def __init__(self, net):
        self.net, self.traces = net, []
        drawn = np.asarray(PROJECTED if net.space is ELASTIC else net.space.random(jax.random.key(7), 2))
        self.codes = np.concatenate([[0 * drawn[0], net.space.cardinalities - 1], drawn]).astype(np.int32)
        params, stats = quick_jit(net.init)(jax.random.key(0))
        self.params, self.stats = shaken(params, 1), shaken(stats, 2)
        self.infer, self.train = quick_jit(self._infer), quick_jit(self._train)

    def _infer(self, params, stats, code):
        self.traces.append("infer")
        return self.net.apply(params, stats, code, IMAGES, train=False)

    def _train(self, params, stats, code):
        self.traces.append("train")
        return outputs_and_gradient(lambda params: self.net.apply(params, stats, code, IMAGES, train=True), params)

    def alone(self, code, *, train):
        """The standalone network as a function of its weights."""
        final = self.net.standalone(code)

        def apply(params, stats):
            told = {"key": jax.random.key(0), "drop_path": jnp.float32(0)}
            logits, _, stats = final.apply(params, stats, IMAGES, train=train, **told)
            return logits, stats

        return apply


def shaken(tree, seed):
    leaves, structure = jax.tree.flatten(tree)
    random = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [x + jnp.asarray(random.uniform(0, 0.4, x.shape), x.dtype) for x in leaves])


def outputs_and_gradient(apply, params):
    def loss(params):
        logits, stats = apply(params)
        return jnp.sum(logits * WEIGHTS), (logits, stats)

    (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return outputs, gradient


def used(case, code):
    """Which numbers of the flattened weights, and of the statistics, the standalone network of a code has."""

    def numbered(tree):
        leaves, structure = jax.tree.flatten(tree)
        ends = np.cumsum([leaf.size for leaf in leaves])
        numbers = [np.arange(e - x.size, e).reshape(x.shape) for x, e in zip(leaves, ends, strict=True)]
        return jax.tree.unflatten(structure, numbers)

    return [flat(tree) for tree in case.net.extract(numbered(case.params), numbered(case.stats), code)]


@pytest.fixture(
    params=["elastic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("plain", "widths"))],
    name="case",
    scope="module",
)
def _case(request):
    return cases(request.param)


@pytest.fixture(name="plain", scope="module")
def _plain():
    return cases("plain")


@functools.cache
def cases(name):
    return Case(SUPERNETS[name])


def test_extracted_networks_infer_as_the_supernet(case):
    assert isinstance(case.net, Supernet)
    for code in case.codes:
        logits, same = case.infer(case.params, case.stats, code)
        jax.tree.map(np.testing.assert_array_equal, same, case.stats)
        theirs, _ = quick_jit(case.alone(code, train=False))(*case.net.extract(case.params, case.stats, code))
        assert_near(logits, theirs, 1e-5)
    assert case.traces.count("infer") == 1


@pytest.mark.slow
def test_extracted_networks_train_as_the_supernet(case):
    """Logits, statistics and gradient; nothing else moves, and nothing else has a gradient."""
    for code in case.codes[-1:]:
        (logits, stats), gradient = case.train(case.params, case.stats, code)
        params, own_stats = case.net.extract(case.params, case.stats, code)
        alone = case.alone(code, train=True)
        run = quick_jit(lambda p, s, alone=alone: outputs_and_gradient(lambda p: alone(p, s), p))
        (their_logits, their_stats), theirs = run(params, own_stats)
        our_gradient, our_stats = case.net.extract(gradient, stats, code)
        assert_near(logits, their_logits, 1e-5)
        assert_near(our_stats, their_stats, 1e-5)
        assert_near(our_gradient, theirs, 1e-4)
        own, own_stats = used(case, code)
        assert len(set(own.tolist())) == len(own) < len(flat(gradient))
        assert not np.delete(flat(gradient), own).any()
        np.testing.assert_array_equal(np.delete(flat(stats), own_stats), np.delete(flat(case.stats), own_stats))
    assert case.traces.count("train") == 1


def test_weights_outside_of_a_part_do_not_matter(case):
    code = case.codes[0]
    logits, _ = case.infer(case.params, case.stats, code)
    leaves, structure = jax.tree.flatten(case.params)
    mask = np.ones(sum(x.size for x in leaves), bool)
    mask[used(case, code)[0]] = False
    pieces = np.split(mask, np.cumsum([x.size for x in leaves])[:-1])
    changed = [x + jnp.asarray(piece.reshape(x.shape), x.dtype) for x, piece in zip(leaves, pieces, strict=True)]
    same, _ = case.infer(jax.tree.unflatten(structure, changed), case.stats, code)
    np.testing.assert_array_equal(logits, same)


def test_extracted_weights_are_those_of_the_codes_network(case):
    for code in case.codes:
        extracted = case.net.extract(case.params, case.stats, code)
        fresh = jax.eval_shape(case.net.standalone(code).init, jax.random.key(0))
        assert jax.tree.map(jnp.shape, extracted) == jax.tree.map(jnp.shape, fresh)
        count = sum(x.size for x in jax.tree.leaves(extracted[0]))
        assert count == case.net.space.network(code).cost.parameters


def test_parts_are_first_channels_first_layers_and_centres(plain):
    params, stats = plain.net.extract(plain.params, plain.stats, plain.codes[0])
    assert sorted(params["blocks"]) == [0, 1]
    full, own = plain.params["blocks"][1], params["blocks"][1]
    np.testing.assert_array_equal(
        own["depthwise"]["convolution"]["kernel"], full["depthwise"]["convolution"]["kernel"][1:4, 1:4, :, :16]
    )
    np.testing.assert_array_equal(own["excitation"]["squeeze"]["kernel"], full["excitation"]["squeeze"]["kernel"][:16])
    np.testing.assert_array_equal(
        stats["blocks"][1]["expansion"]["norm"]["var"], plain.stats["blocks"][1]["expansion"]["norm"]["var"][:16]
    )


def test_statistics_are_those_of_the_batch(plain):
    """Normalising by them is what training does with the batch."""
    statistics = quick_jit(lambda code: plain.net.statistics(plain.params, code, IMAGES))
    train = quick_jit(lambda code: plain.net.apply(plain.params, plain.stats, code, IMAGES, train=True)[0])
    for code in plain.codes[[0, -1]]:
        stats = statistics(code)
        logits, _ = plain.infer(plain.params, stats, code)
        theirs = train(code)
        np.testing.assert_allclose(logits, theirs, rtol=1e-3, atol=1e-4)
        own = used(plain, code)[1]
        assert not np.delete(flat(stats), own).any()
        assert np.mean(flat(stats)[own] != 0) > 0.9


@pytest.mark.slow
def test_passes_of_a_sandwich_are_those_of_the_supernet(plain):
    """The two ends as plain networks, a random part by masks; only the largest drops paths, by the key of the noise."""
    codes = plain.codes
    rule = Sandwich(tuple(codes[1].tolist()), tuple(codes[0].tolist()), random=1, drop_path=0.5)
    sandwich = rule.network(plain.net, codes)
    assert sandwich.pass_programs == ("largest", "smallest", "random, 8 pixels")
    weights, targets, noise = Weights(plain.params, plain.stats), jax.nn.softmax(WEIGHTS), jax.random.key(3)

    @partial(quick_jit, static_argnums=0)
    def first(network, noise):
        return network.first_pass(weights, IMAGES, targets, noise)

    @quick_jit
    def expected(code):
        def loss(params):
            logits, stats = plain.net.apply(params, plain.stats, code, IMAGES, train=True)
            return -jnp.sum(targets * jax.nn.log_softmax(logits)) / len(logits), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(plain.params)
        return value, stats, gradient

    undropped = first(dataclasses.replace(sandwich, drop_path=0.0), noise)
    assert_near(undropped[:3], expected(codes[1]), 1e-4)
    for program, code in (("smallest", codes[0]), ("random, 8 pixels", codes[-1])):
        later = quick_jit(partial(sandwich.later_pass, program))(weights, IMAGES, targets, jnp.asarray(code))
        assert_near(later, expected(code), 1e-4)
    dropped, again, other = (first(sandwich, key) for key in (noise, noise, jax.random.key(4)))
    np.testing.assert_array_equal(flat(dropped), flat(again))
    assert np.abs(flat(dropped) - flat(other)).max() > 0.01
    with pytest.raises(ValueError, match="need the supernet's largest subnetwork"):
        dataclasses.replace(rule, largest=rule.smallest).check(plain.net, Recipe())


def test_residual_blocks_begin_as_the_identity(plain):
    """In the networks of all codes, whose last scales of residual blocks are slices of the largest one's."""
    net = dataclasses.replace(plain.net, zero_residuals=True)
    params, stats = quick_jit(net.init)(jax.random.key(0))
    scales = [params["blocks"][i]["projection"]["norm"]["scale"] for i in sorted(params["blocks"])]
    assert [block.residual for block in net.largest(0.0).spec.blocks] == [not np.any(scale) for scale in scales]
    deep, shallow = net.space.cardinalities - 1, net.space.cardinalities - 1
    shallow[2] = 0
    logits = [plain.infer(params, stats, np.asarray(code, np.int32))[0] for code in (deep, shallow)]
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-6)


def test_shortcuts_of_all_kinds_are_compared():
    networks = [ELASTIC.network(code) for code in cases("elastic").codes]
    kinds = {(block.stride, block.projects_shortcut) for network in networks for block in network.blocks}
    assert kinds == {(1, False), (1, True), (2, False), (2, True)}


def test_bad_codes_are_refused(plain):
    code = plain.codes[0].copy()
    code[2] = 2
    for refused in (plain.net.standalone, partial(plain.net.extract, plain.params, plain.stats)):
        with pytest.raises(ValueError, match=r"position 2 \(stage 0 depth\) holds 2, expected 0 to 1"):
            refused(code)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="float32 or bfloat16; got float16"):
        MobileNetSupernet(PLAIN, jnp.float16)
    with pytest.raises(ValueError, match=r"momentum of batch normalization must be in \[0, 1\); got 1.0"):
        MobileNetSupernet(PLAIN, norm=NormConstants(1.0))
    with pytest.raises(ValueError, match=r"epsilon of batch normalization must be positive; got 0\.0"):
        MobileNetSupernet(PLAIN, norm=NormConstants(epsilon=0.0))
    with pytest.raises(ValueError, match=r"expansions must be at least 2.* got \(1, 3\)"):
        MobileNetSupernet(MobileNetSpace(expansions=(1, 3)))
