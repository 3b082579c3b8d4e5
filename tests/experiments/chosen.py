"""The searcher that an experiment is built with, by name."""

import typing

import tyro

import lanas_jax as lx
from lanas_jax.comparison.optuna_searcher import OptunaTPE

SEARCHERS = {"lanas": lx.LaNAS, "random": lx.RandomSearch, "evolution": lx.RegularizedEvolution, "tpe": OptunaTPE}


def offered(module):
    """The names that its settings allow."""
    return typing.get_args(typing.get_type_hints(module.Config)["searcher"])


def chosen(module, config, name):
    """The experiment with the searcher of that name, as the command line asks for it, after checking its kind."""
    config = tyro.cli(module.Config, args=["--searcher", name], default=config)
    experiment = module.build(config)
    assert type(experiment.searcher) is SEARCHERS[name]
    assert experiment.searcher.space == experiment.space
    return experiment
