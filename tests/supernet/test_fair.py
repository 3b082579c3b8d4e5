"""Fair sampling: its codes, its gradient by the definition, and a training from its beginning to its end."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.evaluators.base import NotPreparedError
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.spaces.base import Choice, SearchSpace
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from lanas_jax.storage.folder import RunError
from lanas_jax.supernet.fair import FairSupernet
from lanas_jax.supernet.sandwich import Sandwich
from lanas_jax.supernet.training import SupernetTraining, train_supernet
from lanas_jax.trainer.task import DrawsCodes, SelfTaught, Weights
from tests.supernet.linear_supernet import CLASSES, RECIPE, SCALING, SPACE, LinearSupernet, dataset, stripes
from tests.supernet.notes import Note
from tests.trees import same

CODES = SPACE.enumerate()
TRAINING = SupernetTraining(LinearSupernet(), CODES, dataclasses.replace(RECIPE, checkpoint_seconds=0.0), fair=True)
DEVICES = jax.devices()[:1]


def test_each_step_trains_every_operation_of_every_edge_once():
    """And edges are independent: in 200 steps, all 25 pairs of operations, missing one with probability < 1e-17."""
    network = FairSupernet(LinearSupernet(NASBench201Space()))
    steps = np.asarray(jax.vmap(network.drawn)(jax.random.split(jax.random.key(0), 200)))
    assert steps.shape == (200, 5, 6)
    np.testing.assert_array_equal(np.sort(steps, axis=1), np.broadcast_to(np.arange(5)[None, :, None], steps.shape))
    for i in range(5):
        assert len(np.unique(steps[:, :, i : i + 2].reshape(-1, 2), axis=0)) == 25
    for protocol in (SelfTaught, DrawsCodes):
        assert isinstance(network, protocol)


def test_gradient_is_the_sum_over_the_codes():
    split, key = stripes(12, 7), jax.random.key(2)
    images, targets = SCALING(jnp.asarray(split.images)), jax.nn.one_hot(split.labels, CLASSES)
    weights = Weights(*LinearSupernet().init(jax.random.key(4)))
    loss, stats, gradient = jax.jit(TRAINING.network.gradient)(weights, images, targets, key, key)

    def loss_of(params, code):
        logits, _ = LinearSupernet().apply(params, weights.batch_stats, code, images, train=True)
        return -(targets * jax.nn.log_softmax(logits)).sum(axis=1).mean()

    gradient_of = jax.jit(jax.value_and_grad(loss_of))
    found = [gradient_of(weights.params, code) for code in TRAINING.network.drawn(key)]
    np.testing.assert_allclose(loss, np.mean([each[0] for each in found]), rtol=1e-5)
    expected = np.sum([each[1]["kernel"] for each in found], axis=0)
    np.testing.assert_allclose(gradient["kernel"], expected, rtol=1e-4, atol=1e-6)
    assert np.abs(expected).max(axis=(2, 3)).all()  # every option has a gradient
    for name, old in weights.batch_stats.items():
        assert (np.asarray(stats[name]) != np.asarray(old)).any(axis=-1).all()


@pytest.mark.slow
def test_trained_stopped_and_resumed_to_the_same_bits(tmp_path):
    def carried_out(directory, note, programs=None):
        return train_supernet(TRAINING, dataset().search, directory, note, devices=DEVICES, programs=programs)

    whole = carried_out(tmp_path / "whole", Note())
    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path / "part", Note(2), whole.programs)
    assert same(carried_out(tmp_path / "part", Note(), whole.programs).weights, whole.weights)
    losses = [float(line.split(",")[2]) for line in (tmp_path / "whole" / "metrics.csv").read_text().splitlines()[1:]]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:3])
    assert json.loads((tmp_path / "whole" / "training.json").read_text())["settings"]["fair"] is True
    other = dataclasses.replace(TRAINING, fair=False)
    with pytest.raises(RunError, match=r"holds a different supernet: the settings: fair True, now absent"):
        train_supernet(other, dataset().search, tmp_path / "whole", Note(), devices=DEVICES)


@pytest.mark.parametrize(
    ("space", "settings", "recipe", "message"),
    [
        (
            SearchSpace([Choice("a", (0, 1)), Choice("b", (0, 1, 2))]), {}, {},
            r"fair sampling needs equally many options of each choice; got \[2, 3\]",
        ),
        (NASNetMasks(1, channels=2, cells=3), {}, {}, "fair sampling needs "),
        (SPACE, {}, {"passes": 2}, "passes must be 1 with fair sampling, which defines its own passes; got 2"),
        (SPACE, {"sandwich": Sandwich((0, 0), (2, 2))}, {}, "fair sampling and a sandwich exclude each other"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_at_once(space, settings, recipe, message):
    recipe = dataclasses.replace(RECIPE, **recipe)
    with pytest.raises(ValueError, match=message):
        SupernetTraining(LinearSupernet(space), CODES, recipe, fair=True, **settings)


def test_an_evaluator_trains_so_and_refuses_as_evaluators_do(tmp_path):
    assert isinstance(OneShot(LinearSupernet(), dataset, RECIPE, fair=True)._training.network, FairSupernet)
    evaluator = OneShot(LinearSupernet(), dataset, dataclasses.replace(RECIPE, passes=2), fair=True)
    with pytest.raises(NotPreparedError, match="passes must be 1 with fair sampling"):
        evaluator.prepare(tmp_path, print)
