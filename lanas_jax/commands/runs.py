"""``lanas report``, ``lanas trials`` and ``lanas tree``: the commands that inspect a run.

JAX is imported where it is used, so that help and listings start fast.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from lanas_jax.commands.base import Folder, RefusedError, parsed
from lanas_jax.commands.reading import READING, Reading
from lanas_jax.runtime.console import print_table, terminal
from lanas_jax.storage import software
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import run_folder


def report(arguments: Sequence[str]) -> int:
    """Writes the report of a run again, or one of several runs."""

    def parse(
        run: Folder,
        others: Annotated[
            tuple[Path, ...], tyro.conf.arg(metavar="[RUN ...]", help="more runs, to show all of them side by side")
        ] = (),
        /,
        out: Annotated[
            Path | None,
            tyro.conf.arg(
                metavar="FILE", help="output file, for several runs only", help_behavior_hint="(default: runs.html)"
            ),
        ] = None,
        reading: READING = Reading(),  # noqa: B008
    ) -> Any:
        """Write the report of a run again, finished or not: RUN/report.html, one self-contained file.

        Given several runs, write one report of all of them: best values with bands per searcher, costs, winners.
        """
        return [run, *others], out, reading

    directories, out, reading = parsed(parse, "report", arguments)
    here = [run_folder.open_run(directory) for directory in directories]
    if len(here) == 1 and out is not None:
        raise RefusedError("--out is the file of a report of several runs; the report of one is RUN/report.html")
    if len(here) > 1 and reading.changes:
        raise RefusedError("--data-dir and --workers are for the report of one run")
    from lanas_jax import report as reports

    if len(here) == 1:
        experiment = dataclasses.replace(here[0], changes=reading.changes).experiment() if reading.changes else None
        print(reports.write_report(here[0].directory, experiment))
    else:
        print(reports.write_runs_report([run.directory for run in here], out or Path("runs.html")))
    return 0


def trials(arguments: Sequence[str]) -> int:
    """Lists the trials of a run, or writes them to a storage of Optuna."""

    def parse(
        run: Folder,
        /,
        csv: Annotated[bool, tyro.conf.arg(help="CSV output with every recorded field")] = False,
        optuna: Annotated[
            str | None,
            tyro.conf.arg(metavar="URL", help="Optuna storage to write a study to, such as sqlite:///run.db"),
        ] = None,
    ) -> Any:
        """List the trials of a run, or write them as a study of Optuna, for its dashboard."""
        return run, csv, optuna

    directory, as_csv, url = parsed(parse, "trials", arguments)
    if url is not None:
        _write_study(directory, url)
        return 0
    from lanas_jax.commands import summary

    with TrialStore.open(run_folder.open_run(directory).trials, read_only=True) as store:
        found = store.trials()
    if as_csv:
        print(summary.trials_csv(found), end="")
        return 0
    console = terminal()
    print_table(console, summary.trials_table(found))
    console.print(summary.counts(found))
    if changed := software.versions_by_trial({trial.id: trial.software for trial in found}):
        console.print(f"versions: {changed}", soft_wrap=True)
    return 0


def _write_study(directory: Path, url: str) -> None:
    """Writes a run to a storage of Optuna and prints where it is."""
    from lanas_jax.one_call.search import load

    run = load(directory)
    try:
        from lanas_jax.integrations.optuna_study import write_study

        name = write_study(run, url)
    except (ValueError, ImportError) as error:
        raise RefusedError(str(error)) from error
    terminal().print(f"{len(run.trials)} trials: study {name!r} in {url}", soft_wrap=True)


def tree(arguments: Sequence[str]) -> int:
    """Draws the tree that a search has learned."""

    def parse(
        run: Folder,
        /,
        features: Annotated[int, tyro.conf.arg(metavar="N", help="number of features named per split")] = 6,
        json: Annotated[bool, tyro.conf.arg(help="JSON output instead of a drawing")] = False,
        reading: READING = Reading(),  # noqa: B008
    ) -> Any:
        """Draw the tree that a search has learned and name the features that decide each split.

        A weight is per unit of its feature, in the units of the tree's targets: normal scores of ranks by default.
        """
        return run, features, json, reading

    directory, features, as_json, reading = parsed(parse, "tree", arguments)
    here = dataclasses.replace(run_folder.open_run(directory), changes=reading.changes)
    from lanas_jax.report import learned_tree

    experiment = here.experiment()
    with TrialStore.open(here.trials, read_only=True) as store:
        found = store.trials()
    nodes, why = learned_tree.learned_tree(experiment.searcher, experiment.seed, found, features)
    if as_json:
        print(json.dumps(learned_tree.as_json(nodes or [])))
    elif nodes is None:
        print(why)
    else:
        terminal().print(learned_tree.drawing(nodes, "hypervolume" if experiment.objectives else "mean"))
    return 0
