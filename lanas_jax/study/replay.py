"""The search log: the asks and tells of a search in order, which determine the searcher's state.

Each event is written to the trial store before anything depends on it. Resuming replays the same events: the codes that
the searcher proposes are compared with the recorded ones, recorded outcomes are passed to `tell` without any
evaluation, and a checkpoint only skips a prefix of the replay. Keys depend only on seed and trial number, so a resumed
search continues as if it had not been interrupted. This holds for whole batches, evaluated in this process, and for
single trials that finish in any order on the workers of a cluster.

Events that other software versions recorded, and that the user accepted, are *inherited*: where the searcher now
proposes other codes than the recorded ones, its answer is dropped, and it learns only the values.
"""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Int, Key, PRNGKeyArray

from lanas_jax.evaluators.base import Outcome
from lanas_jax.runtime.arithmetic import nan_is_data, transfers_allowed
from lanas_jax.storage import software
from lanas_jax.storage.checkpoints import Checkpoints
from lanas_jax.storage.trial import Trial
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study.objectives import values_to_tell, with_all_objectives

if TYPE_CHECKING:
    from lanas_jax.study.experiment import Experiment

SEARCHER_STREAM = 2**31 - 1  # folded into the seed for the searcher; trials fold in their number, which is smaller
GROUPING = 0.25  # seconds for which asks and tells of a cluster are buffered before they are written to disk together
SAVING_SHARE = 0.05  # maximum share of time spent on checkpoints: replaying fast trials beats saving each event

_fold_in = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))
Keys = Key[Array, " n"]
Event = tuple[str, list[Trial]]


class StudyError(Exception):
    """Raised when a study cannot continue."""


class SearchLog:
    """The asks and tells of a search, and the searcher's state after them.

    Args:
      experiment: experiment that defines the search space and the searcher.
      store: trial store with the events so far; receives new events.
      checkpoints: checkpoints of the searcher's state, numbered by events.
      inherited: number of first events that other software versions may have recorded.

    Attributes:
      pending: trials that were asked for and have no outcome yet, in the order asked. After an interruption they must
        be evaluated first.
      asked: number of trials asked for so far.
      exhausted: True if the space has no more codes.

    Raises:
      StudyError: the searcher now proposes trials other than those recorded.
    """

    def __init__(self, experiment: "Experiment", store: TrialStore, checkpoints: Checkpoints, inherited: int = 0):
        self._experiment, self._store, self._checkpoints = experiment, store, checkpoints
        self._inherited = inherited
        self._unknown: set[int] = set()  # pending trials that the searcher did not propose and might propose again
        self._state: Any = experiment.searcher.init(stream_key(experiment.seed, SEARCHER_STREAM))
        self._digest = _Digest(inherited)
        self._events, self._asks = 0, 0
        self._seconds, self._saved_at = 0.0, -math.inf
        self.pending: list[Trial] = []
        self.asked, self.exhausted = 0, False
        self._replay()

    @property
    def over(self) -> bool:
        """True if the search will ask for no more trials."""
        return self.exhausted or self.asked >= self._experiment.budget

    def ask(self, n: int | None = None) -> list[Trial]:
        """Returns the next trials, now pending; an empty list if the budget is used or the space is exhausted.

        The list is also empty while inherited trials that the searcher did not propose are pending.

        Args:
          n: number of trials, reduced to the remaining budget; default: the batch size of the experiment.
        """
        n = min(self._experiment.batch if n is None else n, self._experiment.budget - self.asked)
        if self.exhausted or n < 1 or self._unknown:
            return []
        codes = self._ask(n)
        if not len(codes):
            self.exhausted = True
            return []
        keys = hexadecimal(trial_keys(self._experiment.seed, range(self.asked, self.asked + len(codes))))
        batch = self._store.add_pending(self._asks, codes.tolist(), keys, software.versions(), wanted=n)
        self._count(("ask", batch))
        return batch

    def tell(self, trials: Sequence[Trial], outcomes: Sequence[Outcome], started: float, **how: Any) -> list[Trial]:
        """Records the outcomes of pending trials and passes them to the searcher's `tell`.

        Args:
          trials: pending trials, in ascending order.
          outcomes: outcomes, one per trial.
          started: start of the evaluation, Unix seconds.
          **how: details of the evaluation: `software`, `tries` and `worker` of `TrialStore.finish`.

        Returns:
          The finished trials.

        Raises:
          ValueError: as in `TrialStore.finish`.
        """
        how = {"software": software.versions()} | how
        codes = np.array([trial.code for trial in trials], np.int32)
        outcomes = with_all_objectives(outcomes, codes, self._experiment.objectives, self._experiment.space)
        finished = self._store.finish([trial.id for trial in trials], outcomes, started=started, **how)
        self._tell(finished)
        self._count(("tell", finished))
        self._save()
        return finished

    @contextlib.contextmanager
    def grouped(self) -> Iterator[None]:
        """Buffers asks and tells inside this context and writes them to disk in groups.

        A killed process loses its latest group. Resuming repeats the lost asks and evaluates the lost trials again.
        """
        with self._store.grouped(GROUPING):
            yield

    def flush(self) -> None:
        """Writes the buffered asks and tells to disk if they are old enough; call it regularly inside `grouped`."""
        self._store.flush()

    def _ask(self, n: int) -> Int[np.ndarray, "n dims"]:
        """Asks the searcher and drops the empty rows of its answer."""
        self._state, answer = self._experiment.searcher.ask(self._state, n)
        codes = np.asarray(answer, np.int32)
        return codes[(codes >= 0).all(axis=1)]

    @transfers_allowed
    @nan_is_data
    def _tell(self, trials: Sequence[Trial]) -> None:
        codes = jax.device_put(np.array([trial.code for trial in trials], np.int32))
        values = jax.device_put(values_to_tell(trials, self._experiment.objectives))
        self._state = self._experiment.searcher.tell(self._state, codes, values)

    def _count(self, event: Event) -> None:
        """Updates the counters and `pending` for an event that is already part of the searcher's state."""
        kind, trials = event
        if kind == "ask":
            self.pending += trials
            self.asked, self._asks = self.asked + len(trials), self._asks + 1
        else:
            ids = {trial.id for trial in trials}
            self.pending = [trial for trial in self.pending if trial.id not in ids]
            self._unknown -= ids
        self._digest.add(event)
        self._events += 1

    def _replay(self) -> None:
        """Replays the recorded events, starting from the newest matching checkpoint."""
        events = _events(self._store.trials())
        restored = self._checkpoints.restore(self._state, _digests(events, self._inherited))
        if restored is not None:
            self._state = restored.state
        for number, event in enumerate(events):
            if restored is None or number >= restored.number:
                self._again(event, inherited=number < self._inherited)
            self._count(event)

    def _again(self, event: Event, *, inherited: bool) -> None:
        kind, trials = event
        if kind == "tell":
            self._tell(trials)
            return
        before = self._state
        codes = self._ask(trials[0].wanted)
        if inherited and [trial.code for trial in trials] != [tuple(code) for code in codes.tolist()]:
            self._state = before
            self._unknown |= {trial.id for trial in trials}
            return
        keys = hexadecimal(trial_keys(self._experiment.seed, range(self.asked, self.asked + len(codes))))
        _check_recorded(trials, codes, keys)

    def _save(self) -> None:
        """Saves a checkpoint, less often if trials are fast; always saves the last one."""
        last = not self.pending and self.over
        began = time.perf_counter()
        if not last and self._seconds > SAVING_SHARE * (began - self._saved_at):
            return
        self._store.flush(now=True)  # a checkpoint of events missing from the store would be useless
        try:
            self._checkpoints.save(self._events, self._state, self._digest.text)
        except Exception as error:  # orbax raises exceptions of many types
            raise StudyError(f"the searcher's state cannot be saved: {str(error).splitlines()[0]}") from error
        self._saved_at = time.perf_counter()
        self._seconds = self._saved_at - began


@transfers_allowed
def stream_key(seed: int, stream: int) -> PRNGKeyArray:
    """Returns the key of a trial or of the searcher."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(stream))


@transfers_allowed
def trial_keys(seed: int, ids: Sequence[int]) -> Keys:
    """Returns one key per trial, the trial number folded into the seed's key; ``key[n]``."""
    return _fold_in(jax.random.key(seed), np.asarray(ids, np.uint32))


def keys_of(trials: Sequence[Trial]) -> Keys:
    """Returns the recorded keys of trials; ``key[n]``."""
    return keys_of_words([trial.key for trial in trials])


@transfers_allowed
def keys_of_words(texts: Sequence[str]) -> Keys:
    """Returns keys from their raw words in hexadecimal, the inverse of `hexadecimal`; ``key[n]``."""
    words = [[int(text[i : i + 8], 16) for i in range(0, len(text), 8)] for text in texts]
    return jax.random.wrap_key_data(jax.device_put(np.array(words, np.uint32)))


@transfers_allowed
def hexadecimal(keys: Keys) -> list[str]:
    """Returns the raw words of each key as hexadecimal text."""
    return ["".join(f"{word:08x}" for word in words) for words in np.asarray(jax.random.key_data(keys)).tolist()]


def _events(trials: Iterable[Trial]) -> list[Event]:
    """Returns asks and tells in their original order, each with its trials."""
    found: dict[int, Event] = {}
    for trial in trials:
        found.setdefault(trial.asked, ("ask", []))[1].append(trial)
        if trial.told is not None:
            found.setdefault(trial.told, ("tell", []))[1].append(trial)
    return [found[number] for number in sorted(found)]


def _digests(events: Sequence[Event], inherited: int) -> Mapping[int, str]:
    """Returns the digest of the first n events, for every n from 1; `inherited` as in `SearchLog`."""
    digest, digests = _Digest(inherited), dict[int, str]()
    for number, event in enumerate(events, start=1):
        digest.add(event)
        digests[number] = digest.text
    return digests


class _Digest:
    """SHA-256 digest of events in order. Accepting other versions changes it, so older checkpoints no longer match."""

    def __init__(self, inherited: int) -> None:
        self._sum = hashlib.sha256(f"inherited {inherited}".encode() if inherited else b"")

    def add(self, event: Event) -> None:
        kind, trials = event
        said = [[trial.id, trial.code, trial.value if kind == "tell" else None] for trial in trials]
        self._sum.update(json.dumps([kind, said]).encode())

    @property
    def text(self) -> str:
        return self._sum.hexdigest()


def _check_recorded(batch: Sequence[Trial], codes: Int[np.ndarray, "n dims"], keys: Sequence[str]) -> None:
    """Raises `StudyError` if the searcher proposes trials other than those recorded."""
    recorded = [(trial.code, trial.key) for trial in batch]
    if recorded == [(tuple(code), key) for code, key in zip(codes.tolist(), keys, strict=True)]:
        return
    changed = software.differences(dict(batch[0].software)) or "the same versions, so the searcher or space changed"
    raise StudyError(
        f"cannot resume: the recorded trials of batch {batch[0].batch} differ from those the searcher now proposes "
        f"({changed}). To continue this run, use the versions, searcher and space it was started with"
    )
