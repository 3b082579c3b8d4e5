"""The NASNet supernet as an evaluator: trained, asked for values, and taken apart again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.data.splits import SearchData, Split
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.models.nasnet import NASNetSupernet
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from lanas_jax.supernet import code_pool
from lanas_jax.supernet.training import ONE_SHOT, SupernetTraining
from lanas_jax.trainer.compilation import lowered_steps
from lanas_jax.trainer.programs import AXIS
from lanas_jax.trainer.step import compute_logits
from lanas_jax.trainer.task import Weights
from tests.candidates.small_network import stripes

SPACE = NASNetMasks(2, channels=4, cells=3, image_size=6, image_channels=1, classes=3)
DATA = SearchData(Split(*stripes(240)), Split(*stripes(100, 1)), 3)
RECIPE = dataclasses.replace(ONE_SHOT, epochs=12, batch_size=24, learning_rate=0.1, passes=2)


@pytest.mark.slow
def test_its_training_program_consumes_the_state_and_takes_codes_as_data():
    """Nothing but the state is consumed; the pool of codes and the numbers of the recipe are arguments."""
    pool = code_pool.draw_codes(SPACE, 5, seed=1)
    training = SupernetTraining(NASNetSupernet(SPACE), pool, RECIPE)
    lowered = lowered_steps(training, mesh_of(jax.devices()[:1], AXIS), DATA)
    read, state, *others = lowered.args_info[0]
    assert all(leaf.donated for leaf in jax.tree.leaves(state))
    assert not any(leaf.donated for leaf in jax.tree.leaves((read, others)))
    assert read.network.shape == pool.shape
    assert {"clip", "weight_decay", "learning_rate", "constant_epochs"} <= vars(read.recipe).keys()


@pytest.mark.slow
def test_extracted_networks_have_the_accuracies_by_which_they_were_valued(tmp_path):
    evaluator = OneShot(NASNetSupernet(SPACE), lambda: DATA, RECIPE, recalibration=96, batch_size=32)
    evaluator.prepare(tmp_path, print)
    codes = code_pool.draw_codes(SPACE, 4, seed=1)
    outcomes = evaluator.evaluate(codes, jax.random.split(jax.random.key(0), 4))
    cost = SPACE.cost(codes)
    assert [outcome.parameters for outcome in outcomes] == cost.parameters.tolist()
    images = jnp.asarray(DATA.validation.images)
    for code, outcome, parameters in zip(codes, outcomes, cost.parameters, strict=True):
        network, weights = evaluator.supernet.standalone(code), Weights(*evaluator.extract(code))
        assert sum(leaf.size for leaf in jax.tree.leaves(weights.params)) == parameters
        logits = jax.jit(lambda weights, network=network: compute_logits(network, weights, images, None))(weights)
        accuracy = np.mean(np.asarray(logits).argmax(axis=1) == DATA.validation.labels)
        assert outcome.value == pytest.approx(accuracy, abs=1e-6)
    assert max(outcome.value for outcome in outcomes) > 0.5
