"""The HTML report of a run, or of several.

Names are imported on first use, so that `lanas search` does not wait for matplotlib, which plots need.
"""

from typing import TYPE_CHECKING

from lanas_jax.runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from lanas_jax.report.live import LiveReport as LiveReport
    from lanas_jax.report.run import write_report as write_report
    from lanas_jax.report.run import write_runs_report as write_runs_report

_HOMES = {"LiveReport": "live", "write_report": "run", "write_runs_report": "run"}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
