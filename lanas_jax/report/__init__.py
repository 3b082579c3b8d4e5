"""The HTML report of a run."""

from lanas_jax.report.live import LiveReport
from lanas_jax.report.run import write_report

__all__ = ["LiveReport", "write_report"]
