"""Networks without control flow: a training step, lowered for accelerators, has no conditional and no unknown loop."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from lanas_jax.candidates import step as training
from lanas_jax.candidates.population import Population, place
from lanas_jax.candidates.step import CandidateTask, Selectable
from lanas_jax.data.scaling import Scaling
from lanas_jax.models.nasbench import NASBench101, NASBench201
from lanas_jax.models.nasnet import NASNet
from lanas_jax.planning.control_flow import ControlFlow, count_control_flow
from lanas_jax.planning.stage import stand_in
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import TrainConfig

SIZES = {"channels": 2, "image_size": 8, "classes": 3}
NETWORKS = {
    "NASNet": NASNet(NASNetSpace(2, two_cells=True, cells=3, **SIZES), jnp.bfloat16, weight_standardisation=True),
    "NASNet, one block": NASNet(NASNetSpace(1, two_cells=True, cells=3, **SIZES), jnp.bfloat16),
    "NAS-Bench-201": NASBench201(NASBench201Space(cells=1, **SIZES), jnp.bfloat16),
    "NAS-Bench-101": NASBench101(NASBench101Space(cells=1, **SIZES | {"channels": 5}), jnp.bfloat16),
}
CONFIG = TrainConfig(batch_size=4, augmentation=Augmentation(crop=2, flip=True, cutout=2, mixup=0.2))
TASK = partial(CandidateTask, config=CONFIG, classes=3, scaling=Scaling((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


def arguments(task, images=4):
    code = jax.ShapeDtypeStruct((task.network.space.dims,), jnp.int32)
    state = jax.eval_shape(partial(training.start_candidate, task), code, jax.random.key(0))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    pictures = jax.ShapeDtypeStruct((images, 8, 8, 3), jnp.uint8)
    return state, code, number, pictures, jax.ShapeDtypeStruct((images,), jnp.int32)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(network, marks=[pytest.mark.slow] * (name != "NASNet, one block"), id=name)
        for name, network in NETWORKS.items()
    ],
)
def test_a_step_has_no_control_flow(network):
    assert isinstance(network, Selectable)
    task = TASK(network.as_branchless())
    traced = jax.jit(partial(training.candidate_train_step, task)).trace(*arguments(task))
    for platform in ("cuda", "tpu"):
        assert count_control_flow(traced.lower(lowering_platforms=(platform,))) == ControlFlow(0, 0), platform


@pytest.mark.slow
@pytest.mark.parametrize("vmapped", [1, 2])
def test_steps_of_a_dispatch_are_the_only_loop_whose_length_is_data(vmapped):
    network = NETWORKS["NASNet"].as_branchless()
    data = stand_in(8, 4, (8, 8, 3), 3)
    layout = Population(network, CONFIG, jax.devices()[:1], vmapped, vmapped=True)
    _, advance, _ = layout.lower(place(data, layout.devices))
    assert count_control_flow(advance) == ControlFlow(0, 1)
