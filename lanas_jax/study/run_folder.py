"""The run directory: all files of one search.

=================  =====================================================================
``config.json``    the configuration: experiment, every setting, seed, software versions
``experiment.py``  a copy of the experiment's file, so that later edits do not change a run
``trials.sqlite``  every trial (`lanas_jax.storage.trials`)
``checkpoint/``    ``searcher``: the searcher's last states; ``winner``: the retrained winner's weights
``report.html``    the report
=================  =====================================================================

``config.json`` is written last and atomically, so a folder that contains it contains a run that can be resumed.
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
      directory: absolute path of the folder.
      record: contents of config.json.
    """

    directory: Path
    record: dict[str, Any]

    @property
    def config(self) -> Path:
        """The configuration of the run."""
        return self.directory / _CONFIG

    @property
    def source(self) -> Path:
        """The copy of the experiment's file; absent if the run was started from Python."""
        return self.directory / _SOURCE

    @property
    def trials(self) -> Path:
        """The trial store."""
        return self.directory / _TRIALS

    @property
    def states(self) -> Path:
        """The checkpoints of the searcher's state."""
        return self.directory / "checkpoint" / "searcher"

    @property
    def winner(self) -> Path:
        """The weights of the retrained winner."""
        return self.directory / "checkpoint" / "winner"

    @property
    def report(self) -> Path:
        """The report."""
        return self.directory / "report.html"

    def experiment(self) -> "Experiment":
        """Builds the experiment again from the run's copy of its file and the run's settings.

        Raises:
          RunError, ExperimentError, ConfigError: as in `load`, or the file no longer builds.
        """
        return build_experiment(*self.load())

    def load(self) -> tuple[ModuleType, Any]:
        """Loads the run's copy of the experiment's file; returns the module and the run's `Config`.

        Raises:
          RunError: the run was started from Python and has no experiment file.
          ExperimentError: the file cannot be run.
          ConfigError: the recorded settings do not fit the file.
        """
        if not self.source.exists():
            raise RunError(
                f"{self.directory} was started from Python, so it has no experiment file to build from: "
                f"to continue, call lanas_jax.study.loop.run with the same experiment and folder"
            )
        module = discovery.load_experiment(self.source, beside=Path(self.record["source"]).parent)
        return module, config_json.read_config(module.Config, self.record["config"])


def build_experiment(module: Any, config: Any) -> "Experiment":
    """Calls an experiment's function `build_experiment`.

    Raises:
      ExperimentError: the function raised, or did not return an `Experiment`.
    """
    from lanas_jax.study.experiment import Experiment

    try:
        experiment = module.build(config)
    except Exception as error:
        raise discovery.ExperimentError(
            f"{module.__file__}: build(config) raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(experiment, Experiment):
        raise discovery.ExperimentError(
            f"{module.__file__}: build(config) returned {experiment!r}; expected an Experiment"
        )
    return experiment


def create(directory: Path, experiment: "Experiment", source: Path | None = None, config: Any = None) -> Run:
    """Creates a run directory.

    Args:
      directory: new or empty folder.
      experiment: experiment to run.
      source: file of the experiment; None if it was defined in Python.
      config: settings of the experiment; None if there are none.

    Raises:
      RunError: the folder contains a run or other files, or cannot be written.
      ConfigError: the settings cannot be restored from JSON.
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


def run_exists(directory: Path) -> bool:
    """Returns whether a folder contains a run."""
    return (directory / _CONFIG).exists()


def open_run(directory: Path) -> Run:
    """Returns the run in a folder.

    Raises:
      RunError: there is no run, or its config.json is damaged, incomplete or of another format.
    """
    directory = directory.absolute()
    if not directory.is_dir():
        raise RunError(f"there is no folder {directory}")
    try:
        record = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{directory} contains no run: it has no {_CONFIG}") from None
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
        raise RunError(f"{directory / _CONFIG} is incomplete: missing keys {', '.join(sorted(missing))}")
    return Run(directory, record)


def default_directory(name: str, now: datetime.datetime) -> Path:
    """Returns the path ``runs/NAME-TIME``, with a number appended if it exists."""
    stem = f"{name}-{now:%Y%m%d-%H%M%S}"
    candidates = (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 1_000_000))
    return next(path for path in candidates if not path.exists())


@contextlib.contextmanager
def lock(run: Run) -> Iterator[None]:
    """Locks the run against a second writing process.

    Raises:
      RunError: another process writes to the run.
    """
    with lock_file(run.config):
        yield


def _record(experiment: "Experiment", source: Path | None, config: Any) -> dict[str, Any]:
    if config is not None:
        config_json.check_config(config)
    return {
        "format": FORMAT,
        "experiment": experiment.name,
        "source": None if source is None else str(source.absolute()),
        "seed": experiment.seed,
        "budget": experiment.budget,
        "batch": experiment.batch,
        "config": None if config is None else config_json.encode_value(config),
        "software": software.versions(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _refuse_used(directory: Path) -> None:
    """Raises `RunError` for a folder in use; deletes leftovers of a start killed before it wrote config.json."""
    names = set(os.listdir(directory))
    if _CONFIG in names:
        raise RunError(f"{directory} already contains a run. To continue it: lanas resume {directory}")
    leftovers = {_PARTIAL, _SOURCE, _TRIALS, f"{_TRIALS}-journal"}
    if names - leftovers:
        raise RunError(f"{directory} is not empty and contains no run: choose a new or an empty folder")
    if _TRIALS in names and not _never_used(directory / _TRIALS):
        raise RunError(f"{directory} has a {_TRIALS} but no {_CONFIG}: choose a new or an empty folder")
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
