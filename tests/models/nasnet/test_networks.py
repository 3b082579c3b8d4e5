"""NASNet networks: two forms, one function; exactly the parameters and multiply-adds that the space says."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.candidates import step as training
from lanas_jax.candidates.step import CandidateTask
from lanas_jax.models.layers import convolutions
from lanas_jax.models.nasnet import NASNet
from lanas_jax.models.nasnet.network import network_state
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.training.sgd import TrainConfig
from tests.models.built import (
    assert_near,
    counted,
    flat,
    infer,
    inner_programs,
    multiply_adds,
    only,
    quick_jit,
    run_network,
)

SMALL = {"channels": 4, "image_size": 8, "image_channels": 2, "classes": 5}
SPACES = {
    "one cell": NASNetSpace(2, cells=3, **SMALL),
    "two cells": NASNetSpace(2, two_cells=True, cells=3, **SMALL | {"image_size": 7}),
}
# Float32 sums in different order through three cells; a wrong weight, mask or stride is off by more than a tenth.
TOLERANCE = {"rtol": 2e-3, "atol": 2e-4}


# The network built for one code compiles anew for each: four, which use every operation on every input (a test says
# so), of the space with two cells, and one of the other.
CODES = 4


@pytest.fixture(params=[pytest.param("one cell", marks=pytest.mark.slow), "two cells"], name="net", scope="module")
def _net(request):
    return NASNet(SPACES[request.param])


@pytest.fixture(name="apply", scope="module")
def _apply(net):
    return quick_jit(net.apply, static_argnames="train")


def gradient_program(net):
    """Of a weighted sum of logits, by the code-as-data form: `(logits, batch statistics), gradient`."""

    def loss(params, stats, code, weights, train):
        logits, stats = net.apply(params, stats, code, images(net.space), train=train)
        return jnp.sum(logits * weights), (logits, stats)

    def outputs(*args, train):
        (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(*args, train)
        return outputs, gradient

    return quick_jit(outputs, static_argnames="train")


@pytest.fixture(name="gradient", scope="module")
def _gradient(net):
    return gradient_program(net)


@pytest.fixture(name="init", scope="module")
def _init(net):
    return quick_jit(net.init)


def images(space, n=6):
    return jax.random.normal(jax.random.key(9), (n, space.image_size, space.image_size, 2))


def some_codes(space, n):
    return np.asarray(space.random(jax.random.key(7), n))


def network_arrays(network, kind):
    return nnx.to_pure_dict(nnx.state(network, kind))


def assert_close(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(partial(np.testing.assert_allclose, **TOLERANCE), ours, theirs)


def unused(net, tree, code):
    """The weights no specialised network takes: found by handing over ones where a weight is its own index."""
    leaves, structure = jax.tree.flatten(tree[0])
    offsets = np.cumsum([0, *(leaf.size for leaf in leaves)])
    numbered = [
        jnp.arange(start, start + leaf.size, dtype=jnp.float32).reshape(leaf.shape)
        for leaf, start in zip(leaves, offsets, strict=False)
    ]
    state = network_state(net.space, jax.tree.unflatten(structure, numbered), tree[1], code)
    used = np.concatenate([np.ravel(x) for x in jax.tree.leaves(only(nnx.Param, state))])
    assert len(set(used.tolist())) == len(used)
    return np.setdiff1d(np.arange(offsets[-1]), used)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_codes_use_every_operation_and_input(space):
    """Of all codes together: each operation on each of the inputs that a block may have."""
    codes = some_codes(space, CODES)
    operations, inputs = (np.asarray(x).reshape(CODES, -1, 4) for x in (space.operations(codes), space.inputs(codes)))
    assert {tuple(pair) for pair in np.stack([operations, inputs], axis=-1).reshape(-1, 2).tolist()} >= {
        (operation, source) for operation in range(4) for source in range(2)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "number"), [("one cell", 0), *(("two cells", i) for i in range(CODES))], indirect=["net"]
)
def test_both_forms_train_alike(net, init, gradient, number):
    """Outputs, running statistics and gradients; what a code does not use is zero and has zero gradient."""
    code = some_codes(net.space, CODES)[number]
    params, stats = init(jax.random.key(number), code)
    weights = jax.random.normal(jax.random.key(2), (6, 5))
    (logits, new_stats), ours = gradient(params, stats, code, weights, train=True)
    their_logits, their_stats, theirs = run_network(net.specialise(params, stats, code), images(net.space), weights)
    np.testing.assert_allclose(logits, their_logits, **TOLERANCE)
    assert_close(only(nnx.BatchStat, network_state(net.space, params, new_stats, code)), their_stats)
    assert_close(only(nnx.Param, network_state(net.space, ours, stats, code)), theirs)
    idle = unused(net, (params, stats), code)
    assert idle.size
    assert not flat(params)[idle].any()
    assert not flat(ours)[idle].any()


@pytest.mark.parametrize(("net", "number"), [("one cell", 1), ("two cells", 0), ("two cells", 3)], indirect=["net"])
@pytest.mark.slow
def test_both_forms_infer_alike(net, init, apply, number):
    code = some_codes(net.space, CODES)[-1 - number]
    params, stats = init(jax.random.key(number), code)
    stats = jax.tree.map(lambda x: x + 0.3, stats)  # as if trained
    logits, same_stats = apply(params, stats, code, images(net.space), train=False)
    jax.tree.map(np.testing.assert_array_equal, same_stats, stats)
    network = net.specialise(params, stats, code)
    network.eval()
    np.testing.assert_allclose(logits, infer(network, images(net.space)), **TOLERANCE)


def test_parameters_and_multiply_adds_are_those_of_the_space(net, monkeypatch):
    """As the space counts them: depthwise and 1x1 convolutions, not the dense ones that accelerators run."""

    def counted_form(*operands, cpu, default, **settings):
        return (cpu if default is convolutions._one_convolution else default)(*operands, **settings)

    monkeypatch.setattr(convolutions, "DENSE_CHANNELS", 0)
    monkeypatch.setattr(convolutions, "by_platform", counted_form)
    for code in some_codes(net.space, 4):
        network = nnx.eval_shape(lambda code=code: net.build(code, nnx.Rngs(0)))
        assert counted(network, images(net.space, 1)) == tuple(column[0] for column in net.space.cost(code[None]))


def test_counting_knows_a_grouped_convolution():
    network = nnx.Conv(6, 6, (3, 3), strides=2, feature_group_count=6, use_bias=False, rngs=nnx.Rngs(0))
    program = jax.make_jaxpr(jax.jit(network))(jnp.zeros((1, 8, 8, 6)))
    assert multiply_adds(program.jaxpr) == 4 * 4 * 6 * 9


def test_same_key_same_network(net):
    code = some_codes(net.space, 7)[6]
    key = nnx.Rngs(5).params()
    built = net.build(code, nnx.Rngs(5))
    handed_over = network_state(net.space, *jax.jit(net.init)(key, code), code)
    jax.tree.map(np.testing.assert_array_equal, network_arrays(built, nnx.Param), only(nnx.Param, handed_over))


def test_initial_variance_follows_what_the_code_uses():
    """Variance is 2 / fan-in (head: 1 / fan-in); at least 4,608 weights of a kind: 10% off with probability < 1e-5."""
    net = NASNet(NASNetSpace(2, channels=128, cells=2, image_size=8, classes=20))
    code = np.array([0, 3, 0, 3, 0, 1, 0, 1])  # both blocks: 3x3 on the cell before last, 5x5 on the last; both put out
    params, _ = quick_jit(net.init)(jax.random.key(0), code)
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


@pytest.mark.slow
def test_codes_can_be_vmapped():
    net = NASNet(NASNetSpace(2, cells=1, **SMALL))
    init, apply = quick_jit(net.init), quick_jit(net.apply, static_argnames="train")
    codes = some_codes(net.space, 3)
    keys = jax.random.split(jax.random.key(0), 3)
    params, stats = jax.vmap(net.init)(keys, codes)
    run = quick_jit(jax.vmap(partial(net.apply, train=True), in_axes=(0, 0, 0, None)))
    logits, _ = run(params, stats, codes, images(net.space))
    for i in range(3):
        alone, _ = apply(*init(keys[i], codes[i]), codes[i], images(net.space), train=True)
        np.testing.assert_allclose(logits[i], alone, **TOLERANCE)


def test_specialise_refuses_a_bad_code(net, init):
    code = some_codes(net.space, 1)[0].copy()
    params, stats = init(jax.random.key(0), code)
    code[0] = 4
    with pytest.raises(ValueError, match=r"position 0 .* holds 4, expected 0 to 3"):
        net.specialise(params, stats, code)


@pytest.mark.slow
def test_both_forms_train_alike_with_standardised_weights():
    """Means far from zero, so that they must be taken over what the code uses; gradients tell the deviations."""
    net = NASNet(SPACES["two cells"], weight_standardisation=True)
    code = some_codes(net.space, 1)[0]
    params, stats = quick_jit(net.init)(jax.random.key(0), code)
    params = jax.tree.map(lambda x: jnp.where(x == 0, x, x + 0.3), params)
    weights = jax.random.normal(jax.random.key(2), (6, 5))

    def loss(params):
        logits, new_stats = net.apply(params, stats, code, images(net.space), train=True)
        return jnp.sum(logits * weights), (logits, new_stats)

    (_, (logits, new_stats)), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(params)
    their_logits, their_stats, theirs = run_network(net.specialise(params, stats, code), images(net.space), weights)
    np.testing.assert_allclose(logits, their_logits, **TOLERANCE)
    assert_close(only(nnx.BatchStat, network_state(net.space, params, new_stats, code)), their_stats)
    assert_close(only(nnx.Param, network_state(net.space, gradient, stats, code)), theirs)
    assert not flat(gradient)[unused(net, (params, stats), code)].any()
    plain, _ = quick_jit(partial(NASNet(net.space).apply, train=True))(params, stats, code, images(net.space))
    assert np.abs(plain - logits).max() > 0.1


BFLOAT16 = NASNet(SPACES["two cells"], jnp.bfloat16)
# Bfloat16 keeps 8 bits: one rounding is off by up to 1 in 256, and a maximum moves to another pixel where two became
# equal. Norms of differences over norms, of each array; other weights, or one wrong layer, are off by about one. Two
# forms round alike but for sums in another order (0.06 was seen in a gradient); float32 does not round.
ALIKE = {"logits": 0.02, "statistics": 0.01, "gradient": 0.15}
ROUNDING = {"logits": 0.05, "statistics": 0.03}


@pytest.mark.slow
def test_both_forms_train_alike_in_bfloat16():
    net, code = BFLOAT16, some_codes(BFLOAT16.space, 1)[0]
    params, stats = quick_jit(net.init)(jax.random.key(0), code)
    weights = jax.random.normal(jax.random.key(2), (6, 5))
    (logits, new_stats), ours = gradient_program(net)(params, stats, code, weights, train=True)
    their_logits, their_stats, theirs = run_network(net.specialise(params, stats, code), images(net.space), weights)
    assert_near(logits, their_logits, ALIKE["logits"])
    our_stats = only(nnx.BatchStat, network_state(net.space, params, new_stats, code))
    assert_near(our_stats, their_stats, ALIKE["statistics"])
    assert_near(only(nnx.Param, network_state(net.space, ours, stats, code)), theirs, ALIKE["gradient"])


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_gives_what_float32_gives_but_for_roundings(train):
    exact, code = NASNet(BFLOAT16.space), some_codes(BFLOAT16.space, 1)[0]
    params, stats = quick_jit(exact.init)(jax.random.key(3), code)
    ours, theirs = (
        quick_jit(partial(net.apply, train=train))(params, stats, code, images(net.space)) for net in (BFLOAT16, exact)
    )
    assert_near(ours[0], theirs[0], ROUNDING["logits"])
    assert_near(ours[1], theirs[1], ROUNDING["statistics"])
    assert np.any(ours[0] != theirs[0])


def test_all_products_but_the_head_are_of_bfloat16():
    net, code = BFLOAT16, some_codes(BFLOAT16.space, 1)[0]
    params, stats = jax.eval_shape(net.init, jax.random.key(0), code)
    network = net.specialise(*quick_jit(net.init)(jax.random.key(0), code), code)
    graph, state = nnx.split(network)
    x = images(net.space)
    programs = (
        jax.make_jaxpr(partial(net.apply, train=True))(params, stats, code, x),
        jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, x),
    )
    for program in programs:
        dtypes = [dtype.name for dtype in operand_dtypes(program.jaxpr)]
        assert dtypes.count("bfloat16") > 2 * net.space.cells
        assert set(dtypes) == {"bfloat16", "float32"}
        assert dtypes.count("float32") == 2  # the operands of the head


def test_no_image_is_saved_in_float32():
    """By the gradient of a network in bfloat16, of a code with each operation."""
    net = NASNet(NASNetSpace(2, cells=1, **SMALL), jnp.bfloat16, weight_standardisation=True)
    code = np.array([0, 1, 3, 2, 0, 1, 2, 0], np.int32)
    fixed = net.for_code(code)
    params, stats = jax.eval_shape(fixed.init, jax.random.key(0), code)

    def saved(params, stats):
        return jax.vjp(lambda params: fixed.apply(params, stats, code, images(net.space), train=True)[0], params)[1]

    leaves = jax.tree.leaves(jax.eval_shape(saved, params, stats))
    assert {leaf.dtype.name for leaf in leaves if leaf.ndim == 4 and leaf.shape[0] == 6} == {
        "bfloat16",
        "bool",
        "int32",
    }


def operand_dtypes(jaxpr):
    """Of the convolutions and matrix products of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield from (variable.aval.dtype for variable in equation.invars)
        for inner in inner_programs(equation.params):
            yield from operand_dtypes(inner)


@pytest.mark.slow
def test_a_step_in_bfloat16_leaves_float32():
    config, code = TrainConfig(batch_size=6), jnp.asarray(some_codes(BFLOAT16.space, 1)[0])
    labels = jnp.arange(6, dtype=jnp.int32) % 5

    def one_step(net):
        def run(key):
            task = CandidateTask(net, config, net.space.classes)
            first = training.start_candidate(task, code, key)
            return first, training.candidate_train_step(task, first, code, jnp.int32(9), images(net.space), labels)

        return quick_jit(run)(jax.random.key(4))

    first, ours = one_step(BFLOAT16)
    _, theirs = one_step(NASNet(BFLOAT16.space))
    assert_near(ours.batch_stats, theirs.batch_stats, ROUNDING["statistics"])
    moved, expected = (flat(state.params) - flat(first.params) for state in (ours, theirs))
    # One way and as far: 0.98 and 1.035 were seen, with other keys too.
    assert moved @ expected > 0.96 * np.linalg.norm(moved) * np.linalg.norm(expected)
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(expected), rel=0.1)
    assert_near(ours.loss, theirs.loss, ROUNDING["logits"])


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="float32 or bfloat16; got float16"):
        NASNet(BFLOAT16.space, jnp.float16)
