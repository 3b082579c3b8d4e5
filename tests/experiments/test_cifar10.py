"""Both experiments on CIFAR-10, at a tiny size, on made-up images."""

import dataclasses

import jax
import numpy as np
import pytest
from rich.console import Console

from lanas_jax import study
from lanas_jax.data import cifar10 as data
from lanas_jax.experiments import cifar10, cifar10_small
from lanas_jax.storage.trial import Status
from lanas_jax.trainer.display import TrainingDisplay
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.train import Origin, train_network
from tests.data import made_up_cifar10 as made_up
from tests.experiments.chosen import chosen, offered

TINY = {"train": 40, "validation": 20, "blocks": 1, "channels": 2, "cells": 3, "epochs": 1, "batch_size": 20}
RECIPE = Recipe(epochs=1, batch_size=20, ema=0.5)
CODES = {cifar10: [0, 1, 0, 1], cifar10_small: [0, 1, 0, 1, 0, 3, 0, 1]}
FINALS = {
    cifar10: cifar10.Final(RECIPE, channels=4, cells=3),
    cifar10_small: cifar10_small.Final(RECIPE, channels=4, train=40),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file like CIFAR-10's."""
    folder = tmp_path_factory.mktemp("data")
    (x_train, y_train), (x_test, y_test) = made_up.TRAIN, made_up.TEST
    np.savez(folder / "cifar10.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return folder


@pytest.fixture(params=[cifar10, cifar10_small], ids=["paper", "small"])
def module(request):
    return request.param


@pytest.fixture
def config(module, folder):
    return module.Config(budget=4, batch=4, searcher="random", data_dir=folder, plan="shared", **TINY)


@pytest.fixture(autouse=True)
def _fewer_images(monkeypatch):
    monkeypatch.setattr(data, "SOURCE", dataclasses.replace(data.SOURCE, contents=made_up.CONTENTS))


@pytest.mark.slow
def test_a_tiny_search_trains_on_images_of_8_bits(module, config, tmp_path):
    experiment = module.build(config)
    size = 16 if module is cifar10_small else 32
    assert experiment.evaluator.data.image_shape == (size, size, 3)
    assert experiment.evaluator.data.train.images.dtype == np.uint8
    result = study.run(experiment, tmp_path / "run")
    assert [(trial.status, trial.steps) for trial in result.trials] == [(Status.DONE, 2)] * 4


@pytest.mark.slow
def test_the_winner_is_trained(module, config, tmp_path):
    settings, code = FINALS[module], np.array(CODES[module], np.int32)
    final = module.final(config, settings, code)
    origin = Origin(module.__name__, config=config, settings=settings)
    described = train_network(
        final, code, tmp_path / "final", origin, TrainingDisplay(Console(quiet=True)), jax.devices()[:1]
    )
    assert described["steps"] == 3  # 40 images and 20 for validation
    auxiliary = module is cifar10
    assert (described["trained_parameters"] > described["parameters"]) == auxiliary


NAMES = ("lanas", "random", "evolution")


@pytest.mark.parametrize("name", NAMES)
def test_every_searcher_can_be_chosen(module, config, name):
    assert offered(module) == NAMES
    chosen(module, config, name)


def test_early_stopping_is_off_unless_asked_for(folder):
    config = cifar10.Config(data_dir=folder, **TINY)
    assert cifar10.build(config).evaluator.halving is None
    assert cifar10.build(dataclasses.replace(config, halving=True)).evaluator.halving is not None
