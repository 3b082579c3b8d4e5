"""A whole ranking: the sample of networks, the values of each estimate, and the values after training from scratch.

Every column is a separate study whose searcher proposes a fixed list. Trials are saved as they finish, and a killed
ranking resumes where it stopped. The sample is trained in an order of which every beginning covers the range of the
first estimate, so the networks of an unfinished ranking are a sample, too. Contents of the run's folder ``ranking``:

================  =====================================================================================
``asked.json``    the requested ranking; a different request is refused
``pool/``         a run (`lanas_jax.study.run_folder`): the pool of codes, valued by the first estimate
``estimate-1/``   a run: the sample, valued by the second estimate; and so on
``truth/``        a run: the sample, trained from scratch
``ranking.csv``   one row per network, written at the end
``ranking.json``  the correlations, written last
================  =====================================================================================
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lanas_jax import study
from lanas_jax.evaluators.base import Evaluator, Prepared
from lanas_jax.evaluators.faults import NotPreparedError, prepare_evaluator
from lanas_jax.ranking import result
from lanas_jax.ranking.base import TRUTH, Ranking, RankingError
from lanas_jax.ranking.correlation import FEWEST, rank_correlation
from lanas_jax.ranking.fixed_list import Listed
from lanas_jax.ranking.result import Ranked
from lanas_jax.ranking.sample import pool_of, spread, stratified
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage import config_json, software
from lanas_jax.storage.folder import FolderKind, RunError
from lanas_jax.storage.trial import Trial
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import StudyError, replay, run_folder
from lanas_jax.study.experiment import StudyProgress
from lanas_jax.study.run_folder import Run

AT_ONCE = 32  # architectures per batch of an estimate
_RANKING = FolderKind("ranking", "asked.json")


@dataclasses.dataclass(frozen=True)
class RankingDesign:
    """The size and the seed of a ranking.

    Attributes:
      networks: number of networks to train from scratch.
      pool: number of architectures to sample the networks from.
      batch: number of networks trained together.
      seed: random seed of the sample, the trainings and the intervals.

    Raises:
      RankingError: a number is out of range.
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
    """Evaluates the columns of a ranking.

    Attributes:
      space: space of the codes.
      here: run with the ranked supernet.
      seed: random seed of the trials.
      note: callback that receives progress messages.
      progress: factory of the progress display of a column.
      accept_versions: True to continue columns that were begun with other software versions.
    """

    space: SearchSpace
    here: Run
    seed: int
    note: Callable[[str], None]
    progress: Callable[[], AbstractContextManager[StudyProgress]]
    accept_versions: bool = False

    def column(
        self, title: str, evaluator: Evaluator, codes: Int[np.ndarray, "n dims"], folder: Path, batch: int
    ) -> Sequence[Trial]:
        """Evaluates `codes` and returns their trials in order; finished trials in the folder are not evaluated again.

        Raises:
          StudyError: the evaluator is broken, or the recorded trials have other codes.
        """
        self.note(f"{title}: {len(codes)} architectures")
        experiment = study.Experiment(
            title, self.space, Listed(self.space, codes), evaluator, budget=len(codes), batch=batch, seed=self.seed
        )
        if isinstance(evaluator, Prepared) and finished(folder) < len(codes):
            try:
                prepare_evaluator(evaluator, self.here.directory, self.note, title)
            except NotPreparedError as error:
                raise StudyError(str(error)) from error
        with self.progress() as progress:
            found = study.run(experiment, folder, progress, prepare=False, accept_versions=self.accept_versions)
            return found.trials


def rank_networks(ranking: Ranking, design: RankingDesign, settings: Any, valuing: Valuing) -> Ranked:
    """Values a sample of architectures with every estimate, trains it from scratch, and correlates the two.

    A second call with the same arguments resumes the ranking.

    Args:
      ranking: estimates and reference evaluator.
      design: size and seed of the ranking.
      settings: settings of the experiment that made `ranking`; saved with the ranking.
      valuing: evaluation of columns in the space and the run folder.

    Raises:
      RankingError: the space or the first estimate yields too few networks.
      RunError: the folder holds another ranking (the message names the difference), or another process writes to the
        run.
      StudyError: an evaluator is broken.
    """
    folder = folder_of(valuing.here)
    asked = dataclasses.asdict(design) | {
        "settings": config_json.encode_value(settings),
        "estimates": list(ranking.estimates),
    }
    claim_folder(folder, asked)
    with run_folder.RUN.lock(valuing.here.directory):
        codes, estimates = _estimated(ranking, design, valuing)
        spread_out = codes[spread(len(codes))]
        trained = valuing.column("trained from scratch", ranking.truth, spread_out, folder / TRUTH, design.batch)
        by_code = {trial.code: trial for trial in trained}  # a finished ranking may have been trained in another order
        trials = [by_code[tuple(code)] for code in codes.tolist()]
        truth = trial_values(trials)
        ranked = Ranked(
            codes=[trial.code for trial in trials],
            estimates=estimates,
            truth=truth,
            seconds=np.array([(trial.compile_seconds or 0.0) + (trial.train_seconds or 0.0) for trial in trials]),
            correlations={name: rank_correlation(found, truth, seed=design.seed) for name, found in estimates.items()},
            about=asked
            | {
                "software": software.versions(),
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            },
        )
        result.write_ranking(folder, ranked)
    return ranked


def folder_of(here: Run) -> Path:
    """Returns the folder of a run's ranking."""
    return here.directory / result.FOLDER


def finished(folder: Path) -> int:
    """Returns the number of finished trials of a column."""
    return len(_values_by_code(folder))


def networks_so_far(
    valuing: Valuing,
) -> tuple[Int[np.ndarray, "n dims"], dict[str, Float[np.ndarray, " n"]], Float[np.ndarray, " n"]]:
    """Returns codes, estimates and values of the networks that a ranking of a run has trained from scratch so far.

    They are in ascending order of the first estimate. NaN stands for the value of a failed trial.
    """
    folder = folder_of(valuing.here)
    names = _RANKING.read(folder)["estimates"] if _RANKING.exists(folder) else []
    columns = {name: _values_by_code(_estimate_folder(folder, i)) for i, name in enumerate(names)}
    trained = _values_by_code(folder / TRUTH)
    first = next(iter(columns.values()), {})
    codes = sorted(trained, key=lambda code: (first[code], code))
    estimates = {name: np.array([values[code] for code in codes]) for name, values in columns.items()}
    rows = np.array(codes, np.int32).reshape(-1, valuing.space.dims)
    return rows, estimates, np.array([trained[code] for code in codes])


def _values_by_code(folder: Path) -> dict[tuple[int, ...], float]:
    """Returns the values of a column's finished trials; NaN for a failed one."""
    if not run_folder.run_exists(folder):
        return {}
    with TrialStore.open(run_folder.open_run(folder).trials, read_only=True) as store:
        trials = [trial for trial in store.trials() if trial.finished is not None]
    return dict(zip((trial.code for trial in trials), trial_values(trials).tolist(), strict=True))


def _estimate_folder(folder: Path, number: int) -> Path:
    """Returns the folder of an estimate of a ranking. The first has the values of the whole pool."""
    return folder / (f"estimate-{number}" if number else "pool")


def _estimated(
    ranking: Ranking, design: RankingDesign, valuing: Valuing
) -> tuple[Int[np.ndarray, "n dims"], dict[str, Float[np.ndarray, " n"]]]:
    """Returns the sample and its values under each estimate."""
    (first, evaluator), *others = ranking.estimates.items()
    folder = folder_of(valuing.here)
    key = replay.stream_key(design.seed, replay.SEARCHER_STREAM)
    pool = pool_of(key, valuing.space, design.pool, design.networks)
    values = trial_values(valuing.column(first, evaluator, pool, _estimate_folder(folder, 0), AT_ONCE))
    rows = stratified(values, design.networks, design.seed)
    estimates = {first: values[rows]}
    for i, (name, evaluator) in enumerate(others, start=1):
        column = valuing.column(name, evaluator, pool[rows], _estimate_folder(folder, i), AT_ONCE)
        estimates[name] = trial_values(column)
    return pool[rows], estimates


def trial_values(trials: Sequence[Trial]) -> Float[np.ndarray, " n"]:
    """Returns the values of trials; NaN for a failed trial."""
    return np.array([np.nan if trial.value is None else trial.value for trial in trials])


def claim_folder(folder: Path, asked: dict[str, Any], growing: Collection[str] = ()) -> None:
    """Saves the request for a ranking in its folder, or checks that it equals the saved one but for what is `growing`.

    Raises:
      RunError: the folder holds a ranking with other settings; the message names the differences.
    """
    if not _RANKING.exists(folder):
        with _RANKING.created(folder, asked):
            pass
    before = _RANKING.read(folder)
    now = json.loads(json.dumps(asked))
    changed = [
        f"{name} {before.get(name, 'absent')}, now {now[name]}"
        for name in now
        if before.get(name) != now[name] and name not in growing
    ]
    if changed:
        raise RunError(
            f"{folder} holds a ranking with other settings: {'; '.join(changed)}. Repeat the earlier settings to "
            f"resume it, or move the folder away for a new ranking"
        )
