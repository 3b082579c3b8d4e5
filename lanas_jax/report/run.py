"""Writes the report of a run directory, or of several: reads trials and ranking, replays the tree, renders the page."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lanas_jax.evaluators.base import NamesValue
from lanas_jax.ranking import result
from lanas_jax.report.curves import EpochCurves
from lanas_jax.report.learned_tree import learned_tree
from lanas_jax.report.live import REFRESH
from lanas_jax.report.page import ReportData, render
from lanas_jax.report.several import RunData, render_runs
from lanas_jax.runtime.files import replace_text
from lanas_jax.runtime.paths import local_path
from lanas_jax.searchers.lanas import LaNAS
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.choices import choice_from_definition
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.metrics import read_metrics
from lanas_jax.storage.results import network_results
from lanas_jax.storage.trial import Trial
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import run_folder
from lanas_jax.supernet.base import TrainedAhead
from lanas_jax.supernet.watching import SUFFIX
from lanas_jax.trainer.folder import COLUMNS

if TYPE_CHECKING:
    from lanas_jax.study import Experiment


def write_runs_report(directories: Sequence[Path], out: Path) -> Path:
    """Writes one report of several runs side by side, finished or not.

    Args:
      directories: at least one run directory.
      out: file to write.

    Returns:
      The absolute path of the report, one self-contained HTML file.

    Raises:
      PathError: a path is remote, or its name cannot be used.
      RunError, ExperimentError, TrialStoreError: as in `write_report`; a run that was started from Python is shown
        without its experiment.
      OSError: the file cannot be written.
    """
    opened = [run_folder.open_run(directory) for directory in directories]
    here = list({run.directory: run for run in opened}.values())
    places = _short_names([run.directory for run in here])
    page = render_runs([_run_data(run, place) for run, place in zip(here, places, strict=True)])
    out = local_path(out).absolute()
    replace_text(out, page)
    return out


def _run_data(here: run_folder.Run, place: str) -> RunData:
    with TrialStore.open(here.trials, read_only=True) as store:
        trials = store.trials()
    record, config = here.record, here.record["config"] or {}
    recorded = config.get("searcher")  # names a variant, such as one with published constants
    searcher = recorded if isinstance(recorded, str) else record.get("searcher", "unknown searcher")
    return RunData(
        place=place,
        name=record["experiment"],
        searcher=searcher,
        seed=record["seed"],
        budget=record["budget"],
        trials=trials,
        space=_space_of(here),
        settings=here.settings,
        final=here.result,
        objectives=here.objectives,
    )


def _space_of(here: run_folder.Run) -> SearchSpace:
    """Returns the space of a run; that of a run from Python has choices alone, without costs and graphs."""
    if here.source.exists():
        return here.experiment().space
    if (definition := here.record.get("space")) is None:
        raise RunError(f"{here.directory} does not record its space")
    return SearchSpace(map(choice_from_definition, definition["choices"]))


def _supernet_curves(here: run_folder.Run, experiment: "Experiment") -> EpochCurves | None:
    """Returns the accuracies in metrics.csv of the supernet's training; None without any, or if it is damaged."""
    evaluator = experiment.evaluator
    if not isinstance(evaluator, TrainedAhead):
        return None
    path = (evaluator.supernet_directory or here.directory / "supernet") / "metrics.csv"
    if not path.is_file():
        return None
    try:
        columns = {name: np.array(column) for name, column in read_metrics(path).items()}
    except ValueError:  # a damaged file does not stop a report
        return None
    watched = {name.removesuffix(SUFFIX): column for name, column in columns.items() if name not in COLUMNS}
    measured = ~np.isnan(next(iter(watched.values()), np.zeros(0)))
    if not measured.any():
        return None
    return EpochCurves(columns["epoch"][measured], {name: column[measured] for name, column in watched.items()})


def _short_names(directories: Sequence[Path]) -> list[str]:
    """Returns the paths of the runs without the folders that they share."""
    shared = os.path.commonpath([directory.parent for directory in directories])
    return [directory.relative_to(shared).as_posix() for directory in directories]


def write_report(
    run_directory: Path, experiment: "Experiment | None" = None, running: Sequence[Trial] | None = None
) -> Path:
    """Writes the report of a run, finished or not, into its folder.

    Args:
      run_directory: run directory.
      experiment: experiment of the run; default: built again from the copy of its file in the run directory.
      running: trials so far of a search that is running in this process; the report then has no tree, which takes long
        to learn again, and browsers reload it.

    Returns:
      The path of the report, one self-contained HTML file.

    Raises:
      RunError: the folder contains no run; or the run was started from Python and `experiment` is not given; or the
        files of its ranking are damaged.
      ExperimentError: the experiment's file no longer builds.
      TrialStoreError: the trials file belongs to another program or is damaged.
    """
    here = run_folder.open_run(run_directory)
    experiment = here.experiment() if experiment is None else experiment
    if running is None:
        with TrialStore.open(here.trials, read_only=True) as store:
            trials: Sequence[Trial] = store.trials()
        tree, note = learned_tree(experiment.searcher, experiment.seed, trials)
    else:
        trials, tree, note = running, None, "The tree is drawn when the search has ended."
    page = render(
        ReportData(
            name=experiment.name,
            space=experiment.space,
            trials=trials,
            budget=experiment.budget,
            final=here.result,
            networks_tested=len(network_results(here.directory)),
            config=here.settings,
            tree=tree,
            tree_note=note,
            ranking=result.read_ranking(here.directory / result.FOLDER),
            against=result.read_against(here.directory),
            draws=experiment.searcher.initial if isinstance(experiment.searcher, LaNAS) else 0,
            refresh=None if running is None else REFRESH,
            supernet=_supernet_curves(here, experiment),
            objectives=here.objectives,
            reference=getattr(experiment.searcher, "reference", None),
            value_name=evaluator.value_name if isinstance(evaluator := experiment.evaluator, NamesValue) else None,
        )
    )
    replace_text(here.report, page)
    return here.report
