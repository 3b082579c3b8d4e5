"""Writes the report of a run directory: reads the trials and the ranking, replays the tree, renders the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from lanas_jax.ranking import result
from lanas_jax.report.learned_tree import learned_tree
from lanas_jax.report.page import ReportData, render
from lanas_jax.runtime.files import replace_text
from lanas_jax.storage.results import network_results
from lanas_jax.storage.trials import Trial, TrialStore
from lanas_jax.study import run_folder

if TYPE_CHECKING:
    from lanas_jax.study import Experiment

REFRESH = 20  # seconds between two versions of the report of a running search


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
        # The tree does not depend on the searcher's random key.
        tree, note = learned_tree(experiment.searcher, jax.random.key(experiment.seed), trials)
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
            refresh=None if running is None else REFRESH,
        )
    )
    replace_text(here.report, page)
    return here.report
