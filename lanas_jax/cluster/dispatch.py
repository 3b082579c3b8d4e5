"""Dispatches trials to workers and collects their outcomes.

A free worker gets the next trial at once: a pending trial of an interrupted run, or a new one that the searcher
proposes from all outcomes so far, counting pending trials as visits. The searcher receives each outcome as soon as its
trial finishes. The store records that order, so that a resumed run replays it and continues identically.

A trial whose worker is lost goes to another worker with the same key, up to a maximum number of tries. A trial past its
time limit is cancelled by stopping its worker. Such trials count as failed, with the reason.
"""

import time
from collections import Counter, deque
from collections.abc import Sequence

from lanas_jax.cluster.connection import ClusterError
from lanas_jax.cluster.settings import ClusterSettings
from lanas_jax.cluster.worker import Answer, Order, Raised
from lanas_jax.cluster.workforce import Done, Event, Lost, Overdue, WorkerHandle, Workforce
from lanas_jax.evaluators.base import NotPreparedError, Outcome
from lanas_jax.evaluators.faults import (
    BrokenEvaluatorError,
    EvaluatorExitError,
    Failures,
    MalformedOutcomeError,
    RemoteError,
)
from lanas_jax.storage.trial import Trial
from lanas_jax.study import StudyError
from lanas_jax.study.experiment import StudyProgress
from lanas_jax.study.replay import SearchLog


class Dispatch:
    """Runs a search to its end on workers.

    Args:
      search_log: search log of the study.
      workforce: workers of the search.
      settings: number of tries, number of trials per worker, and time limit.
      progress: receiver of progress messages.
    """

    def __init__(self, search_log: SearchLog, workforce: Workforce, settings: ClusterSettings, progress: StudyProgress):
        self._search_log, self._workforce, self._settings, self._progress = search_log, workforce, settings, progress
        self._waiting = deque(search_log.pending)
        self._out: dict[int, Trial] = {}
        self._tries: Counter[int] = Counter()
        self._failures = Failures()
        self.seconds = 0.0  # time spent working in the driver, without waiting for workers

    def run(self) -> None:
        """Dispatches trials and records outcomes until the search is over.

        Raises:
          StudyError: the evaluator fails on every trial or calls ``sys.exit``, or no worker can be used.
        """
        try:
            with self._search_log.grouped():
                while self._hand_out():
                    for event in self._workforce.events():
                        self._timed(event)
        except (ClusterError, NotPreparedError, BrokenEvaluatorError, EvaluatorExitError) as error:
            raise StudyError(str(error)) from error

    def _timed(self, event: Event) -> None:
        began = time.perf_counter()
        self._take(event)
        self.seconds += time.perf_counter() - began

    def _hand_out(self) -> bool:
        """Gives trials to every free worker; returns whether any trial is unfinished or still to be asked for."""
        began = time.perf_counter()
        for handle in self._workforce.free:
            if not (trials := self._next(handle.devices * self._settings.per_device)):
                break
            self._give(handle, trials)
        self._search_log.flush()
        self.seconds += time.perf_counter() - began
        return bool(self._out or self._waiting or not self._search_log.over)

    def _next(self, n: int) -> list[Trial]:
        """Returns up to `n` trials. Each ask is for one trial, so its shape does not depend on the free workers."""
        trials: list[Trial] = []
        while len(trials) < n and (more := [self._waiting.popleft()] if self._waiting else self._search_log.ask(1)):
            trials += more
        return trials

    def _give(self, handle: WorkerHandle, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._out[trial.id] = trial
            self._tries[trial.id] += 1
        self._progress.asked(trials)
        ids, codes, keys = zip(*((trial.id, trial.code, trial.key) for trial in trials), strict=True)
        self._workforce.give(handle, "evaluate", Order(ids, codes, keys))

    def _take(self, event: Event) -> None:
        if isinstance(event, Done):
            self._answered(event.handle, event.said)
        elif isinstance(event, Overdue):
            why = f"past its time limit of {self._settings.seconds:g} s on {event.name}: cancelled"
            self._fail(event.order.ids, why, event.name, event.seconds)
        else:
            self._lost(event)

    def _answered(self, handle: WorkerHandle, answer: Answer) -> None:
        found = [
            (MalformedOutcomeError if one.malformed else RemoteError)(one.text) if isinstance(one, Raised) else one
            for one in answer.outcomes
        ]
        try:
            outcomes = self._failures.judged(found)
        except BrokenEvaluatorError as error:
            raise StudyError(str(error)) from error
        for number, outcome in zip(answer.ids, outcomes, strict=True):
            self._tell(number, outcome, answer.started, software=handle.software, worker=handle.name)

    def _lost(self, event: Lost) -> None:
        """Puts the trials of a lost worker at the front of the queue, except those without tries left."""
        trials = [self._out.pop(number) for job in event.jobs for number in job.argument.ids]
        again = [trial for trial in trials if self._tries[trial.id] < self._settings.tries]
        what = f"; {len(again)} trials go to another worker" if again else ""
        self._progress.note(f"worker {event.name} is gone ({event.why}){what}")
        self._waiting.extendleft(reversed(again))
        for trial in trials:
            if trial not in again:
                self._out[trial.id] = trial
                why = f"its worker was lost in each of {self._settings.tries} tries, the last time: {event.why}"
                self._fail([trial.id], why, event.name)

    def _fail(self, numbers: Sequence[int], why: str, worker: str, seconds: float = 0.0) -> None:
        for number in numbers:
            self._tell(number, Outcome(None, why), time.time() - seconds, worker=worker)

    def _tell(self, number: int, outcome: Outcome, started: float, **how: object) -> None:
        trial = self._out.pop(number)
        how = {"tries": self._tries.pop(number)} | how
        self._progress.finished(self._search_log.tell([trial], [outcome], started, **how))
