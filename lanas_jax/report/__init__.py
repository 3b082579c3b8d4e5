"""The HTML report of a run."""

from lanas_jax.report.run import write

__all__ = ["write"]
