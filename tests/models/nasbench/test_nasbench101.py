"""NAS-Bench-101 networks: three forms, one function, that of PyTorch; exactly the costs that the space says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.candidates.population import Population
from lanas_jax.candidates.step import Network
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.models.nasbench import NASBench101
from lanas_jax.models.nasbench.nasbench101_network import ConvNormRelu, NASBench101Network, network_state
from lanas_jax.spaces.nasbench101 import OPERATIONS, NASBench101Space
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.small_network import stripes
from tests.models.built import assert_near, counted, flat, only, quick_jit, run_network

BENCHMARK = NASBench101Space()
# Channels that three do not divide: widths of 2, 2 and 1.
SPACE = NASBench101Space(channels=5, cells=2, image_size=7, image_channels=2, classes=5)
CONV3X3, CONV1X1, MAXPOOL = OPERATIONS
TOLERANCE = {"rtol": 2e-3, "atol": 2e-4}


def code(edges, *operations):
    v = len(operations) + 2
    adjacency = np.zeros((v, v), int)
    adjacency[tuple(np.array(edges).T)] = 1
    return BENCHMARK.from_graph(adjacency, ("input", *operations, "output"))


CODES = {
    "input to output": code([(0, 1)]),
    "chain": code([(0, 1), (1, 2)], CONV1X1),
    "split in three, truncated, added to": code(
        [(0, 1), (1, 2), (1, 4), (0, 3), (2, 5), (3, 5), (4, 5), (0, 5)], CONV3X3, MAXPOOL, CONV1X1, CONV3X3
    ),
    "sums": code([(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (0, 3), (3, 4)], MAXPOOL, CONV3X3, CONV1X1),
}
every_code = pytest.mark.parametrize("graph", CODES.values(), ids=CODES)


def images(n=6):
    return jax.random.normal(jax.random.key(9), (n, 7, 7, 2))


def most_costly():
    """A clique of four 3x3 convolutions that share nothing."""
    return code([(0, 1), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (4, 5), (0, 5)], *4 * [CONV3X3])


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 7])
def test_parameters_and_multiply_adds_are_those_of_the_space(number):
    """Of the graphs above, or of so many others."""
    drawn = np.asarray(BENCHMARK.random(jax.random.key(4), 24))
    others = drawn[np.asarray(BENCHMARK.valid(drawn))][:number]
    codes = others if number else np.stack([*CODES.values(), most_costly()])
    assert len(codes) == (number or 5)
    costs = zip(*BENCHMARK.cost(codes), strict=True)
    for graph, cost in zip(codes, costs, strict=True):
        network = nnx.eval_shape(lambda graph=graph: NASBench101Network(BENCHMARK, graph, rngs=nnx.Rngs(0)))
        assert counted(network, jnp.zeros((1, 32, 32, 3))) == cost


def torch_network(torch, state, graph):
    """The benchmark's network in PyTorch, by itself: images and the state of a `NASBench101Network` to logits."""
    functional = torch.nn.functional
    adjacency, operations = SPACE.to_graph(graph)
    last = len(operations) - 1

    def tensor(x):
        return torch.from_numpy(np.array(x))

    def conv_norm_relu(x, weights):
        kernel = tensor(weights["conv"]["kernel"]).permute(3, 2, 0, 1)
        mean, variance, scale, bias = (tensor(weights["norm"][name]) for name in ("mean", "var", "scale", "bias"))
        y = functional.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        y = functional.batch_norm(y, mean, variance, scale, bias, training=True, momentum=0.003, eps=1e-5)
        weights["norm"]["new mean"] = mean.numpy()
        return functional.relu(y)

    def cell(x, weights, channels):
        def project(v):
            return conv_norm_relu(x, weights["projections"][str(v)])

        states, ends = {}, [v for v in range(1, last) if adjacency[v, last]]
        width = {v: channels // len(ends) + (i < channels % len(ends)) for i, v in enumerate(ends)}
        for v in reversed(range(1, last)):
            width.setdefault(v, max((width[w] for w in range(v + 1, last) if adjacency[v, w]), default=0))
        for v in range(1, last):
            parts = [states[u][:, : width[v]] for u in range(1, v) if adjacency[u, v]]
            parts += [project(v)] if adjacency[0, v] else []
            assert {part.shape[1] for part in parts} == {width[v]}
            added = torch.stack(parts).sum(dim=0)
            if operations[v] == MAXPOOL:
                states[v] = functional.max_pool2d(added, 3, 1, 1)
            else:
                states[v] = conv_norm_relu(added, weights["operations"][v - 1])
        parts = [torch.cat([states[v] for v in ends], dim=1)] if ends else []
        return sum(parts + ([project(last)] if adjacency[0, last] else []))

    def run(images):
        x = conv_norm_relu(tensor(images).permute(0, 3, 1, 2), state["stem"])
        for i in range(3 * SPACE.cells):
            stack, first = divmod(i, SPACE.cells)
            if stack and not first:
                x = functional.max_pool2d(x, 2, 2, ceil_mode=True)
            x = cell(x, state["cells"][i], SPACE.channels * 2**stack)
        return (x.mean(dim=(2, 3)) @ tensor(state["head"]["kernel"]) + tensor(state["head"]["bias"])).numpy()

    return run


def drawn(network):
    """Numbers for everything in a network's state: all positive but for kernels, and none that could go unnoticed."""
    random = np.random.default_rng(3)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return random.normal(0, 1 / np.sqrt(np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        return random.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(draw, nnx.to_pure_dict(nnx.state(network)))


@every_code
def test_pytorch_computes_the_same(graph):
    torch = pytest.importorskip("torch")
    network = nnx.eval_shape(lambda: NASBench101(SPACE).build(graph, nnx.Rngs(0)))
    definition, state = nnx.graphdef(network), drawn(network)

    @quick_jit
    def run(state, x):
        network = nnx.merge(definition, state)
        return network(x), nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    logits, stats = run(state, images())
    np.testing.assert_allclose(logits, torch_network(torch, state, graph)(images()), **TOLERANCE)
    np.testing.assert_allclose(stats["stem"]["norm"]["mean"], state["stem"]["norm"]["new mean"], **TOLERANCE)


def test_running_statistics_move_by_three_thousandths():
    layer = ConvNormRelu(2, 3, 1, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.train()
    convolved = layer.conv(images())
    layer(images())
    np.testing.assert_allclose(layer.norm.mean[...], 0.003 * convolved.mean((0, 1, 2)), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(layer.norm.var[...], 0.997 + 0.003 * convolved.var((0, 1, 2)), rtol=1e-5)


def of_code(params, stats, graph):
    state = network_state(SPACE, params, stats, graph)
    return only(nnx.Param, state), only(nnx.BatchStat, state)


@pytest.mark.slow
def test_networks_with_the_code_as_data_train_as_the_one_built_for_it():
    """Logits, statistics and gradients, norm over norm, and all that is not used is zero.

    tests/models/test_branchless.py compares them with those without control flow, and the cells of all three forms.
    """
    net, weights = NASBench101(SPACE), jax.random.normal(jax.random.key(2), (6, 5))

    def outputs(params, stats, graph):
        def loss(params):
            logits, new_stats = net.apply(params, stats, graph, images(), train=True)
            return jnp.sum(logits * weights), (logits, new_stats)

        return jax.grad(loss, has_aux=True)(params)

    init, run = quick_jit(net.init), quick_jit(outputs)
    for graph in CODES.values():
        params, stats = init(jax.random.key(0), graph)
        gradient, (logits, new_stats) = run(params, stats, graph)
        built = run_network(net.specialise(params, stats, graph), images(), weights)
        own_gradient, own_stats = of_code(gradient, new_stats, graph)
        for ours, theirs in zip((logits, own_stats, own_gradient), built, strict=True):
            assert_near(ours, theirs, 1e-4)
        for tree in (params, gradient):
            used = np.count_nonzero(flat(of_code(tree, stats, graph)[0]))
            assert np.count_nonzero(flat(tree)) == used > 0


@pytest.mark.slow
def test_a_fixed_network_is_the_module_built_from_the_same_key():
    graph = CODES["chain"]
    network = NASBench101(SPACE).for_code(graph)
    assert isinstance(network, Network)
    params, stats = quick_jit(network.init)(nnx.Rngs(1).params(), graph)
    state = nnx.to_pure_dict(nnx.state(NASBench101(SPACE).build(graph, nnx.Rngs(1))))
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, (params, stats), (only(nnx.Param, state), only(nnx.BatchStat, state)))
    kernel = params["cells"][5]["projections"]["1"]["conv"]["kernel"]
    np.testing.assert_allclose(np.std(kernel) * np.sqrt(kernel.shape[2]), 1, rtol=0.2)  # of 400 numbers


@pytest.mark.slow
def test_bfloat16_gives_what_float32_gives_but_for_roundings():
    """Roundings of one part in 256 add up to a few hundredths; another network is off by about one."""
    graph = CODES["split in three, truncated, added to"]
    exact, rounded = (NASBench101(SPACE, dtype).for_code(graph) for dtype in (jnp.float32, jnp.bfloat16))
    state = drawn(nnx.eval_shape(lambda: NASBench101(SPACE).build(graph, nnx.Rngs(0))))
    weights = only(nnx.Param, state), only(nnx.BatchStat, state)
    theirs, ours = (quick_jit(partial(net.apply, train=True))(*weights, graph, images()) for net in (exact, rounded))
    assert {x.dtype for x in jax.tree.leaves(ours)} == {jnp.dtype(jnp.float32)}
    assert 0 < np.linalg.norm(ours[0] - theirs[0]) < 0.1 * np.linalg.norm(theirs[0])
    _, same = exact.apply(*weights, graph, images(), train=False)
    assert same is weights[1]


@pytest.mark.slow
def test_a_training_learns():
    """Three kinds of stripes, told apart from a loss of about 1.1, by the built network and with its code as data."""
    pixels, labels = stripes(96)
    split, graph = Split(pixels, labels), CODES["sums"]
    space = NASBench101Space(channels=5, cells=1, image_size=6, image_channels=1, classes=3)
    network, codes, key = NASBench101(space), np.stack([graph, CODES["chain"]]), jax.random.key(0)
    config, losses = TrainConfig(epochs=10, batch_size=24), []
    for form, count in ((network.for_code(graph), 1), (network, 2)):
        population = Population(form, config, jax.devices()[:1], per_device=count, steps_per_dispatch=20)
        keys = jnp.stack([key] * count)
        results = population.compile(SearchData(split, split, 3)).run(codes[:count], keys)
        assert results.steps.tolist() == [40] * count
        losses.append(results.train_loss[0])
    assert losses[0] < 0.5
    assert losses[1] == pytest.approx(losses[0], rel=0.1)  # the same training, with roundings of forty steps


def test_bad_codes_and_dtypes_are_refused():
    nowhere, wrong = np.zeros(26, np.int32), np.full(26, 3)
    for bad, message in ((nowhere, "no path leads from input to output"), (wrong, "position 0 .* holds 3")):
        with pytest.raises(ValueError, match=message):
            NASBench101(SPACE).for_code(bad)
        with pytest.raises(ValueError, match=message):
            NASBench101(SPACE).build(bad, nnx.Rngs(0))
    with pytest.raises(ValueError, match="float32 or bfloat16; got float16"):
        NASBench101(SPACE, jnp.float16)
