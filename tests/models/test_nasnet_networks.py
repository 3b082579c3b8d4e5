"""NASNet networks: two forms, one function; exactly the parameters and multiply-adds that the space says."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.spaces.nasnet import NASNetSpace
from models.nasnet import NASNet
from models.nasnet_network import NASNetNetwork, network_state

SMALL = {"channels": 4, "image_size": 8, "image_channels": 2, "classes": 5}
SPACES = {
    "one cell": NASNetSpace(3, cells=3, **SMALL),
    "two cells": NASNetSpace(2, two_cells=True, cells=3, **SMALL),
}
# Float32 sums in different order through three cells; a wrong weight, mask or stride is off by more than a tenth.
TOLERANCE = {"rtol": 2e-3, "atol": 2e-4}


@pytest.fixture(params=SPACES, name="net", scope="module")
def _net(request):
    return NASNet(SPACES[request.param])


@pytest.fixture(name="apply", scope="module")
def _apply(net):
    return jax.jit(net.apply, static_argnames="train")


@pytest.fixture(name="init", scope="module")
def _init(net):
    return jax.jit(net.init)


def images(n=6):
    return jax.random.normal(jax.random.key(9), (n, 8, 8, 2))


def some_codes(space, n):
    return np.asarray(space.random(jax.random.key(7), n))


def network_arrays(network, kind):
    return nnx.to_pure_dict(nnx.state(network, kind))


def only(kind, state):
    """The entries of a network's pure state that are parameters, or batch statistics."""
    names = {"mean", "var"} if kind is nnx.BatchStat else {"kernel", "scale", "bias"}
    kept = {key: only(kind, value) if isinstance(value, dict) else value for key, value in state.items()}
    return {key: value for key, value in kept.items() if key in names or (isinstance(value, dict) and value)}


def assert_close(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(partial(np.testing.assert_allclose, **TOLERANCE), ours, theirs)


def unused(net, tree, code):
    """The weights no specialised network takes: found by handing over ones where a weight is its own index."""
    leaves, structure = jax.tree.flatten(tree[0])
    offsets = np.cumsum([0, *(leaf.size for leaf in leaves)])
    numbered = [np.arange(leaf.size).reshape(leaf.shape) + start for leaf, start in zip(leaves, offsets, strict=False)]
    state = network_state(net.space, jax.tree.unflatten(structure, numbered), tree[1], code)
    used = np.concatenate([np.ravel(x) for x in jax.tree.leaves(only(nnx.Param, state))])
    assert len(set(used.tolist())) == len(used)
    return np.setdiff1d(np.arange(offsets[-1]), used)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.mark.parametrize("number", range(4))
def test_both_forms_give_the_same_outputs(net, init, apply, number):
    code = some_codes(net.space, 4)[number]
    params, stats = init(jax.random.key(number), code)
    network = net.specialise(params, stats, code)
    logits, new_stats = apply(params, stats, code, images(), train=True)
    np.testing.assert_allclose(nnx.jit(NASNetNetwork.__call__)(network, images()), logits, **TOLERANCE)
    handed_over = only(nnx.BatchStat, network_state(net.space, params, new_stats, code))
    assert_close(network_arrays(network, nnx.BatchStat), handed_over)

    network.eval()
    logits, same_stats = apply(params, new_stats, code, images(), train=False)
    np.testing.assert_allclose(nnx.jit(NASNetNetwork.__call__)(network, images()), logits, **TOLERANCE)
    jax.tree.map(np.testing.assert_array_equal, same_stats, new_stats)


@pytest.mark.parametrize("train", [True, False])
def test_both_forms_have_the_same_gradients(net, init, train):
    code = some_codes(net.space, 5)[4]
    params, stats = init(jax.random.key(1), code)
    weights = jax.random.normal(jax.random.key(2), (6, 5))
    network = net.specialise(params, stats, code)
    network.train() if train else network.eval()
    graph, variables, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)

    @jax.jit
    @jax.grad
    def gradient(variables):
        return jnp.sum(nnx.merge(graph, variables, batch_stats)(images()) * weights)

    @jax.jit
    @jax.grad
    def gradient_of_data_form(params):
        return jnp.sum(net.apply(params, stats, code, images(), train=train)[0] * weights)

    ours = gradient_of_data_form(params)
    handed_over = only(nnx.Param, network_state(net.space, ours, stats, code))
    assert_close(nnx.to_pure_dict(gradient(variables)), handed_over)
    idle = unused(net, (params, stats), code)
    assert idle.size
    assert not flat(params)[idle].any()
    assert not flat(ours)[idle].any()


def test_parameters_and_multiply_adds_are_those_of_the_space(net):
    for code in some_codes(net.space, 4):
        network = nnx.eval_shape(lambda code=code: net.build(code, nnx.Rngs(0)))
        cost = net.space.cost(code[None])
        assert sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(network, nnx.Param))) == cost.parameters[0]
        graph, state = nnx.split(network)
        program = jax.make_jaxpr(lambda state, x, graph=graph: nnx.merge(graph, state)(x))(state, images(1))
        assert multiply_adds(program.jaxpr) == cost.multiply_adds[0]


def multiply_adds(jaxpr):
    """Multiply-adds of the convolutions and matrix products of a program, all branches of conditionals included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # height, width, inputs per group, outputs
            total += math.prod(equation.outvars[0].aval.shape[:3]) * math.prod(kernel)
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            total += math.prod(equation.outvars[0].aval.shape) * inner
        total += sum(multiply_adds(inner) for inner in inner_programs(equation.params))
    return total


def inner_programs(params):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else [value]:
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item


def test_counting_knows_a_grouped_convolution():
    network = nnx.Conv(6, 6, (3, 3), strides=2, feature_group_count=6, use_bias=False, rngs=nnx.Rngs(0))
    program = jax.make_jaxpr(jax.jit(network))(jnp.zeros((1, 8, 8, 6)))
    assert multiply_adds(program.jaxpr) == 4 * 4 * 6 * 9


def test_same_key_same_network(net, init):
    code = some_codes(net.space, 7)[6]
    key = nnx.Rngs(5).params()
    built = net.build(code, nnx.Rngs(5))
    handed_over = network_state(net.space, *init(key, code), code)
    jax.tree.map(np.testing.assert_array_equal, network_arrays(built, nnx.Param), only(nnx.Param, handed_over))


def test_initial_variance_follows_what_the_code_uses():
    """Variance is 2 / fan-in (head: 1 / fan-in); at least 4,608 weights of a kind: 10% off with probability < 1e-5."""
    net = NASNet(NASNetSpace(2, channels=128, cells=2, image_size=8, classes=20))
    code = np.array([0, 3, 0, 3, 0, 1, 0, 1])  # both blocks: 3x3 on the cell before last, 5x5 on the last; both put out
    params, _ = jax.jit(net.init)(jax.random.key(0), code)
    cell, last = params["cells"]
    wide = last["branches"]
    for weights, fan_in in (
        (params["stem"]["kernel"], 27),
        (cell["inputs"][1]["kernel"], 384),
        (last["inputs"][1]["kernel"], 2 * 256),
        (wide["depthwise"][::2, :, 1:4, 1:4], 9),
        (wide["depthwise"][1::2], 25),
        (wide["pointwise"], 512),
        (params["head"]["kernel"] * math.sqrt(2), 2 * 512),
    ):
        np.testing.assert_allclose(np.var(weights) * fan_in / 2, 1, rtol=0.1)


def test_codes_can_be_vmapped():
    net = NASNet(NASNetSpace(2, cells=1, **SMALL))
    init, apply = jax.jit(net.init), jax.jit(net.apply, static_argnames="train")
    codes = some_codes(net.space, 3)
    keys = jax.random.split(jax.random.key(0), 3)
    params, stats = jax.vmap(net.init)(keys, codes)
    run = jax.jit(jax.vmap(partial(net.apply, train=True), in_axes=(0, 0, 0, None)))
    logits, _ = run(params, stats, codes, images())
    for i in range(3):
        alone, _ = apply(*init(keys[i], codes[i]), codes[i], images(), train=True)
        np.testing.assert_allclose(logits[i], alone, **TOLERANCE)


def test_specialise_refuses_a_bad_code(net, init):
    code = some_codes(net.space, 1)[0].copy()
    params, stats = init(jax.random.key(0), code)
    code[0] = 4
    with pytest.raises(ValueError, match=r"position 0 .* holds 4, expected 0 to 3"):
        net.specialise(params, stats, code)
