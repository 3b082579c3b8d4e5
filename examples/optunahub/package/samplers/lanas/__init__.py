"""LaNAS as a sampler of Optuna; the package `lanas-jax` has the code."""

from lanas_jax.integrations.optuna import LaNASSampler

__all__ = ["LaNASSampler"]
