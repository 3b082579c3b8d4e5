"""The HTML report of a run, or of several."""

from lanas_jax.report.live import LiveReport
from lanas_jax.report.run import write_report, write_runs_report

__all__ = ["LiveReport", "write_report", "write_runs_report"]
