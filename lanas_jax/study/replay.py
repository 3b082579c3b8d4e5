"""The course of a search: its asks and tells in order, which make the searcher's state what it is.

Each event is in the trial store before anything follows from it. To resume is to walk the same events again: the asked
codes are compared with the recorded ones, recorded outcomes are told without evaluating anything, and a checkpoint only
shortens the walk. Since keys depend on seed and trial number alone, what follows is what would have followed without
the interruption. It makes no difference whether whole batches come back, as from this process, or single trials in any
order, as from the workers of a cluster.
"""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from lanas_jax.evaluators.base import Outcome
from lanas_jax.storage import software
from lanas_jax.storage.checkpoints import Checkpoints
from lanas_jax.storage.trials import Trial, TrialStore

if TYPE_CHECKING:
    from lanas_jax.study.experiment import Experiment

SEARCHER_STREAM = 2**31 - 1  # folded into the seed for the searcher; trials fold in their number, which is smaller
FINALE_STREAM = 2**31 - 2  # the same for the finale
GROUPING = 0.25  # seconds in which asks and tells of a cluster wait for others on their way to the disk
SAVING_SHARE = 0.05  # of the time may go into checkpoints: replaying quick trials is quicker than saving each event

_fold_in = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))
Keys = Key[Array, " n"]
Event = tuple[str, list[Trial]]


class StudyError(Exception):
    """A study that cannot go on."""


class SearchLog:
    """Where a search stands.

    Args:
      experiment: what is searched, and by which searcher.
      store: holds the events so far, and takes those to come.
      checkpoints: of the searcher's state; numbered by events.

    Attributes:
      pending: asked and not told, in the order asked. After an interruption these have to be evaluated first.
      asked: trials so far.
      exhausted: whether the space has no further codes.

    Raises:
      StudyError: the recorded trials are not those that this software asks for.
    """

    def __init__(self, experiment: "Experiment", store: TrialStore, checkpoints: Checkpoints):
        self._experiment, self._store, self._checkpoints = experiment, store, checkpoints
        self._state: Any = experiment.searcher.init(stream_key(experiment.seed, SEARCHER_STREAM))
        self._digest = _Digest()
        self._events, self._asks = 0, 0
        self._seconds, self._saved_at = 0.0, -math.inf
        self.pending: list[Trial] = []
        self.asked, self.exhausted = 0, False
        self._replay()

    @property
    def over(self) -> bool:
        """Whether no further trials will be asked for."""
        return self.exhausted or self.asked >= self._experiment.budget

    def ask(self, n: int | None = None) -> list[Trial]:
        """The next trials, which are pending now; none where the budget is used up or the space exhausted.

        Args:
          n: how many, at most those that are left of the budget; default: a batch of the experiment.
        """
        n = min(self._experiment.batch if n is None else n, self._experiment.budget - self.asked)
        if self.exhausted or n < 1:
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
        """Writes outcomes of pending trials down, and tells the searcher of them.

        Args:
          trials: in ascending order.
          outcomes: one each.
          started: when their evaluation began, Unix seconds.
          **how: they were evaluated: `software`, `tries` and `worker` of `TrialStore.finish`.

        Returns:
          The finished trials.

        Raises:
          ValueError: as `TrialStore.finish`.
        """
        how = {"software": software.versions()} | how
        finished = self._store.finish([trial.id for trial in trials], outcomes, started=started, **how)
        self._tell(finished)
        self._count(("tell", finished))
        self._save()
        return finished

    @contextlib.contextmanager
    def grouped(self) -> Iterator[None]:
        """Within it, asks and tells reach the disk in groups; the latest can be lost with the process, as any may.

        They are then walked into again: lost asks are asked for anew, and lost outcomes are evaluated anew.
        """
        with self._store.grouped(GROUPING):
            yield

    def flush(self) -> None:
        """Brings asks and tells to the disk whose time has come; called now and then, within `grouped`."""
        self._store.flush()

    def _ask(self, n: int) -> Int[np.ndarray, "n dims"]:
        """The searcher's answer without its empty rows."""
        self._state, answer = self._experiment.searcher.ask(self._state, n)
        codes = np.asarray(answer, np.int32)
        return codes[(codes >= 0).all(axis=1)]

    def _tell(self, trials: Sequence[Trial]) -> None:
        codes = jnp.asarray([trial.code for trial in trials], jnp.int32)
        self._state = self._experiment.searcher.tell(self._state, codes, jnp.asarray(told(trials)))

    def _count(self, event: Event) -> None:
        """Moves on by an event that the state has been through."""
        kind, trials = event
        if kind == "ask":
            self.pending += trials
            self.asked, self._asks = self.asked + len(trials), self._asks + 1
        else:
            ids = {trial.id for trial in trials}
            self.pending = [trial for trial in self.pending if trial.id not in ids]
        self._digest.add(event)
        self._events += 1

    def _replay(self) -> None:
        """Walks the recorded events, from the newest checkpoint that fits them on."""
        events = _events(self._store.trials())
        restored = self._checkpoints.restore(self._state, _digests(events))
        if restored is not None:
            self._state = restored.state
        for number, event in enumerate(events):
            if restored is None or number >= restored.number:
                self._again(event)
            self._count(event)

    def _again(self, event: Event) -> None:
        kind, trials = event
        if kind == "tell":
            self._tell(trials)
            return
        codes = self._ask(trials[0].wanted)
        keys = hexadecimal(trial_keys(self._experiment.seed, range(self.asked, self.asked + len(codes))))
        _check_recorded(trials, codes, keys)

    def _save(self) -> None:
        """Saves a checkpoint, but seldom where trials are quick; the last in any case."""
        last = not self.pending and self.over
        began = time.perf_counter()
        if not last and self._seconds > SAVING_SHARE * (began - self._saved_at):
            return
        self._store.flush(now=True)  # a checkpoint of events that the store lacks would be of no use
        try:
            self._checkpoints.save(self._events, self._state, self._digest.text)
        except Exception as error:  # orbax raises what it pleases
            raise StudyError(f"the searcher's state cannot be saved: {str(error).splitlines()[0]}") from error
        self._saved_at = time.perf_counter()
        self._seconds = self._saved_at - began


def stream_key(seed: int, stream: int) -> PRNGKeyArray:
    """The key of a trial, of the searcher or of the finale."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(stream))


def trial_keys(seed: int, ids: Sequence[int]) -> Keys:
    """One key per trial, `fold_in` of seed and trial number, ``key[n]``."""
    return _fold_in(jax.random.key(seed), np.asarray(ids, np.uint32))


def keys_of(trials: Sequence[Trial]) -> Keys:
    """The recorded keys of trials, ``key[n]``."""
    return keys_of_words([trial.key for trial in trials])


def keys_of_words(texts: Sequence[str]) -> Keys:
    """Keys from their raw words in hexadecimal, ``key[n]``: what `hexadecimal` wrote."""
    words = [[int(text[i : i + 8], 16) for i in range(0, len(text), 8)] for text in texts]
    return jax.random.wrap_key_data(jnp.asarray(np.array(words, np.uint32)))


def hexadecimal(keys: Keys) -> list[str]:
    """The raw words of each key, as text."""
    return ["".join(f"{word:08x}" for word in words) for words in np.asarray(jax.random.key_data(keys)).tolist()]


def told(trials: Sequence[Trial]) -> Float[np.ndarray, " n"]:
    """What the searcher is told of finished trials, float32[n]: values, or NaN for failed ones."""
    return np.array([np.nan if trial.value is None else trial.value for trial in trials], np.float32)


def _events(trials: Iterable[Trial]) -> list[Event]:
    """Asks and tells, each with its trials, in the order in which they were."""
    found: dict[int, Event] = {}
    for trial in trials:
        found.setdefault(trial.asked, ("ask", []))[1].append(trial)
        if trial.told is not None:
            found.setdefault(trial.told, ("tell", []))[1].append(trial)
    return [found[number] for number in sorted(found)]


def _digests(events: Sequence[Event]) -> Mapping[int, str]:
    """By number of events, a digest of them in order."""
    digest, digests = _Digest(), dict[int, str]()
    for number, event in enumerate(events, start=1):
        digest.add(event)
        digests[number] = digest.text
    return digests


class _Digest:
    """Of events in order, SHA-256."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()

    def add(self, event: Event) -> None:
        kind, trials = event
        said = [[trial.id, trial.code, trial.value if kind == "tell" else None] for trial in trials]
        self._sum.update(json.dumps([kind, said]).encode())

    @property
    def text(self) -> str:
        return self._sum.hexdigest()


def _check_recorded(batch: Sequence[Trial], codes: Int[np.ndarray, "n dims"], keys: Sequence[str]) -> None:
    """Refuses to go on where the searcher asks for other trials than it did when the run was recorded."""
    recorded = [(trial.code, trial.key) for trial in batch]
    if recorded == [(tuple(code), key) for code, key in zip(codes.tolist(), keys, strict=True)]:
        return
    changed = software.differences(dict(batch[0].software)) or "the same versions, so searcher or space were changed"
    raise StudyError(
        f"batch {batch[0].batch} was recorded with other trials than are asked for now ({changed}). "
        f"To continue this run, use what it was begun with"
    )
