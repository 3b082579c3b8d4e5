"""What runs in the process of a worker: builds the experiment once, then evaluates trials for as long as it lives.

Data and compiled programs stay warm between trials. JAX is imported in here alone, when a worker introduces itself: a
TPU belongs to the first process that looks for it. Everything that goes to the driver bears the fingerprint of the code
that made it.
"""

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lanas_jax.cluster import task as tasks
from lanas_jax.cluster.task import ClusterTask
from lanas_jax.evaluators.base import Outcome
from lanas_jax.storage import software

if TYPE_CHECKING:
    from lanas_jax.evaluators.base import Evaluator
    from lanas_jax.storage.trials import Winner
    from lanas_jax.study import Experiment


class Hello(NamedTuple):
    """What a worker says of itself."""

    fingerprint: str
    name: str  # host and process
    software: dict[str, str]
    devices: int


class Order(NamedTuple):
    """Trials to evaluate together."""

    ids: tuple[int, ...]
    codes: tuple[tuple[int, ...], ...]
    keys: tuple[str, ...]  # raw words in hexadecimal


class Raised(NamedTuple):
    """What the evaluator raised for a trial, in words."""

    text: str


class Answer(NamedTuple):
    """What trials came to, in the order of their order."""

    fingerprint: str
    ids: tuple[int, ...]
    outcomes: tuple[Outcome | Raised, ...]
    started: float  # Unix seconds


class Worker:
    """Evaluates trials of one experiment. Methods are called from the driver.

    Args:
      task: the experiment.
      cores: CPU cores that it reserved; as many devices where it computes with them.
    """

    def __init__(self, task: ClusterTask, cores: float):
        self._task, self._cores = task, cores
        self._fingerprint = ""
        self._experiment: Experiment | None = None
        self._building, self._preparing = threading.Lock(), threading.Lock()

    def introduce(self) -> Hello:
        """Says what it is, before anything is built."""
        import jax

        config: Any = jax.config
        if config.jax_num_cpu_devices == -1 and "device_count" not in os.environ.get("XLA_FLAGS", ""):
            config.update("jax_num_cpu_devices", max(1, int(self._cores)))
        self._fingerprint = tasks.experiment_fingerprint(self._task.source, self._task.config)
        name = f"{socket.gethostname()}/{os.getpid()}"
        return Hello(self._fingerprint, name, software.versions(), jax.local_device_count())

    def build(self) -> None:
        """Builds the experiment, with what its evaluator loads at that."""
        self._built()

    def begin(self) -> int:
        """Does what comes first in a preparation, and says how many parts remain; those others may do."""
        from lanas_jax.evaluators.base import PreparedInParts

        evaluator = self._built().evaluator
        if isinstance(evaluator, PreparedInParts):
            return evaluator.begin(Path(self._task.directory), _log)
        self._prepared()
        return 0

    def prepare_part(self, part: int) -> None:
        """Does one part of a preparation, while other workers do others; `begin` has been called by one of them."""
        from lanas_jax.evaluators.base import PreparedInParts

        evaluator, directory = self._built().evaluator, Path(self._task.directory)
        if not isinstance(evaluator, PreparedInParts):
            raise ValueError(f"{type(evaluator).__name__} is not prepared in parts")
        evaluator.begin(directory, _log)  # reads what is there
        evaluator.part(part, directory, _log)

    def evaluate(self, order: Order) -> Answer:
        """Evaluates trials; an error of the evaluator becomes words, and hits only who causes it."""
        import numpy as np

        from lanas_jax.evaluators.faults import describe_error, outcomes_or_errors
        from lanas_jax.study.replay import keys_of_words

        evaluator = self._prepared()
        started = time.time()
        found = outcomes_or_errors(evaluator, np.array(order.codes, np.int32), keys_of_words(order.keys))
        outcomes = tuple(Raised(describe_error(one)) if isinstance(one, Exception) else one for one in found)
        return Answer(self._fingerprint, order.ids, outcomes, started)

    def retrain(self, code: Sequence[int]) -> "tuple[Winner, dict[str, bytes]]":
        """The experiment's finale, and the files that it wrote."""
        import numpy as np

        from lanas_jax.study import loop

        folder = Path(tempfile.mkdtemp())
        try:
            final = loop.train_winner(self._built(), np.array(code, np.int32), folder / "winner")
            files = [path for path in (folder / "winner").rglob("*") if path.is_file()]
            return final, {str(path.relative_to(folder / "winner")): path.read_bytes() for path in files}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _prepared(self) -> "Evaluator":
        """The evaluator, after it has read what was prepared, or done what was not."""
        from lanas_jax.evaluators.base import Prepared

        evaluator = self._built().evaluator
        if isinstance(evaluator, Prepared):
            with self._preparing:
                evaluator.prepare(Path(self._task.directory), _log)
        return evaluator

    def _built(self) -> "Experiment":
        with self._building:
            if self._experiment is None:
                import sys

                from lanas_jax.runtime import compile_cache

                compile_cache.enable_compile_cache(lambda text: print(f"lanas: {text}", file=sys.stderr))
                self._experiment = self._task.experiment()
            return self._experiment


def _log(text: str) -> None:
    """Into the worker's log."""
    print(text, flush=True)
