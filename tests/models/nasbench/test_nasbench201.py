"""NAS-Bench-201 networks: two forms, one function, that of PyTorch; exactly the costs that the space says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.candidates.population import Population
from lanas_jax.candidates.step import Network
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.models.nasbench import NASBench201
from lanas_jax.models.nasbench.nasbench201_network import NASBench201Network, network_state
from lanas_jax.spaces.nasbench201 import EDGES, NASBench201Space
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.small_network import stripes
from tests.models.built import counted, flat, infer, only, quick_jit, run_network

SPACE = NASBench201Space(channels=4, cells=2, image_size=8, image_channels=2, classes=5)
NET = NASBench201(SPACE)
# Every operation; nothing at all; all that there may be; one more.
CODES = np.array([[3, 2, 4, 1, 0, 3], [0, 0, 0, 0, 0, 0], [3, 3, 3, 3, 3, 3], [4, 0, 2, 2, 1, 4]], np.int32)
# Float32 sums in another order through six cells; a wrong weight, kernel or stride is off by more than a tenth.
TOLERANCE = {"rtol": 2e-3, "atol": 2e-4}
every_code = pytest.mark.parametrize(
    "code", [CODES[0], *(pytest.param(code, marks=pytest.mark.slow) for code in CODES[1:])], ids=str
)


def images(n=6):
    return jax.random.normal(jax.random.key(9), (n, 8, 8, 2))


def assert_close(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(partial(np.testing.assert_allclose, **TOLERANCE), ours, theirs)


def perturbed(tree, seed=3):
    """Where a weight is not zero, which would say that it is not used, it becomes another."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [
        jnp.where(leaf == 0, leaf, leaf + 0.3 * jax.random.uniform(key, leaf.shape))
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


@pytest.fixture(name="init", scope="module")
def _init():
    return quick_jit(NET.init)


@pytest.fixture(name="gradient", scope="module")
def _gradient():
    """Of a weighted sum of logits, by the code-as-data form: `(logits, batch statistics), gradient`."""

    def loss(params, stats, code, weights):
        logits, stats = NET.apply(params, stats, code, images(), train=True)
        return jnp.sum(logits * weights), (logits, stats)

    def outputs(*args):
        (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(*args)
        return outputs, gradient

    return quick_jit(outputs)


@pytest.mark.slow
@every_code
def test_both_forms_train_alike(init, gradient, code):
    """Outputs, running statistics and gradients; what a code does not use is zero and has zero gradient."""
    params, stats = init(jax.random.key(0), code)
    params = perturbed(params)
    weights = jax.random.normal(jax.random.key(2), (6, 5))
    (logits, new_stats), ours = gradient(params, stats, code, weights)
    their_logits, their_stats, theirs = run_network(NET.specialise(params, stats, code), images(), weights)
    np.testing.assert_allclose(logits, their_logits, **TOLERANCE)
    assert_close(only(nnx.BatchStat, network_state(params, new_stats, code)), their_stats)
    assert_close(only(nnx.Param, network_state(ours, stats, code)), theirs)
    used = flat(only(nnx.Param, network_state(ours, stats, code)))
    assert np.square(flat(ours)).sum() == pytest.approx(np.square(used).sum(), rel=1e-5)
    centre, edges = np.zeros((3, 3), bool), np.array(params["stages"][0]["kernel"])
    centre[1, 1] = True
    for edge, operation in enumerate(code):
        expected = {2: centre, 3: ~np.zeros_like(centre)}.get(int(operation), np.zeros_like(centre))
        np.testing.assert_array_equal(edges[:, edge].any(axis=(0, 3, 4)), expected)


def test_both_forms_infer_alike(init):
    code = CODES[0]
    params, stats = init(jax.random.key(1), code)
    stats = jax.tree.map(lambda x: x + 0.3, stats)  # as if trained
    logits, same_stats = quick_jit(partial(NET.apply, train=False))(params, stats, code, images())
    jax.tree.map(np.testing.assert_array_equal, same_stats, stats)
    network = NET.specialise(params, stats, code)
    network.eval()
    np.testing.assert_allclose(logits, infer(network, images()), **TOLERANCE)


@pytest.mark.slow
def test_codes_can_be_vmapped(init):
    keys = jax.random.split(jax.random.key(0), len(CODES))
    params, stats = jax.vmap(NET.init)(keys, CODES)
    run = quick_jit(jax.vmap(partial(NET.apply, train=True), in_axes=(0, 0, 0, None)))
    logits, _ = run(params, stats, CODES, images())
    alone, _ = quick_jit(partial(NET.apply, train=True))(*init(keys[3], CODES[3]), CODES[3], images())
    np.testing.assert_allclose(logits[3], alone, **TOLERANCE)


@pytest.mark.parametrize(
    ("space", "number"),
    [
        pytest.param(NASBench201Space(), 3, marks=pytest.mark.slow),
        (NASBench201Space(cells=1, image_size=16, classes=120), 6),
    ],
    ids=["CIFAR-10", "one cell a stage"],
)
def test_parameters_and_multiply_adds_are_those_of_the_space(space, number):
    codes = np.concatenate([CODES[1:3], np.asarray(space.random(jax.random.key(4), number - 2))])
    x = jnp.zeros((1, space.image_size, space.image_size, 3))
    costs = zip(*space.cost(codes), strict=True)
    for code, cost in zip(codes, costs, strict=True):
        network = nnx.eval_shape(lambda code=code: NASBench201Network(space, code, rngs=nnx.Rngs(0)))
        assert counted(network, x) == cost


@pytest.mark.slow
def test_the_same_key_gives_the_same_weights(init):
    code, key = CODES[3], jax.random.key(5)
    fixed = NET.for_code(code)
    assert isinstance(fixed, Network)
    own, _ = fixed.init(key, code)
    assert_close(own, only(nnx.Param, network_state(*init(key, code), code)))
    built = NET.build(code, nnx.Rngs(5))
    assert_close(nnx.to_pure_dict(nnx.state(built, nnx.Param)), NET.for_code(code).init(nnx.Rngs(5).params(), code)[0])


def test_initial_weights_are_uniform_within_what_the_code_makes_fan_in():
    """Of at least 256 numbers, the largest is within 5% of the bound but for a probability of 2e-6."""
    net = NASBench201(NASBench201Space(channels=16, cells=2, classes=32))
    params, _ = quick_jit(net.init)(jax.random.key(0), np.array([3, 2, 0, 1, 4, 3]))
    edges = params["stages"][1]["kernel"]
    for weights, fan_in in (
        (params["stem"]["kernel"], 27),
        (edges[:, 0], 9 * 32),
        (edges[:, 1, 1, 1], 32),
        (params["reductions"][0]["second"]["kernel"], 9 * 32),
        (params["reductions"][0]["shortcut"]["kernel"], 16),
        (params["head"]["kernel"], 64),
    ):
        bound = 1 / np.sqrt(fan_in)
        assert 0.95 * bound < np.abs(weights).max() <= bound * (1 + 1e-6)
        np.testing.assert_allclose(np.var(weights) * fan_in * 3, 1, rtol=0.3)


@pytest.mark.slow
def test_bfloat16_gives_what_float32_gives_but_for_roundings(init):
    """Roundings of one part in 256 add up to a few hundredths; another network is off by about one."""
    code, rounded = CODES[0], NASBench201(SPACE, jnp.bfloat16)
    params, stats = init(jax.random.key(3), code)
    exact, _ = quick_jit(partial(NET.apply, train=True))(params, stats, code, images())
    ours, new_stats = quick_jit(partial(rounded.apply, train=True))(params, stats, code, images())
    built = quick_jit(partial(rounded.for_code(code).apply, train=True))
    theirs, _ = built(*_of_code(params, stats, code), code, images())
    assert {x.dtype for x in jax.tree.leaves((ours, new_stats, theirs))} == {jnp.dtype(jnp.float32)}
    for other in (exact, theirs):
        assert np.linalg.norm(ours - other) < 0.1 * np.linalg.norm(other)
    assert np.any(ours != exact)


def _of_code(params, stats, code):
    state = network_state(params, stats, code)
    return only(nnx.Param, state), only(nnx.BatchStat, state)


def test_bad_codes_and_dtypes_are_refused(init):
    params, stats = init(jax.random.key(0), CODES[0])
    bad = np.array([0, 5, 0, 0, 0, 0])
    for refuse in (lambda: NET.specialise(params, stats, bad), lambda: NET.for_code(bad)):
        with pytest.raises(ValueError, match=r"position 1 .* holds 5, expected 0 to 4"):
            refuse()
    with pytest.raises(ValueError, match="float32 or bfloat16; got float16"):
        NASBench201(SPACE, jnp.float16)


@pytest.mark.slow
def test_a_population_learns():
    """Three kinds of stripes: candidates that see more than one pixel tell them apart, from a loss of about 1.1."""
    pixels, labels = stripes(96)
    split = Split(pixels[:, :4, :4], labels)
    net = NASBench201(NASBench201Space(channels=4, cells=1, image_size=4, image_channels=1, classes=3))
    population = Population(
        net, TrainConfig(epochs=10, batch_size=24), jax.devices()[:1], per_device=2, steps_per_dispatch=20
    )
    codes = CODES[[0, 2]]
    results = population.compile(SearchData(split, split, 3)).run(codes, jax.random.split(jax.random.key(0), 2))
    assert results.steps.tolist() == [40, 40]
    assert (results.train_loss < 0.5).all()
    assert (results.accuracy > 0.8).all()


def torch_network(torch, state, code):
    """The benchmark's network in PyTorch, by itself: images and the state of a `NASBench201Network` to logits."""
    functional = torch.nn.functional

    def tensor(x):
        return torch.from_numpy(np.array(x))

    def conv(x, weights, stride=1):
        kernel = tensor(weights["kernel"]).permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(x, weights):
        mean, variance, scale, bias = (tensor(weights[name]).clone() for name in ("mean", "var", "scale", "bias"))
        y = functional.batch_norm(x, mean, variance, scale, bias, training=True, momentum=0.1, eps=1e-5)
        weights["new mean"] = mean.numpy()
        return y

    def relu_conv_norm(x, weights, stride=1):
        return norm(conv(functional.relu(x), weights["conv"], stride), weights["norm"])

    def cell(x, edges):
        nodes = [x]
        for target in (1, 2, 3):
            entering = [(source, edge) for edge, (source, end) in enumerate(EDGES) if end == target]
            operations = {
                0: lambda x, _: x * 0,
                1: lambda x, _: x,
                2: lambda x, edge: relu_conv_norm(x, edges[edge]),
                3: lambda x, edge: relu_conv_norm(x, edges[edge]),
                4: lambda x, _: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
            }
            nodes.append(sum(operations[int(code[edge])](nodes[source], edge) for source, edge in entering))
        return nodes[3]

    def run(images):
        x = norm(conv(tensor(images).permute(0, 3, 1, 2), state["stem"]), state["stem_norm"])
        for stage in range(3):
            if stage:
                block = state["reductions"][stage - 1]
                residual = relu_conv_norm(relu_conv_norm(x, block["first"], 2), block["second"])
                x = conv(functional.avg_pool2d(x, 2, 2), block["shortcut"]) + residual
            for number in range(SPACE.cells):
                x = cell(x, state.get("stages", {}).get(stage, {}).get(number, {}).get("edges"))
        x = functional.relu(norm(x, state["last_norm"])).mean(dim=(2, 3))
        return (x @ tensor(state["head"]["kernel"]) + tensor(state["head"]["bias"])).numpy()

    return run


@every_code
def test_pytorch_computes_the_same(init, code):
    torch = pytest.importorskip("torch")
    params, stats = init(jax.random.key(6), code)
    params = perturbed(params)
    logits, new_stats = quick_jit(partial(NET.apply, train=True))(params, stats, code, images())
    state = network_state(params, stats, code)
    np.testing.assert_allclose(logits, torch_network(torch, state, code)(images()), **TOLERANCE)
    np.testing.assert_allclose(new_stats["last_norm"]["mean"], state["last_norm"]["new mean"], **TOLERANCE)
