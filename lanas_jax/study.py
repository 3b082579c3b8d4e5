"""The study: the loop that joins searcher, evaluator and trial store.

Ask, write the batch down as pending, evaluate, write the outcomes down, tell, checkpoint; at the end retrain the winner
once and write the report (algorithm 1 of arXiv 1906.06832 is the searcher's; the loop around it is this file's).

A run is resumed by walking the same loop again. Where the store has a batch's outcomes already, they are told without
evaluating anything, and the asked codes are compared with the recorded ones; a checkpoint only shortens the walk. Since
keys depend on seed and trial number alone, what follows is what would have followed without the interruption.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from lanas_jax import runs, software
from lanas_jax.checkpoints import Checkpoints
from lanas_jax.evaluators.base import Evaluator, NotPreparedError, Outcome, Prepared
from lanas_jax.runs import Run
from lanas_jax.searchers.base import Searcher
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.trials import Final, Status, Trial, TrialStore, best

SEARCHER_STREAM = 2**31 - 1  # folded into the seed for the searcher; trials fold in their number, which is smaller
FINALE_STREAM = 2**31 - 2  # the same for the finale
SAVING_SHARE = 0.05  # of the time may go into checkpoints: replaying quick trials is quicker than saving each batch
HOPELESS = 8  # trials in a row for which the evaluator raised, after which it counts as broken
RAISED = "the evaluator raised"

Keys = Key[Array, " n"]
Finale = Callable[[Int[np.ndarray, " dims"], PRNGKeyArray, Path], Final]


class StudyError(Exception):
    """A study that cannot go on."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A search, ready to run.

    Attributes:
      name: of the experiment.
      space: what is searched.
      searcher: proposes codes.
      evaluator: gives them values.
      budget: trials in all.
      batch: trials asked for at a time.
      seed: of everything random.
      finale: retrains the winner: its code, a key and a folder for its weights come in. None: no retraining.
    """

    name: str
    space: SearchSpace
    searcher: Searcher
    evaluator: Evaluator
    budget: int
    batch: int
    seed: int
    finale: Finale | None = None

    def __post_init__(self) -> None:
        for name in ("budget", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be 0 to 2**32 - 1; got {self.seed}")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a study came to.

    Attributes:
      directory: the run directory.
      trials: all of them, in the order asked.
      final: the retrained winner, or None where there is none.
      exhausted: whether the space ran out of codes before the budget did.
    """

    directory: Path
    trials: Sequence[Trial]
    final: Final | None
    exhausted: bool

    @property
    def best(self) -> Trial | None:
        """The trial of the highest value."""
        return best(self.trials)


@runtime_checkable
class Progress(Protocol):
    """Is told how a study gets on (`lanas_jax.progress` shows it)."""

    def began(self, budget: int, trials: Sequence[Trial]) -> None:
        """The loop begins, with the trials that the store holds already."""

    def asked(self, batch: Sequence[Trial]) -> None:
        """A batch goes to the evaluator."""

    def finished(self, batch: Sequence[Trial]) -> None:
        """A batch came back."""

    def retraining(self, winner: Trial) -> None:
        """The winner is being retrained."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class Silence:
    """Shows nothing."""

    def began(self, budget: int, trials: Sequence[Trial]) -> None: ...  # noqa: D102
    def asked(self, batch: Sequence[Trial]) -> None: ...  # noqa: D102
    def finished(self, batch: Sequence[Trial]) -> None: ...  # noqa: D102
    def retraining(self, winner: Trial) -> None: ...  # noqa: D102
    def note(self, text: str) -> None: ...  # noqa: D102


def run(
    experiment: Experiment,
    directory: Path | str,
    progress: Progress | None = None,
    *,
    prepare: bool = True,
    write_report: bool = True,
) -> Result:
    """Runs an experiment to its end, or the rest of it where the folder holds a part already.

    Args:
      experiment: what to run.
      directory: a new or empty folder, or that of an interrupted run of the same experiment.
      progress: is told how it gets on.
      prepare: whether to have the evaluator prepared in the folder; else it has to be.
      write_report: whether to end with ``report.html``.

    Raises:
      RunError: the folder holds something else, or the run of another experiment, or is in use.
      TrialStoreError: the trials file is foreign or damaged.
      StudyError: recorded trials are not those that this software asks for, or the evaluator cannot be prepared, or
        only raises errors.
    """
    directory, progress = Path(directory).absolute(), progress or Silence()
    found = runs.exists(directory)
    here = runs.open_run(directory) if found else runs.create(directory, experiment)
    _check_same(experiment, here)
    with runs.lock(here), TrialStore.open(here.trials) as store, Checkpoints(here.states) as checkpoints:
        if prepare:
            _prepare(experiment, here, progress)
        progress.began(experiment.budget, store.trials())
        exhausted = search(experiment, store, checkpoints, progress)
        final = _retrain(experiment, here, store, progress)
        result = Result(directory, store.trials(), final, exhausted)
    if write_report:
        from lanas_jax import report  # matplotlib takes its time to import

        report.write(directory, experiment)
    return result


def _prepare(experiment: Experiment, here: Run, progress: Progress) -> None:
    """What an evaluator has to do before its first evaluation."""
    if not isinstance(experiment.evaluator, Prepared):
        return
    try:
        experiment.evaluator.prepare(here.directory, progress.note)
    except NotPreparedError as error:
        raise StudyError(str(error)) from error


def search(experiment: Experiment, store: TrialStore, checkpoints: Checkpoints, progress: Progress) -> bool:
    """Walks the loop from the newest checkpoint to the end of the budget.

    Returns:
      Whether the space ran out of codes first.

    Raises:
      StudyError: as `run`.
    """
    digests = _digests(store.trials())
    state = experiment.searcher.init(stream_key(experiment.seed, SEARCHER_STREAM))
    restored = checkpoints.restore(state, digests)
    number, state = (restored.number, restored.state) if restored else (0, state)
    asked = sum(trial.batch < number for trial in store.trials())
    saving = _Saving(checkpoints)
    while asked < experiment.budget:
        state, codes = _ask(experiment, state, min(experiment.batch, experiment.budget - asked))
        if not len(codes):
            progress.note(f"the space has no further codes: the search ends after {asked} trials")
            return True
        keys = trial_keys(experiment.seed, range(asked, asked + len(codes)))
        batch = store.batch(number) or store.add_pending(number, codes.tolist(), hexadecimal(keys), software.versions())
        _check_recorded(batch, codes, hexadecimal(keys))
        replayed = batch[0].status != Status.PENDING
        if not replayed:
            batch = _evaluate(experiment, store, batch, keys, progress)
        state = experiment.searcher.tell(state, jnp.asarray(codes), jnp.asarray(told(batch)))
        asked, number = asked + len(batch), number + 1
        if not replayed:
            saving.after(number, state, store, last=asked >= experiment.budget)
    return False


def stream_key(seed: int, stream: int) -> PRNGKeyArray:
    """The key of a trial, of the searcher or of the finale."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(stream))


def trial_keys(seed: int, ids: Sequence[int]) -> Keys:
    """One key per trial, `fold_in` of seed and trial number, ``key[n]``."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.asarray(ids, np.uint32))


def hexadecimal(keys: Keys) -> list[str]:
    """The raw words of each key, as text."""
    return ["".join(f"{word:08x}" for word in words) for words in np.asarray(jax.random.key_data(keys)).tolist()]


def told(batch: Sequence[Trial]) -> Float[np.ndarray, " n"]:
    """What the searcher is told of finished trials, float32[n]: values, or NaN for failed ones."""
    return np.array([np.nan if trial.value is None else trial.value for trial in batch], np.float32)


def _ask(experiment: Experiment, state: Any, n: int) -> tuple[Any, Int[np.ndarray, "n dims"]]:
    """The searcher's answer without its empty rows."""
    state, answer = experiment.searcher.ask(state, n)
    codes = np.asarray(answer, np.int32)
    return state, codes[(codes >= 0).all(axis=1)]


def _evaluate(
    experiment: Experiment, store: TrialStore, batch: list[Trial], keys: Keys, progress: Progress
) -> list[Trial]:
    """Evaluates a pending batch and writes its outcomes down."""
    progress.asked(batch)
    started = time.time()
    codes = np.array([trial.code for trial in batch], np.int32)
    outcomes = _outcomes(experiment.evaluator, codes, keys)
    if len(outcomes) != len(batch):
        raise StudyError(f"the evaluator gave {len(outcomes)} outcomes for {len(batch)} codes; it must give one each")
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if len(errors) == len(batch):
        _stop_if_hopeless(store, batch, errors[-1])
    results = [_failure(outcome) if isinstance(outcome, Exception) else outcome for outcome in outcomes]
    finished = store.finish(batch[0].batch, results, software.versions(), started)
    progress.finished(finished)
    return finished


def _outcomes(evaluator: Evaluator, codes: Int[np.ndarray, "n dims"], keys: Keys) -> list[Outcome | Exception]:
    """Outcomes; where the evaluator raises, each code is tried alone, so that an error hits only who causes it."""
    try:
        return list(evaluator.evaluate(codes, keys))
    except Exception as error:
        if len(codes) == 1:
            return [error]
    return [_outcomes(evaluator, codes[i : i + 1], keys[i : i + 1])[0] for i in range(len(codes))]


def _failure(error: Exception) -> Outcome:
    return Outcome(None, f"{RAISED} {describe_error(error)}")


def _stop_if_hopeless(store: TrialStore, batch: Sequence[Trial], error: Exception) -> None:
    """One bad candidate is a result; an evaluator that only raises is broken, and the budget too good for it."""
    before = [trial for trial in store.trials() if trial.id < batch[0].id][-HOPELESS:]
    in_a_row = len(batch)
    for trial in reversed(before):
        if not (trial.reason or "").startswith(RAISED):
            break
        in_a_row += 1
    if in_a_row >= HOPELESS:
        raise StudyError(
            f"the evaluator raised an error for each of the last {in_a_row} trials: {describe_error(error)}. "
            f"The last {len(batch)} stay pending"
        ) from error


def describe_error(error: BaseException) -> str:
    """An error in one line, with the place it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _retrain(experiment: Experiment, here: Run, store: TrialStore, progress: Progress) -> Final | None:
    """The finale, once: a run interrupted in it does only this again."""
    winner, final = best(store.trials()), store.final()
    if final is not None or experiment.finale is None:
        return final
    if winner is None:
        progress.note("no trial succeeded, so there is no winner to retrain")
        return None
    progress.retraining(winner)
    shutil.rmtree(here.winner, ignore_errors=True)
    here.winner.parent.mkdir(parents=True, exist_ok=True)
    code, key = np.array(winner.code, np.int32), stream_key(experiment.seed, FINALE_STREAM)
    try:
        final = experiment.finale(code, key, here.winner)
    except Exception as error:
        raise StudyError(f"retraining the winner failed: {describe_error(error)}") from error
    if not math.isfinite(final.validation_accuracy + final.test_accuracy):
        raise StudyError(f"retraining the winner gave accuracies that are not finite: {final}")
    store.set_final(final)
    return store.final()


def _check_same(experiment: Experiment, here: Run) -> None:
    for name in ("seed", "budget", "batch"):
        recorded, given = here.record[name], getattr(experiment, name)
        if recorded != given:
            raise runs.RunError(f"{here.directory} was begun with {name} {recorded}, not {given}: give another folder")


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


class _Saving:
    """Saves checkpoints, but seldom where trials are quick."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints
        self._seconds, self._ended = 0.0, -math.inf

    def after(self, number: int, state: Any, store: TrialStore, *, last: bool) -> None:
        """To be called after each batch that was evaluated; `last` saves in any case."""
        began = time.perf_counter()
        if not last and self._seconds > SAVING_SHARE * (began - self._ended):
            return
        self._checkpoints.save(number, state, _digests(store.trials())[number])
        self._ended = time.perf_counter()
        self._seconds = self._ended - began


def _digests(trials: Sequence[Trial]) -> dict[int, str]:
    """By number of told batches, a digest of their trials in order."""
    digest, digests = hashlib.sha256(), dict[int, str]()
    for number, batch in itertools.groupby(trials, key=lambda trial: trial.batch):
        told_trials = list(batch)
        if told_trials[0].status == Status.PENDING:
            break
        digest.update(json.dumps([[trial.id, trial.code, trial.value] for trial in told_trials]).encode())
        digests[number + 1] = digest.hexdigest()
    return digests
