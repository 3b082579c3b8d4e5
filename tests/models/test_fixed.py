"""A network built for one code trains as the same candidate with its code as data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.candidates import step as training
from lanas_jax.candidates.population import Population
from lanas_jax.candidates.step import CandidateTask, Network
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.models.fixed import FixedNetwork
from lanas_jax.models.nasnet import NASNet
from lanas_jax.models.nasnet.network import network_state
from lanas_jax.spaces.base import Choice, SearchSpace
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.training.sgd import TrainConfig

SPACE = NASNetSpace(1, channels=4, cells=1, image_size=8, image_channels=1, classes=3)
CODE = np.array([3, 2, 0, 1], np.int32)  # a 5x5 separable convolution and a skip, which halves the resolution
CONFIG, KEY = TrainConfig(epochs=2, batch_size=4), jax.random.key(5)
DATA = Split(np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32), np.arange(8, dtype=np.int32) % 3)
LINEAR = SearchSpace([Choice("kind", ("only",))])


class Linear(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, images):
        return self.head(self.norm(images.reshape(images.shape[0], 4)))


def pick(state, like):
    """The entries of a nested dict that another has."""
    return {key: pick(state[key], value) if isinstance(value, dict) else state[key] for key, value in like.items()}


def by_population(form):
    """Four steps of the candidate, by the programs of a search."""
    population = Population(form, CONFIG, jax.devices()[:1], 1, steps_per_dispatch=4)
    state, _ = population.compile(SearchData(DATA, DATA, 3)).fit(CODE[None], KEY[None])
    return jax.tree.map(lambda x: x[0], state)


def by_itself(form):
    """The same four steps, compiled in less time."""

    def train(images, labels):
        task, total = CandidateTask(form, CONFIG, SPACE.classes), jnp.int32(4)
        state = training.start_candidate(task, jnp.asarray(CODE), KEY)
        return training.train_candidate(task, state, jnp.asarray(CODE), total, total, images, labels, steps=4)

    quick = {"xla_backend_optimization_level": 0}
    return jax.jit(train, compiler_options=quick)(DATA.images, DATA.labels)


@pytest.mark.slow
@pytest.mark.parametrize("train", [by_itself, by_population])
def test_both_forms_train_to_the_same_parameters(train):
    """To 1e-3, float32 sums in another order, after four steps that move weights by a tenth."""
    network = NASNet(SPACE)
    forms = (network, network.for_code(CODE))
    assert all(isinstance(form, Network) for form in forms)
    as_data, alone = (train(form) for form in forms)
    assert as_data.step == alone.step == 4
    state = network_state(SPACE, as_data.params, as_data.batch_stats, CODE)
    for theirs in (alone.params, alone.batch_stats):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-3), pick(state, theirs), theirs)
    first, _ = jax.jit(network.init)(jax.random.split(KEY)[0], CODE)
    assert np.abs(alone.params["stem"]["kernel"] - first["stem"]["kernel"]).max() > 0.05


def test_any_module_can_be_fixed():
    network, code = FixedNetwork(LINEAR, lambda key: Linear(nnx.Rngs(key))), jnp.zeros(1, jnp.int32)
    params, stats = network.init(jax.random.key(0), code)
    assert jax.tree.map(jnp.shape, params["head"]) == {"bias": (2,), "kernel": (4, 2)}
    images = 1 + jax.random.normal(jax.random.key(1), (6, 2, 2, 1))
    logits, same = network.apply(params, stats, code, images, train=False)
    np.testing.assert_allclose(logits, images.reshape(6, 4) / np.sqrt(1 + 1e-5) @ params["head"]["kernel"], rtol=1e-5)
    assert same is stats
    _, moved = network.apply(params, stats, code, images, train=True)
    np.testing.assert_allclose(moved["norm"]["mean"], images.reshape(6, 4).mean(0) / 2, rtol=1e-5)
    np.testing.assert_array_equal(stats["norm"]["mean"], 0)


def test_the_module_is_traced_once():
    built = []

    def build(key):
        built.append(key)
        return Linear(nnx.Rngs(key))

    network = FixedNetwork(LINEAR, build)
    params, stats = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(1, jnp.int32))
    for images in (jnp.zeros((2, 2, 2, 1)), jnp.zeros((3, 2, 2, 1))):
        step = jax.jit(network.apply, static_argnames="train")
        assert step.eval_shape(params, stats, jnp.zeros(1, jnp.int32), images, train=True)[0].shape == (len(images), 2)
    assert len(built) == 2  # for the weights, and for the structure


def test_a_bad_code_is_refused():
    with pytest.raises(ValueError, match=r"position 0 .* holds 4, expected 0 to 3"):
        NASNet(SPACE).for_code(np.array([4, 0, 0, 0]))
