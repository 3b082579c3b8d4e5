"""The programs that are planned are those that run."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.candidates.population import Population
from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import SearchData
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.experiments import cifar10, cifar10_one_shot
from lanas_jax.models import layers
from lanas_jax.models.layers import convolutions
from lanas_jax.planning.estimate import Memory
from lanas_jax.planning.stage import stand_in
from lanas_jax.planning.stages import candidates, final_training, mean_multiply_adds
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.storage.weights import names
from lanas_jax.supernet import valuation
from lanas_jax.supernet.sandwich import Sandwich
from lanas_jax.supernet.training import SupernetTraining
from lanas_jax.trainer import programs as final_programs
from lanas_jax.trainer import teacher as teachers
from lanas_jax.trainer.compilation import compile_training
from lanas_jax.trainer.streamed import lowered_step
from lanas_jax.trainer.task import FinalTraining, Weights
from lanas_jax.trainer.teacher import NetworkTeacher
from lanas_jax.training.augmentation import Augmentation, augment
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.small_network import SmallNetwork
from tests.planning import planned_experiment as planned
from tests.supernet import linear_supernet as linear
from tests.trainer import tiny_experiment as tiny
from tests.trainer import tiny_stream
from tests.trainer.linear_network import CLASSES, LinearNetwork

DEVICES = jax.local_devices()[:2]
CONFIG = planned.Config()


def memory_of(lowered):
    return Memory.of(lowered.compile().memory_analysis())


def test_a_stand_in_has_shapes_and_no_bytes():
    data = stand_in(1_281_167, 10_000, (224, 224, 3), 1000)
    assert data.image_shape == (224, 224, 3)
    assert (len(data.train), len(data.validation), data.classes) == (1_281_167, 10_000, 1000)
    assert data.train.images.base.nbytes == 1
    assert stand_in(2, 2, (1, 1, 1), 2, np.float32).scaling is None


def test_a_training_is_planned_as_it_runs():
    stage = planned.stages(CONFIG)[0]
    program = stage.program(DEVICES, 12)
    data = SearchData(linear.stripes(60, 0), linear.stripes(30, 1), 3, planned.DATA.scaling)
    runs = compile_training(planned.training(CONFIG), data, DEVICES)
    assert memory_of(program.lowered) == Memory.of(runs.program.memory_analysis())
    assert (program.devices, program.steps) == (2, runs.total)
    assert program.multiply_adds == 3 * 1000 * 12 / 2  # three passes of what each device has of the batch


def test_a_streamed_step_has_its_batch_and_no_other_images():
    stage = final_training("final", planned.training(CONFIG), planned.DATA, 1.0, setting="", streamed=True)
    lowered = stage.program(DEVICES, 12).lowered
    *_, images, labels = lowered.args_info[0]
    assert (images.shape, images.dtype) == ((12, 6, 6, 1), np.uint8)
    assert labels.shape == (12,)
    assert memory_of(lowered).arguments < memory_of(planned.stages(CONFIG)[0].program(DEVICES, 12).lowered).arguments


@pytest.mark.slow
def test_a_sandwich_of_a_supernet_with_variants_is_planned_by_program():
    """Two random codes a step, of nine: six of the first variant, two of the second, one of the third."""
    supernet, codes = linear.VariedSupernet(linear.CountedSpace()), linear.SPACE.enumerate()
    pool = np.concatenate([codes[:3], codes[:3], codes[3:5], codes[6:7]])
    rule = Sandwich((0, 0), (2, 2), random=2)
    training = SupernetTraining(supernet, pool, linear.RECIPE, sandwich=rule)
    stage = final_training("supernet", training, planned.DATA, 1.0, setting="", streamed=True)
    programs = {program.name: program for program in stage.program(DEVICES, 12)}
    assert {name: program.calls for name, program in programs.items()} == {
        "largest": 1, "smallest": 1, "random, all": 12 / 9, "random, half": 4 / 9, "random, few": 2 / 9, "apply": 1,
    }  # fmt: skip
    alone = stage.only("random, few").program(DEVICES, 12)
    assert (alone.name, alone.calls) == ("random, few", 2 / 9)
    with pytest.raises(ValueError, match="no program 'few': choose from largest; smallest; random, all; random, half;"):
        stage.only("few").program(DEVICES, 12)
    assert programs["largest"].multiply_adds == 3 * 6 * supernet.space.cost([[0, 0]]).multiply_adds[0]
    assert programs["random, few"].multiply_adds == 3 * 6 * supernet.space.cost([[2, 0]]).multiply_adds[0]
    data = StreamedDataset(*[tiny_stream.Training(linear.stripes(60, 0))] * 3, 3, (6, 6, 1), linear.SCALING)
    runs = compile_training(training, data, DEVICES).program
    for name, compiled in {**runs.passes, "apply": runs.apply}.items():
        assert memory_of(programs[name].lowered) == Memory.of(compiled.memory_analysis())


def test_a_teacher_is_planned_by_the_shapes_of_its_weights():
    alone = planned.training(CONFIG)
    network = planned.SUPERNET.standalone(np.array([0, 2]))
    recipe = dataclasses.replace(alone.recipe, distillation=0.5)
    found = {}
    for name, teacher in {
        "planned": teachers.stand_in(network),
        "real": NetworkTeacher(network, names(Weights(*network.init(jax.random.key(0))))),
    }.items():
        taught = dataclasses.replace(alone, recipe=recipe, teacher=teacher)
        stage = final_training("final", taught, planned.DATA, 1000.0, setting="", teacher_multiply_adds=70)
        program = stage.program(DEVICES, 12)
        found[name] = memory_of(program.lowered)
        assert program.multiply_adds == (3 * 1000 + 70) * 12 / 2
    assert found["planned"] == found["real"]
    assert found["real"].arguments > memory_of(planned.stages(CONFIG)[0].program(DEVICES, 12).lowered).arguments


def test_devices_share_a_batch_equally():
    stage = planned.stages(CONFIG)[0]
    with pytest.raises(ValueError, match="multiple of the 4 chips; got 6"):
        stage.program(jax.local_devices(), 6)


def test_passes_are_more_work_of_the_same_program():
    training = planned.training(CONFIG)
    twice = dataclasses.replace(training, recipe=dataclasses.replace(training.recipe, passes=2))
    program = final_training("final", twice, planned.DATA, 1000.0, setting="").program(DEVICES, 12)
    assert (program.multiply_adds, program.counted) == (2 * 3 * 1000 * 6, 0.5)


def test_masks_are_valued_as_planned():
    valuing = valuation.Valuation(planned.SUPERNET, planned.DATA, recalibration=24, batch_size=12, devices=DEVICES)
    program = planned.stages(CONFIG)[1].program(DEVICES, 12)
    shapes = [leaf.shape for leaf in jax.tree.leaves(program.lowered.args_info)][-4:]
    assert shapes[0] == (4, 2)
    assert shapes[1:] == [array.shape for array in valuing._placed]
    assert program.steps == 3 * 2 * (24 // 12 + 3)  # calls, codes of a device one after the other, batches
    assert program.multiply_adds == 12 * mean_multiply_adds(planned.SUPERNET.space)


@pytest.fixture(scope="module")
def searched():
    config = TrainConfig(epochs=2, batch_size=10)
    data = stand_in(40, 20, (6, 6, 1), 3)
    stage = candidates("search", SmallNetwork(), config, data, budget=8, batch=4, setting="--batch-size")
    return stage.program(DEVICES, 10), config


@pytest.mark.slow
def test_candidates_are_planned_as_they_run(searched):
    program, config = searched
    images = np.zeros((40, 6, 6, 1), np.uint8), np.zeros(40, np.int32)
    layout = Population(SmallNetwork(), config, DEVICES, per_device=2)
    data = stand_in(40, 20, (6, 6, 1), 3)
    runs = layout.compile(dataclasses.replace(data, train=type(data.train)(*images)))
    assert memory_of(program.lowered) == Memory.of(runs.advance.memory_analysis())
    assert program.steps == 2 * 2 * runs.total()  # batches, candidates of a device, steps
    assert program.multiply_adds is None  # that space knows no costs


@pytest.mark.parametrize("accelerator", ["tpu", "cuda"])
def test_accelerators_get_their_own_forms_of_operations(accelerator):
    """XLA's convolutions and windowed maxima, which CPUs do without (`models/layers`), in gradients too."""

    def shapes(channels):
        kernels = (3, 3, channels), (channels, channels)
        return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 8, 8, channels), *kernels)]

    def gradient(x, depthwise, pointwise):
        y, pullback = jax.vjp(lambda *inputs: layers.max_pool(layers.separable(*inputs)), x, depthwise, pointwise)
        return pullback(y)

    narrow, wide = (
        {
            name: jax.jit(gradient).trace(*shapes(channels)).lower(lowering_platforms=(name,)).as_text()
            for name in (accelerator, "cpu")
        }
        for channels in (16, convolutions.DENSE_CHANNELS + 16)
    )
    assert "feature_group_count = 16 " not in narrow[accelerator]  # dense
    assert narrow[accelerator].count("stablehlo.convolution") == 3  # and the gradients of both factors
    assert f"feature_group_count = {convolutions.DENSE_CHANNELS + 16} " in wide[accelerator]
    assert "stablehlo.select_and_scatter" in narrow[accelerator]
    for text in (narrow["cpu"], wide["cpu"]):
        assert "stablehlo.convolution" not in text
        assert "stablehlo.select_and_scatter" not in text
        assert "stablehlo.reduce_window" not in text


@pytest.mark.slow
@pytest.mark.parametrize(("module", "names"), [
    (cifar10, ["search", "final"]), (cifar10_one_shot, ["supernet", "search", "final"]),
])  # fmt: skip
def test_experiments_offer_their_stages_without_data(module, names):
    found = module.stages(module.Config(data_dir=None))
    assert [stage.name for stage in found] == names


GATHER = re.compile(r'"stablehlo\.gather".*slice_sizes = array<i64: ([\d, ]*)>.*-> tensor<([^>]*)>')


def gathered_rows(lowered):
    """The number of rows that each gather of a program reads, before a compiler replaces any."""
    return [
        math.prod(map(int, result.split("x")[:-1])) // math.prod(map(int, sizes.split(",")))
        for sizes, result in GATHER.findall(lowered.as_text())
    ]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["randaugment", "autoaugment_imagenet"])
def test_a_step_of_pictures_gathers_none(policy):
    """A step on images in memory gathers the pixels of each image."""
    augmentation = Augmentation(crop=1, flip=True, policy=policy, cutout=2, erasing=0.5, mixup=0.2, cutmix=0.2)
    recipe = dataclasses.replace(tiny.RECIPE, train_on="train")
    training = FinalTraining(LinearNetwork(), lambda: None, recipe, augmentation)
    mesh = mesh_of(jax.devices()[:1], final_programs.AXIS)
    scaling = Scaling((0.5,) * 3, (0.25,) * 3)
    assert not gathered_rows(lowered_step(training, mesh, (4, 3, 3), CLASSES, scaling))

    def on_device(images):
        return augment(augmentation, jax.random.key(0), images, jnp.zeros((4, CLASSES)), scaling)

    assert max(gathered_rows(jax.jit(on_device).lower(jax.ShapeDtypeStruct((4, 4, 3, 3), jnp.uint8)))) >= 4 * 4 * 3


def test_a_network_that_resizes_images_gathers_none():
    """Neither does its gradient."""
    shapes = [jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32) for size in (8, 6)]

    def resized_and_back(images, gradient):
        found, pullback = jax.vjp(lambda images: layers.resized(images, 6), images)
        return found, pullback(gradient)

    lowered = jax.jit(resized_and_back).lower(*shapes)
    assert lowered.as_text().count("dot_general") == 4
    assert not gathered_rows(lowered)
