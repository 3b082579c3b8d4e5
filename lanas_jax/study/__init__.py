"""One search: its experiment, the loop, its search log, its run folder, its live display.

Names are imported on first use, so that commands without arrays do not wait for JAX.
"""

from typing import TYPE_CHECKING

from lanas_jax.runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from lanas_jax.study.experiment import Experiment as Experiment
    from lanas_jax.study.loop import Result as Result
    from lanas_jax.study.loop import run as run
    from lanas_jax.study.replay import StudyError as StudyError

_HOMES = {"Experiment": "experiment", "Result": "loop", "StudyError": "replay", "run": "loop"}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
