"""One search: its experiment, the loop, its search log, its run folder, its live display.

Names are imported on first use, so that commands without arrays do not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanas_jax.study.experiment import Experiment as Experiment
    from lanas_jax.study.loop import Result as Result
    from lanas_jax.study.loop import run as run
    from lanas_jax.study.replay import StudyError as StudyError

_HOMES = {"Experiment": "experiment", "Result": "loop", "StudyError": "replay", "run": "loop"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
