"""Which trial goes to which worker, and what becomes of it.

A free worker gets the next trial at once: one that is pending from before, or one that the searcher is asked for then
and there, which knows everything told so far and counts what is pending as visits. Trials are told one by one, as they
come back; the store records that order, so that a run is resumed, and replayed, to the same future.

A trial whose worker is lost goes to another one with the same key, up to a number of tries; one past its time limit is
cancelled with its worker. Both then are failed, with the reason.
"""

import time
from collections import Counter, deque
from collections.abc import Sequence

from lanas_jax.cluster.connection import ClusterError
from lanas_jax.cluster.settings import ClusterSettings
from lanas_jax.cluster.worker import Answer, Order, Raised
from lanas_jax.cluster.workforce import Done, Event, Lost, Overdue, WorkerHandle, Workforce
from lanas_jax.evaluators.base import NotPreparedError, Outcome
from lanas_jax.evaluators.faults import BrokenEvaluatorError, Failures, RemoteError
from lanas_jax.storage.trials import Trial
from lanas_jax.study import StudyError
from lanas_jax.study.experiment import StudyProgress
from lanas_jax.study.replay import SearchLog


class Dispatch:
    """Brings a search to its end.

    Args:
      course: where it stands.
      workforce: its workers.
      settings: tries, and trials handed out at a time.
      progress: is told how it gets on.
    """

    def __init__(self, course: SearchLog, workforce: Workforce, settings: ClusterSettings, progress: StudyProgress):
        self._course, self._workforce, self._settings, self._progress = course, workforce, settings, progress
        self._waiting = deque(course.pending)
        self._out: dict[int, Trial] = {}
        self._tries: Counter[int] = Counter()
        self._failures = Failures()
        self.seconds = 0.0  # that the driver was at work, waiting for workers left out

    def run(self) -> None:
        """Hands out trials and takes in outcomes until none is left.

        Raises:
          StudyError: the evaluator only raises, or no worker can be used.
        """
        try:
            with self._course.grouped():
                while self._hand_out():
                    for event in self._workforce.events():
                        self._timed(event)
        except (ClusterError, NotPreparedError) as error:
            raise StudyError(str(error)) from error

    def _timed(self, event: Event) -> None:
        began = time.perf_counter()
        self._take(event)
        self.seconds += time.perf_counter() - began

    def _hand_out(self) -> bool:
        """Gives every free worker something to do; whether anything is still to be done."""
        began = time.perf_counter()
        for hand in self._workforce.free:
            if not (trials := self._next(hand.devices * self._settings.per_device)):
                break
            self._give(hand, trials)
        self._course.flush()
        self.seconds += time.perf_counter() - began
        return bool(self._out or self._waiting or not self._course.over)

    def _next(self, n: int) -> list[Trial]:
        """Up to n trials. They are asked for one by one: each ask has the same shape, whatever workers are free."""
        trials: list[Trial] = []
        while len(trials) < n and (more := [self._waiting.popleft()] if self._waiting else self._course.ask(1)):
            trials += more
        return trials

    def _give(self, hand: WorkerHandle, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._out[trial.id] = trial
            self._tries[trial.id] += 1
        self._progress.asked(trials)
        ids, codes, keys = zip(*((trial.id, trial.code, trial.key) for trial in trials), strict=True)
        self._workforce.give(hand, "evaluate", Order(ids, codes, keys))

    def _take(self, event: Event) -> None:
        if isinstance(event, Done):
            self._answered(event.hand, event.said)
        elif isinstance(event, Overdue):
            why = f"past its time limit of {self._settings.seconds:g} s on {event.name}: cancelled"
            self._fail(event.order.ids, why, event.name, event.seconds)
        else:
            self._lost(event)

    def _answered(self, hand: WorkerHandle, answer: Answer) -> None:
        found = [RemoteError(one.text) if isinstance(one, Raised) else one for one in answer.outcomes]
        try:
            outcomes = self._failures.judged(found)
        except BrokenEvaluatorError as error:
            raise StudyError(str(error)) from error
        for number, outcome in zip(answer.ids, outcomes, strict=True):
            self._tell(number, outcome, answer.started, software=hand.software, worker=hand.name)

    def _lost(self, event: Lost) -> None:
        """Trials of a lost worker go to the front of the queue, unless they have had their tries."""
        trials = [self._out.pop(number) for job in event.jobs for number in job.argument.ids]
        again = [trial for trial in trials if self._tries[trial.id] < self._settings.tries]
        what = f"; {len(again)} trials go to another one" if again else ""
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
        self._progress.finished(self._course.tell([trial], [outcome], started, **how))
