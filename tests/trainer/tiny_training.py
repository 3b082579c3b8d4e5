"""Trainings of the networks of `tiny_experiment`: in a folder, until they are stopped."""

import csv
import dataclasses

import numpy as np

from lanas_jax.trainer import folder as folders
from tests.trainer import tiny_experiment as tiny
from tests.trainer.tiny_experiment import TinyNetwork, TinySpace

RECIPE = dataclasses.replace(tiny.RECIPE, steps_per_dispatch=7, train_on="train", checkpoint_seconds=0.0)
CODE = np.array([0, 1], np.int32)


class Stop:
    """Stops a training, as Ctrl-C would, once a step is reached; writes down what it was told."""

    def __init__(self, at=10**9):
        self.at, self.notes, self.read = at, [], []

    def began(self, programs, step):
        self.first = step

    def advanced(self, step, loss, learning_rate):
        if step >= self.at:
            raise KeyboardInterrupt

    def validated(self, accuracies):
        self.read.append(accuracies)

    def note(self, text):
        self.notes.append(text)


def network(activation=0):
    return TinyNetwork(TinySpace(), (activation, 1))


def entered(directory):
    return folders.enter(directory, dict.fromkeys(folders.DECISIVE), None)


def lines(folder):
    return list(csv.DictReader(folder.metrics.read_text().splitlines()))
