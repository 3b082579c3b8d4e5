"""A ranking from beginning to end: the sample, what each estimate says of it, and what training from scratch says.

Every column is a study of its own with a searcher that proposes a fixed list, so that trials are written down as they
are finished and a killed ranking goes on where it was. In the run's folder ``ranking``:

================  =====================================================================================
``asked.json``    what was asked for; another ranking is refused
``pool/``         a run (`lanas_jax.study.run_folder`): the codes that the sample is taken from, by the first estimate
``estimate-1/``   a run: the sample by the second estimate; and so on
``truth/``        a run: the sample, trained from scratch
``ranking.csv``   written at the end: a row per network
``ranking.json``  written last: the correlations
================  =====================================================================================
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lanas_jax import study
from lanas_jax.evaluators.base import Evaluator, Prepared
from lanas_jax.evaluators.faults import describe_error
from lanas_jax.ranking import result
from lanas_jax.ranking.base import TRUTH, Ranking, RankingError
from lanas_jax.ranking.correlation import FEWEST, rank_correlation
from lanas_jax.ranking.fixed_list import Listed
from lanas_jax.ranking.result import Ranked
from lanas_jax.ranking.sample import pool_of, stratified
from lanas_jax.runtime.files import replace_json
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage import config_json, software
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trials import Trial, TrialStore
from lanas_jax.study import StudyError, replay, run_folder
from lanas_jax.study.experiment import StudyProgress
from lanas_jax.study.run_folder import Run

AT_ONCE = 32  # architectures handed to an estimate at a time
_ASKED = "asked.json"


@dataclasses.dataclass(frozen=True)
class RankingDesign:
    """How many networks, and which.

    Attributes:
      networks: trained from scratch.
      pool: architectures from which they are sampled.
      batch: networks trained at a time.
      seed: of the sample, of the trainings and of the intervals.

    Raises:
      RankingError: numbers that cannot be.
    """

    networks: int
    pool: int
    batch: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("networks", FEWEST), ("pool", self.networks), ("batch", 1)):
            if getattr(self, name) < least:
                raise RankingError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise RankingError(f"seed must be 0 to 2**32 - 1; got {self.seed}")


@dataclasses.dataclass(frozen=True)
class Valuing:
    """Carries columns through.

    Attributes:
      space: of the codes.
      here: the run whose supernet is ranked.
      seed: of the trials.
      note: prints a line.
      progress: makes what shows one column's progress.
    """

    space: SearchSpace
    here: Run
    seed: int
    note: Callable[[str], None]
    progress: Callable[[], AbstractContextManager[StudyProgress]]

    def column(
        self, title: str, evaluator: Evaluator, codes: Int[np.ndarray, "n dims"], folder: Path, batch: int
    ) -> Sequence[Trial]:
        """The trials of `codes` in order, those that the folder holds already not evaluated again.

        Raises:
          StudyError: the evaluator is broken, or recorded trials are others.
        """
        self.note(f"{title}: {len(codes)} architectures")
        experiment = study.Experiment(
            title, self.space, Listed(self.space, codes), evaluator, budget=len(codes), batch=batch, seed=self.seed
        )
        if isinstance(evaluator, Prepared) and finished(folder) < len(codes):
            self._prepare(title, evaluator)
        with self.progress() as progress:
            return study.run(experiment, folder, progress, prepare=False).trials

    def _prepare(self, title: str, evaluator: Prepared) -> None:
        try:
            evaluator.prepare(self.here.directory, self.note)
        except Exception as error:
            raise StudyError(f"the preparation of {title} failed: {describe_error(error)}") from error


def rank_networks(ranking: Ranking, plan: RankingDesign, settings: Any, valuing: Valuing) -> Ranked:
    """Values a sample of architectures by every estimate, trains it from scratch, and compares.

    Called again with the same arguments it goes on where it was.

    Args:
      ranking: the estimates and the truth.
      plan: how many networks, and which.
      settings: the experiment's, from which `ranking` was made; recorded.
      valuing: of the experiment's space, in the run's folder.

    Raises:
      RankingError: a space or an estimate that does not give enough networks.
      RunError: the folder holds another ranking (says what differs), or another process writes to the run.
      StudyError: an evaluator is broken.
    """
    folder = folder_of(valuing.here)
    asked = dataclasses.asdict(plan) | {
        "settings": config_json.encode_value(settings),
        "estimates": list(ranking.estimates),
    }
    _enter(folder, asked)
    with run_folder.lock(valuing.here):
        codes, estimates = _estimated(ranking, plan, valuing)
        trials = valuing.column("trained from scratch", ranking.truth, codes, folder / TRUTH, plan.batch)
        truth = _values(trials)
        ranked = Ranked(
            codes=[trial.code for trial in trials],
            estimates=estimates,
            truth=truth,
            seconds=np.array([(trial.compile_seconds or 0.0) + (trial.train_seconds or 0.0) for trial in trials]),
            correlations={name: rank_correlation(found, truth, seed=plan.seed) for name, found in estimates.items()},
            about=asked
            | {
                "software": software.versions(),
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            },
        )
        result.write_ranking(folder, ranked)
    return ranked


def folder_of(here: Run) -> Path:
    """Where the ranking of a run is."""
    return here.directory / result.FOLDER


def finished(folder: Path) -> int:
    """How many trials of a column are finished."""
    if not run_folder.run_exists(folder):
        return 0
    with TrialStore.open(run_folder.open_run(folder).trials, read_only=True) as store:
        return sum(trial.finished is not None for trial in store.trials())


def _estimated(
    ranking: Ranking, plan: RankingDesign, valuing: Valuing
) -> tuple[Int[np.ndarray, "n dims"], dict[str, Float[np.ndarray, " n"]]]:
    """The sample, and what each estimate says of it."""
    (first, evaluator), *others = ranking.estimates.items()
    folder = folder_of(valuing.here)
    key = replay.stream_key(plan.seed, replay.SEARCHER_STREAM)
    pool = pool_of(key, valuing.space, plan.pool, plan.networks)
    values = _values(valuing.column(first, evaluator, pool, folder / "pool", AT_ONCE))
    rows = stratified(values, plan.networks, plan.seed)
    estimates = {first: values[rows]}
    for i, (name, evaluator) in enumerate(others, start=1):
        estimates[name] = _values(valuing.column(name, evaluator, pool[rows], folder / f"estimate-{i}", AT_ONCE))
    return pool[rows], estimates


def _values(trials: Sequence[Trial]) -> Float[np.ndarray, " n"]:
    return np.array([np.nan if trial.value is None else trial.value for trial in trials])


def _enter(folder: Path, asked: dict[str, Any]) -> None:
    """Writes down what is asked for, or refuses what differs from what was."""
    path = folder / _ASKED
    try:
        if not path.exists():
            folder.mkdir(exist_ok=True)
            replace_json(path, asked)
        before = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot use {folder}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    now = json.loads(json.dumps(asked))
    changed = [f"{name} {before.get(name, 'absent')}, now {now[name]}" for name in now if before.get(name) != now[name]]
    if changed:
        raise RunError(
            f"{folder} was begun with something else: {'; '.join(changed)}. To continue it, ask for what it was begun "
            f"with; for another ranking, move that folder away"
        )
