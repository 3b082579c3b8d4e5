"""ConvNets: two forms, one function; exactly the costs that the space says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.candidates.population import Population
from lanas_jax.candidates.step import Network
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.models.convnet import ConvNet, ConvNetModule
from lanas_jax.spaces.convnet import ConvNetSpace
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.small_network import stripes
from tests.models.built import counted, flat, quick_jit, run_network

SPACE = ConvNetSpace(image_size=8, image_channels=2, classes=5)
NET = ConvNet(SPACE)
# All depths, widths and kernels; the third layer of the second is wider than the one before and than the one after.
CODES = np.array(
    [
        [0, 1, 1, 0, 0, 0, 0, 0, 0],
        [3, 0, 2, 1, 0, 3, 1, 2, 2],
        [1, 3, 0, 2, 1, 0, 0, 0, 0],
        [2, 1, 2, 0, 0, 2, 2, 0, 0],
    ],
    np.int32,
)
TOLERANCE = {"rtol": 2e-3, "atol": 2e-5}  # float32 sums in another order; a wrong tap or channel is off by a tenth


def images(n=6):
    return jax.random.normal(jax.random.key(9), (n, 8, 8, 2))


def perturbed(tree, seed=3):
    """Every weight that is not zero, which would say that it is not used, becomes another."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [
        jnp.where(leaf == 0, leaf, leaf + 0.3 * jax.random.uniform(key, leaf.shape))
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def built_state(params, stats, code, kind):
    return nnx.to_pure_dict(nnx.state(NET.specialise(params, stats, code), kind))


def assert_close(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(partial(np.testing.assert_allclose, **TOLERANCE), ours, theirs)


@pytest.mark.slow
def test_both_forms_train_alike():
    """Outputs, running statistics and gradients of codes side by side; what a code does not use has no gradient."""

    def loss(params, stats, code, weights):
        logits, stats = NET.apply(params, stats, code, images(), train=True)
        return jnp.sum(logits * weights), (logits, stats)

    weights = jax.random.normal(jax.random.key(2), (6, 5))
    params, stats = quick_jit(jax.vmap(NET.init))(jax.random.split(jax.random.key(0), len(CODES)), CODES)
    params = perturbed(params)
    run = jax.vmap(jax.grad(loss, has_aux=True), in_axes=(0, 0, 0, None))
    gradients, (logits, new_stats) = quick_jit(run)(params, stats, CODES, weights)
    for i, code in enumerate(CODES):
        one, before, gradient, after = jax.tree.map(lambda x, i=i: x[i], (params, stats, gradients, new_stats))
        their_logits, their_stats, theirs = run_network(NET.specialise(one, before, code), images(), weights)
        np.testing.assert_allclose(logits[i], their_logits, **TOLERANCE)
        assert_close(built_state(one, after, code, nnx.BatchStat), their_stats)
        assert_close(built_state(gradient, after, code, nnx.Param), theirs)
        assert np.square(flat(gradient)).sum() == pytest.approx(np.square(flat(theirs)).sum(), rel=1e-4)
        assert not flat(one)[flat(gradient) == 0].any()


def test_both_forms_infer_alike():
    code = CODES[1]
    params, stats = quick_jit(NET.init)(jax.random.key(1), code)
    stats = jax.tree.map(lambda x: x + 0.3, stats)  # as if trained
    logits, same_stats = quick_jit(partial(NET.apply, train=False))(params, stats, code, images())
    jax.tree.map(np.testing.assert_array_equal, same_stats, stats)
    network = NET.specialise(params, stats, code)
    network.eval()
    np.testing.assert_allclose(logits, network(images()), **TOLERANCE)


def test_parameters_and_multiply_adds_are_those_of_the_space():
    costs = zip(*SPACE.cost(CODES), strict=True)
    for code, cost in zip(CODES, costs, strict=True):
        network = nnx.eval_shape(lambda code=code: ConvNetModule(SPACE, code, rngs=nnx.Rngs(0)))
        assert counted(network, jnp.zeros((1, 8, 8, 2))) == cost


def test_the_same_key_gives_the_same_weights():
    code, fixed = CODES[2], NET.for_code(CODES[2])
    assert isinstance(fixed, Network)
    built = NET.build(code, nnx.Rngs(5))
    assert_close(nnx.to_pure_dict(nnx.state(built, nnx.Param)), fixed.init(nnx.Rngs(5).params(), code)[0])
    with pytest.raises(ValueError, match=r"position 0 .* holds 4, expected 0 to 3"):
        NET.for_code(np.array([4, 0, 0, 0, 0, 0, 0, 0, 0]))


@pytest.mark.slow
def test_trainings_side_by_side_end_as_those_of_the_networks_alone():
    """Three kinds of stripes; both forms reach the same loss and accuracy from the same keys."""
    pixels, labels = stripes(96)
    split = Split(pixels, labels)
    net, keys = ConvNet(ConvNetSpace(6, 1, 3)), jax.random.split(jax.random.key(0), 2)
    settings = {"config": TrainConfig(epochs=10, batch_size=24), "devices": jax.devices()[:1], "steps_per_dispatch": 40}
    data, codes = SearchData(split, split, 3), CODES[[1, 3]]
    together = Population(net, per_device=2, vmapped=True, **settings).compile(data).run(codes, keys)
    assert together.steps.tolist() == [40, 40]
    assert (together.accuracy > 0.8).all()
    for i, code in enumerate(codes):
        alone = Population(net.for_code(code), per_device=1, **settings).compile(data).run(code[None], keys[i : i + 1])
        assert alone.accuracy[0] == pytest.approx(together.accuracy[i], abs=2.5 / 96)
        assert alone.train_loss[0] == pytest.approx(together.train_loss[i], rel=0.02)
