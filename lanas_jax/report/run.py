"""Writes the report of a run directory: reads the trials and the ranking, replays the tree, renders the page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from lanas_jax.ranking import result
from lanas_jax.report.learned_tree import learned_tree
from lanas_jax.report.page import ReportData, render
from lanas_jax.runtime.files import replace_text
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import run_folder

if TYPE_CHECKING:
    from lanas_jax.study import Experiment


def write_report(run_directory: Path, experiment: "Experiment | None" = None) -> Path:
    """Writes the report of a run, finished or not, into its folder.

    Args:
      run_directory: run directory.
      experiment: experiment of the run; default: built again from the copy of its file in the run directory.

    Returns:
      The path of the report, one self-contained HTML file.

    Raises:
      RunError: the folder contains no run; or the run was started from Python and `experiment` is not given; or the
        files of its ranking are damaged.
      ExperimentError: the experiment's file no longer builds.
      TrialStoreError: the trials file belongs to another program or is damaged.
    """
    here = run_folder.open_run(run_directory)
    with TrialStore.open(here.trials, read_only=True) as store:
        trials, final = store.trials(), store.final()
    experiment = here.experiment() if experiment is None else experiment
    # The tree does not depend on the searcher's random key.
    tree, note = learned_tree(experiment.searcher, jax.random.key(experiment.seed), trials)
    page = render(
        ReportData(
            name=experiment.name,
            space=experiment.space,
            trials=trials,
            budget=experiment.budget,
            final=final,
            config=_settings(here.record),
            tree=tree,
            tree_note=note,
            ranking=result.read_ranking(here.directory / result.FOLDER),
        )
    )
    replace_text(here.report, page)
    return here.report


def _settings(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the recorded settings of the run, one line per setting."""
    settings = {name: record[name] for name in ("experiment", "source", "created", "seed", "budget", "batch")}
    settings |= record["config"] or {}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in settings.items()
        if value is not None
    }
