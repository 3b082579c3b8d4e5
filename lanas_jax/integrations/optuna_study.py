"""A run as a study of Optuna, for its dashboard and plots: ``lanas trials RUN --optuna sqlite:///run.db``.

Each trial has its options as parameters, its value or its values of several objectives, its state and its times. User
attributes have what Optuna has no place for: the reason of a failure, costs, seconds, the worker, and the code. A study
is a copy: the run itself stays as it is, and writing the study again replaces it.
"""

import datetime
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

try:
    import optuna
except ImportError as error:
    raise ImportError("studies need optuna, which is not installed: pip install 'lanas-jax[optuna]'") from error
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lanas_jax.one_call.result import Study
from lanas_jax.searchers.objectives import is_cost
from lanas_jax.spaces.choices import Choice
from lanas_jax.storage.trial import Status, Trial
from lanas_jax.storage.trial_file import is_trial_file
from lanas_jax.study.objectives import VALUES, reported

RUN = "lanas run"  # user attribute of a study: the folder of the run of which it is a copy
STATES = {Status.DONE: TrialState.COMPLETE, Status.FAILED: TrialState.FAIL, Status.PENDING: TrialState.RUNNING}
ATTRIBUTES = (
    "reason", "batch", "multiply_adds", "parameters", "compile_seconds", "train_seconds", "steps", "worker", "tries",
)  # fmt: skip
_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///(?:file:)?([^?]+)")


def write_study(run: Study, url: str, name: str | None = None) -> str:
    """Writes a run to a storage of Optuna and returns the name of the study.

    Args:
      run: run, finished or not.
      url: storage as Optuna accepts it, such as ``sqlite:///run.db``.
      name: name of the study; default: the name of the run's folder. A study of that name is replaced if it was written
        from the same run.

    Raises:
      ValueError: the storage cannot be opened or written, it is the trials file of a run, or it has a study of the name
        that was not written from this run.
    """
    name = run.directory.name if name is None else name
    if "://" not in url:
        raise ValueError(f"{url!r} is not the URL of a storage: give one such as sqlite:///run.db")
    if (file := _SQLITE.match(url)) is not None and is_trial_file(Path(file[1])):
        raise ValueError(f"{file[1]} has the trials of a run, which a study would damage: give the URL of another file")
    try:
        storage = optuna.storages.get_storage(url)
    except Exception as error:  # of SQLAlchemy, of the driver of a database, or of Optuna
        raise ValueError(f"the storage {url} cannot be opened: {_first_line(error)}") from error
    try:
        _write(run, storage, url, name)
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        raise ValueError(f"the storage {url} cannot be written: {_first_line(error.__cause__ or error)}") from error
    finally:
        storage.remove_session()
    return name


def distribution_of(choice: Choice) -> BaseDistribution:
    """Returns the distribution that shows a choice best: a range for a scale, on a logarithmic axis if it is one."""
    numbers = [option for option in choice.options if isinstance(option, int | float) and not isinstance(option, bool)]
    if not choice.is_scale or len(numbers) < len(choice.options):
        return CategoricalDistribution(choice.options)
    low, high = min(numbers), max(numbers)
    steps = np.diff(np.log(np.sort(np.array(numbers, float)))) if low > 0 else np.array([])
    log = bool(steps.size) and math.isclose(steps.max(), steps.min(), rel_tol=0.05)
    if all(isinstance(number, int) for number in numbers):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _write(run: Study, storage: optuna.storages.BaseStorage, url: str, name: str) -> None:
    if name in optuna.get_all_study_names(storage):
        written = optuna.load_study(study_name=name, storage=storage)
        if written.user_attrs.get(RUN) != str(run.directory):
            raise ValueError(
                f"{url} has another study named {name!r}, which is not of {run.directory}: give another URL"
            )
        optuna.delete_study(study_name=name, storage=storage)
    directions = [
        StudyDirection.MINIMIZE if is_cost(objective) else StudyDirection.MAXIMIZE
        for objective in run.objectives or VALUES[:1]
    ]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    study.set_user_attr(RUN, str(run.directory))
    study.set_user_attr("objective", run.name)
    study.set_user_attr("budget", run.budget)
    if run.objectives:
        study.set_user_attr("objectives", list(run.objectives))
    distributions = {choice.name: distribution_of(choice) for choice in run.space.choices}
    study.add_trials([_frozen(run, trial, distributions) for trial in run.trials])


def _frozen(run: Study, trial: Trial, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    params = run.options(trial)
    attributes: dict[str, Any] = {name: getattr(trial, name) for name in ATTRIBUTES} | dict(trial.outcomes)
    attributes = {name: value for name, value in attributes.items() if value is not None}
    finished = None if trial.status == Status.PENDING else trial.finished
    started = trial.started or finished or time.time()
    return FrozenTrial(
        number=-1,  # the storage numbers the trials, in the order in which they are added
        trial_id=-1,
        state=STATES[trial.status],
        value=None,
        values=None if trial.value is None else _values(run, trial),
        datetime_start=datetime.datetime.fromtimestamp(started),
        datetime_complete=None if finished is None else datetime.datetime.fromtimestamp(finished),
        params=params,
        distributions={name: distributions[name] for name in params},
        user_attrs={"code": list(trial.code), **attributes, "software": dict(trial.software)},
        system_attrs={},
        intermediate_values={},
    )


def _values(run: Study, trial: Trial) -> list[float]:
    """Returns the values of a finished trial; a cost as it is."""
    found = [reported(trial, name) for name in run.objectives or VALUES[:1]]
    return [number for number in found if number is not None]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
