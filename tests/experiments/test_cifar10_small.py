import dataclasses

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments import cifar10_small
from lanas_jax import study
from lanas_jax.data import cifar10
from lanas_jax.final.display import Display
from lanas_jax.final.recipe import Recipe
from lanas_jax.final.train import Origin, train
from tests.data import made_up_cifar10 as made_up


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A tiny search on made-up images, in a file like CIFAR-10's."""
    folder = tmp_path_factory.mktemp("data")
    (x_train, y_train), (x_test, y_test) = made_up.TRAIN, made_up.TEST
    np.savez(folder / "cifar10.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    sizes = {"train": 40, "validation": 20, "blocks": 1, "channels": 2, "cells": 3, "epochs": 1, "batch_size": 20}
    return cifar10_small.Config(budget=4, batch=4, searcher="random", data_dir=folder, plan="shared", **sizes)


@pytest.fixture(autouse=True)
def _fewer_images(monkeypatch):
    monkeypatch.setattr(cifar10, "SOURCE", dataclasses.replace(cifar10.SOURCE, contents=made_up.CONTENTS))


def test_a_tiny_search_trains_on_images_of_16_pixels(config, tmp_path):
    experiment = cifar10_small.build(config)
    assert experiment.evaluator.data.image_shape == (16, 16, 3)
    assert experiment.evaluator.data.train.images.dtype == np.uint8
    result = study.run(experiment, tmp_path / "run", write_report=False)
    assert [(trial.status, trial.steps) for trial in result.trials] == [(study.Status.DONE, 2)] * 4


def test_the_winner_is_trained(config, tmp_path):
    settings = cifar10_small.Final(Recipe(epochs=1, batch_size=20, ema=0.5), channels=4, train=40)
    code = np.array([0, 1, 0, 1, 0, 3, 0, 1], np.int32)
    final = cifar10_small.final(config, settings, code)
    origin = Origin("cifar10_small", config=config, settings=settings)
    described = train(final, code, tmp_path / "final", origin, Display(Console(quiet=True)), jax.devices()[:1])
    assert described["steps"] == 3
    assert described["trained_parameters"] == described["parameters"]


@pytest.mark.parametrize("name", cifar10_small.SEARCHERS)
def test_every_searcher_can_be_chosen(config, name):
    experiment = cifar10_small.build(dataclasses.replace(config, searcher=name))
    assert isinstance(experiment.searcher, cifar10_small.SEARCHERS[name])
