"""A space counts the costs of the networks that are trained: its settings are those of the data, or are refused."""

import re

import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.data.splits import Dataset, SearchData, Split
from lanas_jax.evaluators.base import NotPreparedError
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.models.nasbench.nasbench101 import NASBench101
from lanas_jax.models.nasbench.nasbench201 import NASBench201
from lanas_jax.models.nasnet import FinalNASNet, NASNet, NASNetSupernet
from lanas_jax.planning import stages
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from lanas_jax.spaces.published_mobilenets import PublishedMobileNets
from lanas_jax.supernet.regions import OptionSplit
from lanas_jax.supernet.training import SupernetTraining, train_supernet
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.trainer.train import Origin, train_network
from lanas_jax.training.sgd import TrainConfig
from tests.refusals import refused

RECIPE = Recipe(epochs=1, batch_size=2, auxiliary_weight=0.0, drop_path=0.0)
SIZES = {"channels": 4, "cells": 3, "image_channels": 1}
COUNTED = {"nasnet": NASNetSpace, "masks": NASNetMasks, "101": NASBench101Space, "201": NASBench201Space}


def data(height=8, width=8, channels=1, classes=3):
    labels = np.arange(6, dtype=np.int32) % classes
    split = Split(np.zeros((6, height, width, channels), np.float32), labels)
    return SearchData(split, split, classes)


@pytest.mark.parametrize("space", COUNTED.values(), ids=COUNTED)
@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((8, 8, 3), 10, "image_size is 32, but images are 8 x 8. To mend it: give the space the settings of the data"),
        ((32, 32, 1), 10, "image_channels is 3, but images have 1 channels. To mend it: give the space"),
        ((32, 32, 3), 100, "classes is 10, but the data has 100 classes. To mend it"),
        ((32, 64, 3), 10, "image_size is 32, but images are 32 x 64. To mend it: its networks take square images"),
        ((16, 32, 3), 10, "image_size is 32, but images are 16 x 32. To mend it: its networks take square images"),
        (
            (8, 8, 1),
            3,
            "images are 8 x 8; image_channels is 3, but images have 1 channels; classes is 10, but the data",
        ),
    ],
)
def test_spaces_with_costs_name_what_differs(space, shape, classes, message):
    space().check_images((32, 32, 3), 10)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        space().check_images(shape, classes)
    assert str(raised.value).startswith(space.__name__)


def test_mobilenets_resize_images_and_check_channels_and_classes():
    for space in (MobileNetSpace(), PublishedMobileNets()):
        space.check_images((300, 200, 3), 1000)
        with pytest.raises(ValueError, match="image_channels is 3, but images have 1"):
            space.check_images((224, 224, 1), 1000)
        with pytest.raises(ValueError, match="classes is 1000, but the data has 10 classes"):
            space.check_images((224, 224, 3), 10)


def test_a_space_without_such_settings_takes_any_images_and_one_with_them_is_checked():
    class Mine(lx.SearchSpace):
        classes = 4

    choices = [lx.Choice("a", "xy")]
    lx.SearchSpace(choices).check_images((7, 9, 2), 5)
    Mine(choices).check_images((7, 9, 2), 4)
    with pytest.raises(ValueError, match=r"Mine counts .*: classes is 4, but the data has 5"):
        Mine(choices).check_images((7, 9, 2), 5)


def test_costs_of_the_default_size_are_sixteen_times_those_of_the_images():
    """What the check prevents: limits and fronts of networks that nobody trains."""
    sizes = {"channels": 4, "cells": 3, "image_channels": 1, "classes": 3}
    code = np.zeros((1, 28), np.int32)
    assumed, true = (NASNetSpace(7, image_size=size, **sizes).cost(code).multiply_adds[0] for size in (32, 8))
    assert 15 < assumed / true <= 16
    with pytest.raises(ValueError, match="image_size is 32, but images are 8 x 8"):
        FromScratch(NASNet(NASNetSpace(7, **sizes)), data(), TrainConfig(1))


@pytest.mark.parametrize(
    ("network", "fits"),
    [
        (NASNet(NASNetSpace(2, **SIZES, classes=3)), False),
        (NASNet(NASNetSpace(2, **SIZES, classes=3, image_size=8)), True),
        (NASNet(NASNetSpace(2, **SIZES, classes=4, image_size=8)), False),
        (NASBench201(NASBench201Space(channels=4, cells=1, image_channels=1, classes=3)), False),
        (NASBench201(NASBench201Space(channels=4, cells=1, image_channels=1, classes=3, image_size=8)), True),
        (NASBench101(NASBench101Space(channels=5, cells=1, image_channels=1, classes=3)), False),
        (NASBench101(NASBench101Space(channels=5, cells=1, image_channels=1, classes=3, image_size=8)), True),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_training_from_scratch_and_its_plan_refuse_other_images_before_anything_is_compiled(network, fits):
    def plan():
        stages.candidates("search", network, TrainConfig(1), data(), budget=1, batch=1, setting="batch")

    if fits:
        FromScratch(network, data(), TrainConfig(1))
        plan()
        return
    for make in (lambda: FromScratch(network, data(), TrainConfig(1)), plan):
        with pytest.raises(ValueError, match="counts the costs of other networks"):
            make()


@pytest.mark.parametrize(
    "given",
    [
        data(8, 16),
        *(pytest.param(d, marks=pytest.mark.slow) for d in (data(16, 16), data(channels=3), data(classes=2))),
    ],
)
def test_supernets_refuse_other_images_and_write_nothing(given, tmp_path):
    supernet = NASNetSupernet(NASNetMasks(1, **SIZES, image_size=8, classes=3))
    codes = np.zeros((1, supernet.space.dims), np.int32)
    with pytest.raises(ValueError, match="counts the costs of other networks"):
        train_supernet(SupernetTraining(supernet, codes, RECIPE), given, tmp_path / "supernet", print)
    one_shot = OneShot(supernet, lambda: given, RECIPE)
    for evaluator in (one_shot, FewShot(one_shot, OptionSplit("mask"), RECIPE)):
        with pytest.raises(NotPreparedError, match="counts the costs of other networks"):
            evaluator.prepare(tmp_path, print)
    with pytest.raises(ValueError, match="counts the costs of other networks"):
        one_shot.train(tmp_path / "supernet", print)
    with pytest.raises(ValueError, match="counts the costs of other networks"):
        stages.valuation("search", Valuation(supernet, given, 0), budget=1, batch=1, setting="batch")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [data(16, 8), data(32, 32), data(channels=3), data(classes=2)])
@pytest.mark.usefixtures("unchecked")
def test_the_training_of_a_winner_refuses_other_images_and_writes_nothing(given, tmp_path):
    network = FinalNASNet(NASNet(NASNetSpace(1, **SIZES, image_size=8, classes=3)), np.zeros(4, np.int32), False)
    training = FinalTraining(network, lambda: Dataset(given, given.train), RECIPE)
    with pytest.raises(ValueError, match="counts the costs of other networks"):
        train_network(training, network.code, tmp_path / "final", Origin("mine"), None)
    with pytest.raises(ValueError, match="counts the costs of other networks"):
        stages.final_training("final", training, given, None, setting="batch")
    assert not list(tmp_path.iterdir())


EXPERIMENT = """
import dataclasses
import numpy as np
import lanas_jax as lx
from lanas_jax.data.splits import Dataset, SearchData, Split
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.models.nasnet import FinalNASNet, NASNet
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.study import Experiment
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.sgd import TrainConfig

@dataclasses.dataclass(frozen=True)
class Config:
    size: int = 8

@dataclasses.dataclass(frozen=True)
class Final:
    size: int = 32

def space(size):
    return NASNetSpace(1, channels=4, cells=1, image_size=size, image_channels=1)

def load():
    split = Split(np.zeros((10, 8, 8, 1), np.float32), np.arange(10, dtype=np.int32))
    return Dataset(SearchData(split, split, 10), split)

def build(config):
    searched = space(config.size)
    evaluator = FromScratch(NASNet(searched), load().search, TrainConfig(1))
    return Experiment("mine", searched, lx.RandomSearch(searched), evaluator, budget=1, batch=1, seed=0)

def final(config, settings, code):
    network = FinalNASNet(NASNet(space(settings.size)), code, auxiliary=False)
    return FinalTraining(network, load, Recipe(epochs=1, auxiliary_weight=0.0))
"""


def test_commands_refuse_a_space_of_other_images_with_a_sentence(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(EXPERIMENT)
    message = (
        "NASNetSpace counts the costs of other networks than those to train: image_size is 32, but images are 8 x 8"
    )
    for command in (["search", file, "--size", "32"], ["train", file, "--code", "0,0,0,0"]):
        assert message in refused(capsys, *command, "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()
