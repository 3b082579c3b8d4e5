"""A search in one call: `search` runs it in a folder, or continues it; `load` reads such a folder."""

import contextlib
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lanas_jax.evaluators.from_function import FromFunction
from lanas_jax.one_call.notebook import NotebookDisplay
from lanas_jax.one_call.result import Study
from lanas_jax.report import LiveReport, write_report
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.paths import local_path
from lanas_jax.searchers.base import Searcher
from lanas_jax.searchers.lanas import LaNAS
from lanas_jax.searchers.objectives import check_objectives, quantity
from lanas_jax.searchers.pareto_lanas import ParetoLaNAS
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.choices import choice_from_definition
from lanas_jax.storage.folder import RunError, new_directory
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import loop, run_folder
from lanas_jax.study.display import StudyDisplay
from lanas_jax.study.experiment import Experiment
from lanas_jax.study.local_workers import LocalWorkers
from lanas_jax.study.objectives import NAMES


def search(
    objective: Callable[..., Any],
    space: SearchSpace,
    budget: int,
    directory: Path | str | None = None,
    *,
    seed: int = 0,
    batch: int = 1,
    searcher: Searcher | None = None,
    objectives: Sequence[str] = (),
    workers: int = 1,
    accept_versions: bool = False,
    verbose: bool = True,
) -> Study:
    """Searches a space for the options with the highest value of a function, or continues the search in a folder.

    Every trial is saved as soon as it is finished. The same call continues a search that was interrupted or killed,
    with the same trials as without the interruption; a call with a larger budget extends it. An exception of the
    objective or a value that is not finite is a failed trial with a reason; exceptions for 8 trials in a row stop the
    search::

        def train(width, depth):
            ...
            return accuracy

        space = lx.SearchSpace([lx.Choice("width", (16, 32, 64)), lx.Range("depth", 1, 8)])
        study = lx.search(train, space, budget=20, directory="runs/mine")
        study.best_options  # {"width": 32, "depth": 5}

    Args:
      objective: function called with the options of a code as keywords, without inactive choices. It returns the value
        to maximize, or a dictionary with `value`, any of `multiply_adds`, `parameters` and `steps`, and the other
        `objectives` under their names without a minus. The report shows them all.
      space: search space.
      budget: total number of trials.
      directory: run folder, new or from an earlier call; default: a new folder under ``runs/``.
      seed: random seed of the search.
      batch: number of trials that are proposed and told together.
      searcher: algorithm that proposes codes of the space; default: ``LaNAS(space)``, or with several objectives
        ``ParetoLaNAS(space, objectives)``.
      objectives: names of two to four objectives, of which the search finds the front: ``value``, ``multiply_adds``,
        ``parameters``, or other keys of the dictionary that the objective returns, with a minus in front if less is
        better: ``("value", "-energy")``. The best trial is then the knee of the front.
      workers: number of calls of the objective at a time, in threads of this process. With batches of one, a finished
        call is followed by the next at once, and the trials depend on the order in which calls finish.
      accept_versions: if True, a run continues even if software versions differ from those of its trials.
      verbose: if True, shows the progress.

    Returns:
      The result, also displayed by notebooks.

    Raises:
      ValueError: the objective is not a function or cannot be called with the options; the space is not a
        `SearchSpace`, or the searcher's is another; budget, batch or workers is below 1, or the seed below 0; or the
        objectives are not as above, or not those of the searcher.
      RunError: the folder contains another search, as in `lanas_jax.study.run`.
      StudyError: the objective failed for 8 trials in a row, called ``sys.exit`` or returned a dictionary that is not
        as above; or the searcher now proposes trials other than those recorded.
      PathError, TrialStoreError: as in `lanas_jax.study.run`.
    """
    if not isinstance(space, SearchSpace):
        raise ValueError(f"space must be a SearchSpace; got {space!r}")
    names = check_objectives(objectives) if objectives else ()
    evaluator = FromFunction(space, objective, tuple(quantity(name) for name in names if quantity(name) not in NAMES))
    if searcher is None:
        searcher = ParetoLaNAS(space, names) if names else LaNAS(space)
    if not isinstance(searcher, Searcher) or isinstance(searcher, type):
        raise ValueError(f"searcher must be a searcher, such as RandomSearch(space); got {searcher!r}")
    if searcher.space != space:
        raise ValueError("the searcher's space is not the space to search: build the searcher with that space")
    name = _name_of(objective)
    experiment = Experiment(name, space, searcher, evaluator, budget, batch, seed, objectives=names)
    local = LocalWorkers(experiment, workers)
    console = terminal(quiet=not verbose)
    display = NotebookDisplay(console) if verbose and console.is_jupyter else StudyDisplay(console)
    with contextlib.ExitStack() as stack:
        new = new_directory(experiment.name, datetime.datetime.now())
        folder = stack.enter_context(new) if directory is None else local_path(directory)
        console.print(f"{experiment.name}: {experiment.budget} trials, in {folder}", soft_wrap=True)
        stack.enter_context(display)
        try:
            progress = LiveReport(display, folder, experiment)
            result = loop.run(experiment, folder, progress, workers=local, extend=True, accept_versions=accept_versions)
        except KeyboardInterrupt:
            display.note(
                f"stopped: the finished trials are saved. To continue: the same call with directory={str(folder)!r}"
            )
            raise
        write_report(result.directory, experiment)
    return Study(result.directory, experiment.name, space, result.trials, experiment.budget, experiment.objectives)


def load(directory: Path | str) -> Study:
    """Reads the run in a folder, whether its search is finished, running in another process, or interrupted.

    Args:
      directory: run folder, from `search` or from the command line.

    Raises:
      RunError: there is no run in the folder.
      PathError, TrialStoreError: the folder is remote, or its trials file is damaged.
    """
    here = run_folder.open_run(local_path(directory))
    if (definition := here.record.get("space")) is None:
        raise RunError(f"{here.directory} does not record its space")
    with TrialStore.open(here.trials, read_only=True) as store:
        trials = store.trials()
    space = SearchSpace(map(choice_from_definition, definition["choices"]))
    return Study(here.directory, here.record["experiment"], space, trials, here.record["budget"], here.objectives)


def _name_of(objective: Any) -> str:
    """Returns the name of a function, or of the function or class of another callable."""
    inner = getattr(objective, "func", objective)  # of functools.partial
    return str(getattr(inner, "__name__", type(inner).__name__))
