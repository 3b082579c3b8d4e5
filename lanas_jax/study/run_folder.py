"""The run directory: everything there is of one search.

=================  =====================================================================
``config.json``    what was asked for: experiment, every setting, seed, software versions
``experiment.py``  a copy of the experiment's file, so that later edits do not change a run
``trials.sqlite``  every trial (`lanas_jax.storage.trials`)
``checkpoint/``    under ``searcher`` its last states, under ``winner`` the final network's weights
``report.html``    the report
=================  =====================================================================

``config.json`` is written last, at once: a folder that holds it holds a run that can be resumed.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lanas_jax.runtime.files import replace_json
from lanas_jax.storage import config_json, software
from lanas_jax.storage.folder import RunError, lock_file
from lanas_jax.storage.trial_file import TrialStoreError
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import discovery

if TYPE_CHECKING:
    from lanas_jax.study.experiment import Experiment

FORMAT = 2  # experiment files of format 1 import modules by names that they no longer have
_CONFIG = "config.json"
_PARTIAL = "config.json.partial"
_SOURCE = "experiment.py"
_TRIALS = "trials.sqlite"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
      directory: where it is, absolute.
      record: what config.json says.
    """

    directory: Path
    record: dict[str, Any]

    @property
    def config(self) -> Path:
        """What was asked for."""
        return self.directory / _CONFIG

    @property
    def source(self) -> Path:
        """The copy of the experiment's file; absent where the run was started from Python."""
        return self.directory / _SOURCE

    @property
    def trials(self) -> Path:
        """The trial store."""
        return self.directory / _TRIALS

    @property
    def states(self) -> Path:
        """The searcher's states."""
        return self.directory / "checkpoint" / "searcher"

    @property
    def winner(self) -> Path:
        """The weights of the final network."""
        return self.directory / "checkpoint" / "winner"

    @property
    def report(self) -> Path:
        """The report."""
        return self.directory / "report.html"

    def experiment(self) -> "Experiment":
        """The experiment as it was when the run began, built again with the run's settings.

        Raises:
          RunError, ExperimentError, ConfigError: as `load`; the file no longer builds.
        """
        return build(*self.load())

    def load(self) -> tuple[ModuleType, Any]:
        """The experiment's file as it was when the run began, run, and the run's `Config`.

        Raises:
          RunError: the run was started from Python and has no file.
          ExperimentError: the file cannot be run.
          ConfigError: the recorded settings do not fit the file.
        """
        if not self.source.exists():
            raise RunError(
                f"{self.directory} was started from Python, so there is no file to build its experiment from: "
                f"call lanas_jax.study.loop.run with the same experiment and folder to continue"
            )
        module = discovery.load(self.source, beside=Path(self.record["source"]).parent)
        return module, config_json.read(module.Config, self.record["config"])


def build(module: Any, config: Any) -> "Experiment":
    """Calls an experiment's `build`.

    Raises:
      ExperimentError: it raised, or returned something else than an `Experiment`.
    """
    from lanas_jax.study.experiment import Experiment

    try:
        experiment = module.build(config)
    except Exception as error:
        raise discovery.ExperimentError(
            f"{module.__file__}: build(config) raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(experiment, Experiment):
        raise discovery.ExperimentError(f"{module.__file__}: build(config) returned {experiment!r}, no Experiment")
    return experiment


def create(directory: Path, experiment: "Experiment", source: Path | None = None, config: Any = None) -> Run:
    """Makes a run directory.

    Args:
      directory: a new or empty folder.
      experiment: what will be run.
      source: the experiment's file, where there is one.
      config: its settings, where there are some.

    Raises:
      RunError: the folder holds a run, or something else.
      ConfigError: the settings could not be read back.
    """
    directory = directory.absolute()
    record = _record(experiment, source, config)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _refuse_used(directory)
        if source is not None:
            shutil.copyfile(source, directory / _SOURCE)
        TrialStore.create(directory / _TRIALS).close()
        replace_json(directory / _CONFIG, record)
    except OSError as error:
        raise RunError(f"cannot write to {directory}: {error.strerror}") from error
    return Run(directory, record)


def exists(directory: Path) -> bool:
    """Whether a folder holds a run."""
    return (directory / _CONFIG).exists()


def open_run(directory: Path) -> Run:
    """The run in a folder.

    Raises:
      RunError: there is no run, or its config.json is damaged or of another format.
    """
    directory = directory.absolute()
    if not directory.is_dir():
        raise RunError(f"there is no folder {directory}")
    try:
        record = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{directory} holds no run: it has no {_CONFIG}") from None
    except OSError as error:
        raise RunError(f"{directory / _CONFIG} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{directory / _CONFIG} is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise RunError(
            f"{directory / _CONFIG} has format {found}, but this version of lanas_jax reads format {FORMAT}: continue "
            f"the run with the version that wrote it, or search again in another folder"
        )
    if missing := {"experiment", "source", "seed", "budget", "batch", "config"} - record.keys():
        raise RunError(f"{directory / _CONFIG} is damaged: it says nothing of {', '.join(sorted(missing))}")
    return Run(directory, record)


def default_directory(name: str, now: datetime.datetime) -> Path:
    """``runs/NAME-TIME``, with a number added where that is taken."""
    stem = f"{name}-{now:%Y%m%d-%H%M%S}"
    candidates = (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 1_000_000))
    return next(path for path in candidates if not path.exists())


@contextlib.contextmanager
def lock(run: Run) -> Iterator[None]:
    """Keeps a second process from writing to the run.

    Raises:
      RunError: another process writes to the run.
    """
    with lock_file(run.config):
        yield


def _record(experiment: "Experiment", source: Path | None, config: Any) -> dict[str, Any]:
    if config is not None:
        config_json.check(config)
    return {
        "format": FORMAT,
        "experiment": experiment.name,
        "source": None if source is None else str(source.absolute()),
        "seed": experiment.seed,
        "budget": experiment.budget,
        "batch": experiment.batch,
        "config": None if config is None else config_json.encode(config),
        "software": software.versions(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _refuse_used(directory: Path) -> None:
    """Refuses a folder in use, but clears what a start left that was killed before config.json stood."""
    names = set(os.listdir(directory))
    if _CONFIG in names:
        raise RunError(f"{directory} holds a run already. To continue it: lanas resume {directory}")
    leftovers = {_PARTIAL, _SOURCE, _TRIALS, f"{_TRIALS}-journal"}
    if names - leftovers:
        raise RunError(f"{directory} is not empty and holds no run: give a new or an empty folder")
    if _TRIALS in names and not _never_used(directory / _TRIALS):
        raise RunError(f"{directory} has a {_TRIALS} but no {_CONFIG}: give a new or an empty folder")
    for name in names:
        (directory / name).unlink()


def _never_used(trials: Path) -> bool:
    if trials.stat().st_size == 0:
        return True
    try:
        with TrialStore.open(trials) as store:
            return not store.trials()
    except TrialStoreError:
        return False
