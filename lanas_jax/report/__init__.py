"""The HTML report of a run, or of several.

Names are imported on first use, since plots need matplotlib, whose import takes nearly as long as that of JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanas_jax.report.live import LiveReport as LiveReport
    from lanas_jax.report.run import write_report as write_report
    from lanas_jax.report.run import write_runs_report as write_runs_report

_HOMES = {"LiveReport": "live", "write_report": "run", "write_runs_report": "run"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
