"""The worker process: builds the experiment once, then evaluates trials until it is stopped.

Data and compiled programs stay in memory between trials. JAX opens devices only here, when a worker introduces itself,
because a TPU belongs to the first process that opens it. Before that, a worker confines itself to the TPU chips of its
host: a host of a slice would otherwise wait for all others, and a lost worker could not come back alone. Every answer
to the driver carries the fingerprint of the code that produced it.
"""

import os
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
from lanas_jax.runtime.one_host import confine_to_host
from lanas_jax.storage import software

if TYPE_CHECKING:
    from lanas_jax.evaluators.base import Evaluator
    from lanas_jax.study import Experiment


class Hello(NamedTuple):
    """The self-description of a worker."""

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
    """The exception that the evaluator raised for a trial, as text."""

    text: str
    malformed: bool = False  # True if the evaluator returned a malformed outcome instead of raising


class Answer(NamedTuple):
    """The outcomes of the trials of an `Order`, in the same order."""

    fingerprint: str
    ids: tuple[int, ...]
    outcomes: tuple[Outcome | Raised, ...]
    started: float  # Unix seconds


class Worker:
    """Evaluates trials of one experiment. Methods are called from the driver.

    Args:
      task: experiment to evaluate.
      cores: number of reserved CPU cores; a CPU worker has as many JAX devices.
    """

    def __init__(self, task: ClusterTask, cores: float):
        self._task, self._cores = task, cores
        self._fingerprint = ""
        self._experiment: Experiment | None = None
        self._building, self._preparing = threading.Lock(), threading.Lock()

    def introduce(self) -> Hello:
        """Returns the worker's description, before it builds the experiment.

        Raises:
          ValueError: the TPU chips of this host are of an unknown arrangement, or JAX has joined other processes.
        """
        confine_to_host(os.environ)
        import jax

        config: Any = jax.config
        if config.jax_num_cpu_devices == -1 and "device_count" not in os.environ.get("XLA_FLAGS", ""):
            config.update("jax_num_cpu_devices", max(1, int(self._cores)))
        if jax.process_count() > 1:  # each evaluation would wait for the others, which evaluate other trials
            raise ValueError(
                f"JAX has joined {jax.process_count()} processes, so this worker would wait for the others: expected a "
                f"process alone; for one search on all of them: lanas search with --hosts.automatic, without --cluster"
            )
        self._fingerprint = tasks.experiment_fingerprint(self._task.source, self._task.config)
        name = f"{socket.gethostname()}/{os.getpid()}"
        return Hello(self._fingerprint, name, software.versions(), jax.local_device_count())

    def build(self) -> None:
        """Builds the experiment, including the data that its evaluator loads."""
        self._built()

    def begin(self) -> int:
        """Runs the common part of a preparation; returns the number of remaining parts, which workers can share."""
        from lanas_jax.evaluators.base import PreparedInParts

        evaluator = self._built().evaluator
        if isinstance(evaluator, PreparedInParts):
            return evaluator.begin(Path(self._task.directory), _log)
        self._prepared()
        return 0

    def prepare_part(self, part: int) -> None:
        """Runs one part of a preparation, concurrently with other workers; one of them must have called `begin`."""
        from lanas_jax.evaluators.base import PreparedInParts

        evaluator, directory = self._built().evaluator, Path(self._task.directory)
        if not isinstance(evaluator, PreparedInParts):
            raise ValueError(f"{type(evaluator).__name__} has no preparation in parts: expected a PreparedInParts")
        evaluator.begin(directory, _log)  # loads the common part that another worker prepared
        evaluator.part(part, directory, _log)

    def evaluate(self, order: Order) -> Answer:
        """Evaluates trials; an error of the evaluator becomes text and affects only the trial that caused it.

        Raises:
          EvaluatorExitError: the evaluator called ``sys.exit``, which would end this process.
        """
        import numpy as np

        from lanas_jax.evaluators.faults import MalformedOutcomeError, describe_error, outcomes_or_errors
        from lanas_jax.study.replay import keys_of_words

        evaluator = self._prepared()
        started = time.time()
        found = outcomes_or_errors(evaluator, np.array(order.codes, np.int32), keys_of_words(order.keys))
        outcomes = tuple(
            Raised(describe_error(one), isinstance(one, MalformedOutcomeError)) if isinstance(one, Exception) else one
            for one in found
        )
        return Answer(self._fingerprint, order.ids, outcomes, started)

    def train_winner(self, code: Sequence[int]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Trains the winner, in the run's folder if this node shares it.

        Returns:
          The result of the training, and, if this node does not share the run's folder, the training's files by name.
        """
        import numpy as np

        from lanas_jax.evaluators.faults import EvaluatorExitError, describe_error
        from lanas_jax.study import run_folder, winner
        from lanas_jax.trainer.loop import SilentTraining

        experiment, run = self._built(), Path(self._task.directory)
        shared = run_folder.run_exists(run)
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary) / "experiment.py"
            source.write_text(self._task.source, encoding="utf-8")
            started = None if self._task.working_folder is None else Path(self._task.working_folder)
            original = Path(self._task.original)
            origin = winner.origin_of(experiment, source, original, started, run if shared else None)
            directory = (run if shared else Path(temporary)) / run_folder.FINAL
            try:
                found = winner.train_winner(experiment, np.array(code, np.int32), directory, origin, SilentTraining())
            except SystemExit as error:  # would end this process without a message
                raise EvaluatorExitError(f"the winner training called {describe_error(error)}") from error
            files = [] if shared else [path for path in directory.rglob("*") if path.is_file()]
            return found, {str(path.relative_to(directory)): path.read_bytes() for path in files}

    def _prepared(self) -> "Evaluator":
        """Returns the evaluator, prepared; reads an existing preparation or runs it."""
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
                if self._task.working_folder is not None and os.path.isdir(self._task.working_folder):
                    os.chdir(self._task.working_folder)  # permanent, since the evaluator may read files at any time
                self._experiment = self._task.experiment()
            return self._experiment


def _log(text: str) -> None:
    """Prints to the worker's log."""
    print(text, flush=True)
