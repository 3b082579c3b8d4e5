"""A search for a front of accuracy and energy, an outcome of its evaluator, for tests of several processes."""

import dataclasses

import lanas_jax as lx
from lanas_jax.study import Experiment

SPACE = lx.SearchSpace([lx.Choice(f"op{i}", "abcd") for i in range(3)])
NAMES = ("accuracy", "-energy")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    seed: int = 0
    """Of everything random."""
    budget: int = 16
    """Trials in all."""


class Evaluator:
    """Accuracies and energies that follow from the codes."""

    outcomes = ("energy",)

    def evaluate(self, codes, keys):
        """One outcome per code."""
        return [outcome(code.tolist()) for code in codes]


def outcome(code):
    """Of a code; without energy if its last operation is d."""
    energy = {} if code[-1] == 3 else {"energy": 0.25 + sum(code)}
    return lx.Outcome(1 / (1 + code[0] + 2 * code[1]), outcomes=energy)


def build(config):
    """The experiment."""
    searcher = lx.ParetoLaNAS(SPACE, NAMES, initial=6)
    return Experiment("energies", SPACE, searcher, Evaluator(), config.budget, 4, config.seed, objectives=NAMES)
