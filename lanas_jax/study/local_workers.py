"""Trials evaluated one at a time, or several at a time in threads of this process.

`ThisProcess` passes whole batches to an evaluator, which trains them in one program. Here every trial is a call of its
own, as suits an evaluator that calls a Python function. Threads run at the same time where the function waits for a
device, a file or another process, or computes outside the interpreter, as JAX and NumPy do.
"""

import atexit
import dataclasses
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lanas_jax.evaluators.base import NotPreparedError, Outcome
from lanas_jax.evaluators.faults import BrokenEvaluatorError, EvaluatorExitError, Failures, outcomes_or_errors
from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.storage.trial import Trial
from lanas_jax.study.experiment import Experiment, StudyProgress
from lanas_jax.study.loop import ThisProcess
from lanas_jax.study.replay import SearchLog, StudyError, keys_of
from lanas_jax.study.run_folder import Run
from lanas_jax.trainer.loop import TrainingProgress

_STOPPING = (BrokenEvaluatorError, EvaluatorExitError, NotPreparedError)  # errors that end a search at once


@dataclasses.dataclass(frozen=True)
class LocalWorkers:
    """Evaluates trials in this process, each alone; a `lanas_jax.study.loop.Workers`.

    With batches of one trial, a worker that finishes gets the next trial at once: the searcher has received all results
    so far, and counts running trials as visits. The trials then depend on the order in which calls finish, which is
    recorded. Larger batches are evaluated to the end and told together, so that the trials depend on the seed alone.

    If a search stops early, calls that are running in threads continue without effect. The end of the process waits for
    them on Python older than 3.14, which would end threads in C++ code of JAX, and so abort the process
    (https://github.com/python/cpython/issues/87135).

    Attributes:
      experiment: experiment that defines the evaluator and the batch.
      workers: number of trials evaluated at a time; one is evaluated in the calling thread.

    Raises:
      ValueError: the number is not an integer or is below 1.
    """

    experiment: Experiment
    workers: int = 1

    def __post_init__(self) -> None:
        set_whole_numbers(self, workers=1)

    def prepare(self, directory: Path, progress: StudyProgress) -> None:
        """See `lanas_jax.study.loop.Workers`."""
        ThisProcess(self.experiment).prepare(directory, progress)

    def train_winner(self, code: Int[np.ndarray, " dims"], here: Run, progress: TrainingProgress) -> None:
        """See `lanas_jax.study.loop.Workers`."""
        ThisProcess(self.experiment).train_winner(code, here, progress)

    def search(self, search_log: SearchLog, progress: StudyProgress) -> None:
        """See `lanas_jax.study.loop.Workers`."""
        try:
            if self.workers > 1 and self.experiment.batch == 1:
                self._search_continuously(search_log, progress)
            else:
                self._search_in_batches(search_log, progress)
        except _STOPPING as error:
            raise StudyError(str(error)) from error.__cause__

    def _search_in_batches(self, search_log: SearchLog, progress: StudyProgress) -> None:
        failures = Failures()
        while batch := search_log.pending or search_log.ask():
            progress.asked(batch)
            started, waiting = time.time(), deque(batch)
            found: dict[int, Outcome | Exception] = {}
            with _Calls(self.experiment, self.workers) as calls:
                while len(found) < len(batch):
                    while waiting and calls.running < self.workers:
                        calls.start(waiting.popleft())
                    trial, _, answer = calls.wait()
                    found[trial.id] = answer
            outcomes = failures.judged([found[trial.id] for trial in batch])
            progress.finished(search_log.tell(batch, outcomes, started))

    def _search_continuously(self, search_log: SearchLog, progress: StudyProgress) -> None:
        failures, waiting = Failures(), deque(search_log.pending)
        with _Calls(self.experiment, self.workers) as calls:
            while True:
                while calls.running < self.workers and (trials := _next(waiting, search_log)):
                    progress.asked(trials)
                    calls.start(trials[0])
                if not calls.running:
                    return
                trial, started, answer = calls.wait()
                progress.finished(search_log.tell([trial], failures.judged([answer]), started))


def _next(waiting: deque[Trial], search_log: SearchLog) -> Sequence[Trial]:
    """Returns a pending trial of an interrupted run, or else a new one; empty if there is none."""
    return [waiting.popleft()] if waiting else search_log.ask(1)


class _Calls:
    """Evaluations under way: each in a thread of its own, or in the calling thread if there is one worker."""

    def __init__(self, experiment: Experiment, workers: int):
        self._evaluator, self._inline = experiment.evaluator, workers == 1
        self._answers: queue.SimpleQueue[tuple[Trial, float, Outcome | BaseException]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.running = 0

    def __enter__(self) -> "_Calls":
        return self

    def __exit__(self, *error: object) -> None:
        if self.running and sys.version_info < (3, 14):
            atexit.register(_wait_at_exit, self._threads)

    def start(self, trial: Trial) -> None:
        self.running += 1
        if self._inline:
            self._evaluate(trial)
        else:  # daemon: at exit, only _wait_at_exit waits for it, and a second Ctrl-C ends that
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(threading.Thread(target=self._evaluate, args=(trial,), daemon=True))
            self._threads[-1].start()

    def wait(self) -> tuple[Trial, float, Outcome | Exception]:
        """Returns the next finished trial, its start in Unix seconds, and its outcome or error.

        Raises:
          BrokenEvaluatorError, EvaluatorExitError, NotPreparedError: the search cannot continue.
          KeyboardInterrupt: the evaluator raised it.
        """
        trial, started, answer = self._answers.get()
        self.running -= 1
        if isinstance(answer, _STOPPING) or not isinstance(answer, Outcome | Exception):
            raise answer
        return trial, started, answer

    def _evaluate(self, trial: Trial) -> None:
        started = time.time()
        try:
            codes = np.array([trial.code], np.int32)
            answer: Outcome | BaseException
            (answer,) = outcomes_or_errors(self._evaluator, codes, keys_of([trial]))
        except BaseException as error:  # in a thread, it would otherwise be printed and lost
            answer = error
        self._answers.put((trial, started, answer))


def _wait_at_exit(threads: Sequence[threading.Thread]) -> None:
    """Waits for threads before the interpreter ends; Ctrl-C ends the process at once, without finalization."""
    running = [thread for thread in threads if thread.is_alive()]
    if not running:
        return
    print(f"waiting for running calls of the objective ({len(running)}); Ctrl-C ends them", file=sys.stderr)
    try:
        for thread in running:
            thread.join()
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(130)
