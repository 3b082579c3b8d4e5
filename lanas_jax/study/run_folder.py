"""The run directory: all files of one search.

=================  =====================================================================
``config.json``    the configuration: experiment, every setting, seed, space, software versions, extensions
``experiment.py``  a copy of the experiment's file, so that later edits do not change a run
``trials.sqlite``  every trial (`lanas_jax.storage.trials`)
``checkpoint/``    ``searcher``: the searcher's last states
``metrics.csv``    the values in the order in which the searcher learned them (`lanas_jax.study.metrics`)
``final/``         the training of the winner (`lanas_jax.trainer.folder`); ``final-1``, ...: of earlier winners
``results.jsonl``  results of the run's trained networks (`lanas_jax.storage.results`)
``report.html``    the report
``traceback.txt``  the last unforeseen error
=================  =====================================================================

``config.json`` is written last and atomically, so a folder that contains it contains a run that can be resumed.
"""

import dataclasses
import datetime
import json
import os
import shlex
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lanas_jax.runtime.files import inside_folder, replace_json
from lanas_jax.runtime.paths import local_path
from lanas_jax.spaces.definition import choices_of, definition_difference
from lanas_jax.storage import config_json, software
from lanas_jax.storage.folder import FolderKind, RunError
from lanas_jax.storage.plain import shown
from lanas_jax.storage.trial_file import TrialStoreError
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import discovery

if TYPE_CHECKING:
    from lanas_jax.study.experiment import Experiment

FORMAT = 2  # experiment files of runs of format 1 import modules that have been renamed since
FINAL = "final"  # folder of the winner's training
_CONFIG = "config.json"
_SOURCE = "experiment.py"
_TRIALS = "trials.sqlite"
_REQUIRED = {
    "experiment": str,
    "source": str | None,
    "seed": int,
    "budget": int,
    "batch": int,
    "config": dict | None,
}
_OPTIONAL = {
    "working_folder": str | None,
    "objectives": list,
    "space": dict,
    "software": dict,
    "extensions": list,
    "accepted": list,
}
RUN = FolderKind("run", _CONFIG, FORMAT, frozenset(_REQUIRED), _REQUIRED | _OPTIONAL)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
      directory: absolute path of the folder.
      record: contents of config.json.
      changes: settings that replace recorded ones without being recorded, as JSON: those that change no result.
    """

    directory: Path
    record: dict[str, Any]
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> Path:
        """The configuration of the run."""
        return self.directory / _CONFIG

    @property
    def source(self) -> Path:
        """The copy of the experiment's file; absent if the run was started from Python."""
        return self.directory / _SOURCE

    @property
    def original(self) -> Path:
        """The experiment's file when the search started; only for a run that has a `source`."""
        return Path(self.record["source"])

    @property
    def working_folder(self) -> Path | None:
        """The folder in which the search was started, where relative paths start; None if unknown."""
        return None if (recorded := self.record.get("working_folder")) is None else Path(recorded)

    @property
    def trials(self) -> Path:
        """The trial store."""
        return self.directory / _TRIALS

    @property
    def metrics(self) -> Path:
        """The metrics of the search."""
        return self.directory / "metrics.csv"

    @property
    def states(self) -> Path:
        """The checkpoints of the searcher's state."""
        return self.directory / "checkpoint" / "searcher"

    @property
    def final(self) -> Path:
        """The folder of the winner's training."""
        return self.directory / FINAL

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of the winner's training; None if it is not complete.

        Raises:
          RunError: the training's files are damaged.
        """
        from lanas_jax.trainer import folder  # imports JAX, which listings of trials do not need

        return folder.open_folder(self.final).final if folder.training_exists(self.final) else None

    @property
    def report(self) -> Path:
        """The report."""
        return self.directory / "report.html"

    @property
    def present_config(self) -> Any:
        """The recorded settings of the experiment with the `changes`, as JSON; None for a run started from Python."""
        recorded = self.record["config"]
        return recorded if recorded is None else recorded | self.changes

    def experiment(self) -> "Experiment":
        """Builds the experiment again from the run's copy of its file and the run's settings.

        Raises:
          RunError, ExperimentError, ConfigError: as in `load` and `build`.
        """
        return self.build(*self.load())

    def load(self) -> tuple[ModuleType, Any]:
        """Loads the run's copy of the experiment's file; returns the module and the run's `Config` with its `changes`.

        Raises:
          RunError: the run was started from Python and has no experiment file.
          ExperimentError: the file cannot be run.
          ConfigError: the recorded settings or the changes do not fit the file.
        """
        if not self.source.exists():
            raise RunError(
                f"{self.directory} was started from Python, so it has no experiment file to build from: "
                f"to continue, repeat the call of lanas_jax.search or lanas_jax.study.run that started it"
            )
        with inside_folder(self.working_folder):
            module = discovery.load_experiment(self.source, original=self.original)
            return module, config_json.read_config(module.Config, self.present_config)

    def build(self, module: ModuleType, config: Any) -> "Experiment":
        """Builds the experiment of the run from its loaded module, with the run's present budget.

        Raises:
          ExperimentError: the file no longer builds.
          RunError: it builds another experiment or another space.
        """
        try:
            with inside_folder(self.working_folder):
                experiment = build_experiment(module, config)
        except discovery.ExperimentError as error:
            listing = f"To list the recorded trials: lanas trials {self.directory}"
            raise discovery.ExperimentError(f"{error}. {listing}") from error
        self.check(experiment)
        return dataclasses.replace(experiment, budget=self.record["budget"]) if self.extensions else experiment

    def check(self, experiment: "Experiment") -> None:
        """Checks that an experiment has the run's name and that its space gives codes the meaning they had.

        Raises:
          RunError: it is another experiment or has another space; the message names the difference.
        """
        if (recorded := self.record["experiment"]) != experiment.name:
            raise RunError(
                f"{self.directory} is a run of the experiment {recorded!r}, not of {experiment.name!r}: "
                f"choose another folder"
            )
        if self.objectives != experiment.objectives:
            names = [", ".join(names) or "none" for names in (self.objectives, experiment.objectives)]
            raise RunError(
                f"{self.directory} was started with the objectives {names[0]}, not {names[1]}: choose another folder"
            )
        self.check_space(experiment.space.definition())

    def check_space(self, definition: dict[str, Any], *, choices_only: bool = False) -> None:
        """Checks the definition of a space, or only its choices, against the space of the run's trials.

        Raises:
          RunError: it differs; the message names the difference.
        """
        if (recorded := self.record.get("space")) is None:
            return
        if choices_only:
            recorded, definition = choices_of(recorded), choices_of(definition)
        if changed := definition_difference(recorded, definition):
            raise RunError(
                f"the trials of {self.directory} belong to another space: {changed}. Restore the experiment's file and "
                f"the modules that it imports, or choose another folder"
            )

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of the run's objectives; empty for the evaluator's value alone."""
        return tuple(map(str, self.record.get("objectives", ())))

    @property
    def extensions(self) -> list[dict[str, Any]]:
        """The changes of the budget: ``from``, ``to``, the number of ``trials`` at that time, and the ``time``."""
        return list(self.record.get("extensions", ()))

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """The accepted changes of software versions: ``events`` recorded before, ``changed``, ``time``."""
        return list(self.record.get("accepted", ()))

    @property
    def settings(self) -> dict[str, str]:
        """The recorded settings as text: the experiment, its origin and history, and every field of its `Config`."""
        names = ("experiment", "source", "working_folder", "created", "seed", "budget", "batch")
        found = {name: self.record.get(name) for name in names}
        found["objectives"] = ", ".join(self.objectives)
        found["extended"] = "; ".join(
            f"{one['time']}: budget {one['from']}, now {one['to']}, after {one['trials']} trials"
            for one in self.extensions
        )
        found["accepted versions"] = "; ".join(f"{one['time']}: {one['changed']}" for one in self.accepted)
        config = self.record["config"] or {}
        found |= {name: value for name, value in config.items() if not (name == "budget" and self.extensions)}
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in found.items()
            if value is not None and value != ""
        }


def build_experiment(module: Any, config: Any) -> "Experiment":
    """Calls the function `build` of an experiment's file.

    Raises:
      ExperimentError: the function raised, or did not return an `Experiment`.
    """
    from lanas_jax.study.experiment import Experiment

    experiment = discovery.call_experiment(module, "build(config)", config)
    if not isinstance(experiment, Experiment):
        raise discovery.ExperimentError(
            f"{discovery.file_of(module)}: build(config) returned {shown(experiment)}; expected an Experiment"
        )
    return experiment


def create(
    directory: Path,
    experiment: "Experiment",
    source: Path | None = None,
    config: Any = None,
    text: bytes | None = None,
) -> Run:
    """Creates a run directory.

    Args:
      directory: new or empty folder.
      experiment: experiment to run.
      source: file of the experiment; None if it was defined in Python.
      config: settings of the experiment; None if there are none.
      text: text of the file that built the experiment, default: the present text of the file.

    Raises:
      PathError: the folder is remote, or its name cannot be used.
      RunError: the folder contains a run or other files, or cannot be written.
      ConfigError: the settings cannot be restored from JSON.
    """
    directory = local_path(directory).absolute()
    record = _record(experiment, source, config)
    with RUN.created(directory, record):
        _refuse_used(directory)
        if source is not None:
            (directory / _SOURCE).write_bytes(source.read_bytes() if text is None else text)
        TrialStore.create(directory / _TRIALS, experiment.outcomes).close()
    return Run(directory, record)


def extend(run: Run, budget: int, trials: int) -> Run:
    """Changes the budget of a run, records the change, and returns the run.

    Args:
      run: run to change.
      budget: new budget.
      trials: number of the run's trials.

    Raises:
      RunError: the run has more trials than that, or is in use, or cannot be written.
    """
    if budget < trials:
        raise RunError(f"{run.directory} already has {trials} trials: the budget must be at least that; got {budget}")
    change = {"from": run.record["budget"], "to": budget, "trials": trials, "time": _now()}
    return _update(run, {"budget": budget, "extensions": [*run.extensions, change]})


def accept_versions(run: Run, events: int, changed: str) -> Run:
    """Records that the run continues with other software versions, and returns the run.

    Args:
      run: run to change.
      events: number of asks and tells so far.
      changed: difference between the versions, as `software.differences` describes it.

    Raises:
      RunError: the run is in use or cannot be written.
    """
    change = {"events": events, "changed": changed, "time": _now()}
    return _update(run, {"accepted": [*run.accepted, change]})


def run_exists(directory: Path) -> bool:
    """Returns whether a folder contains a run."""
    return RUN.exists(local_path(directory))


def open_run(directory: Path) -> Run:
    """Returns the run in a folder.

    Raises:
      PathError: the folder is remote, or its name cannot be used.
      RunError: there is no run, or its config.json is damaged, incomplete or of another format.
    """
    directory = local_path(directory).absolute()
    return Run(directory, RUN.read(directory))


def _update(run: Run, changes: dict[str, Any]) -> Run:
    """Replaces config.json by a changed record. The file is also the lock, so no caller may hold the lock yet."""
    record = run.record | changes
    try:
        with RUN.lock(run.directory):
            replace_json(run.config, record)
    except OSError as error:
        raise RunError(f"cannot write to {run.directory}: {error.strerror}") from error
    return Run(run.directory, record)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _record(experiment: "Experiment", source: Path | None, config: Any) -> dict[str, Any]:
    if config is not None:
        config_json.check_config(config)
    return {
        "format": FORMAT,
        "experiment": experiment.name,
        "searcher": type(experiment.searcher).__name__,
        "source": None if source is None else str(source.absolute()),
        "working_folder": os.getcwd(),
        "seed": experiment.seed,
        "budget": experiment.budget,
        "batch": experiment.batch,
        "objectives": list(experiment.objectives),
        "config": None if config is None else config_json.encode_value(config),
        "space": experiment.space.definition(),
        "software": software.versions(),
        "created": _now(),
    }


def _refuse_used(directory: Path) -> None:
    """Raises `RunError` for a folder in use; deletes the files of a start killed before config.json existed."""
    names = set(os.listdir(directory))
    if _CONFIG in names:
        again = f"lanas resume {shlex.quote(str(directory))}"
        raise RunError(f"{directory} already contains a run. To continue it: {again}")
    names -= RUN.unfinished
    if names - {_SOURCE, _TRIALS, f"{_TRIALS}-journal"}:
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
