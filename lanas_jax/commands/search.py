"""``lanas search`` and ``lanas resume``: run a search, from its arguments to its report."""

import contextlib
import dataclasses
import datetime
import shlex
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lanas_jax.commands.base import (
    ACCEPT_VERSIONS,
    REFUSALS,
    Folder,
    RefusedError,
    keep_programs,
    parse_settings,
    parsed,
    terminal,
    use_every_core,
    with_traceback,
)
from lanas_jax.runtime.files import inside_folder
from lanas_jax.storage.folder import RunError, new_directory
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import discovery, run_folder
from lanas_jax.study.run_folder import Run
from lanas_jax.study.winner import same_network

if TYPE_CHECKING:
    from lanas_jax.commands.cluster_options import Where
    from lanas_jax.study import Experiment

BUDGET = "new total number of trials, at least those recorded; the first trials stay as they are"
SEARCH_HELP = """\
usage: lanas search EXPERIMENT [--out DIR] [settings of the experiment]

Searches, trains the winner if the experiment says how, and writes a report, all in one folder: DIR, or a new folder
under runs/. lanas train RUN trains the winner of an experiment whose search does not.
Ctrl-C stops; lanas resume continues.
Compiled programs are cached for later runs in ~/.cache/lanas_jax; LANAS_COMPILE_CACHE=off disables the cache.

EXPERIMENT is one of

{experiments}

or the path of a Python file like those. For an experiment's settings: lanas search EXPERIMENT --help
"""


def search(arguments: Sequence[str]) -> int:
    """Searches, trains the winner, and writes the report."""
    if not arguments or arguments[0] in ("-h", "--help"):
        found = discovery.experiments()
        lines = [f"  {name:<12}{discovery.summary(path)}" for name, path in found.items()] or ["  (none installed)"]
        print(SEARCH_HELP.format(experiments="\n".join(lines)), end="")
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise RefusedError("the experiment must come first: lanas search EXPERIMENT [--out DIR] [settings]")
    keep_programs()
    use_every_core()
    source = discovery.find_experiment(arguments[0])
    module = discovery.load_experiment(source)
    out, where, config = _search_arguments(arguments[0], module, arguments[1:])
    if out is not None and run_folder.run_exists(out):  # checked before the experiment loads its data
        raise RunError(f"{out} already contains a run. To continue it: lanas resume {shlex.quote(str(out))}")
    with where.connected(), contextlib.ExitStack() as stack:
        experiment = run_folder.build_experiment(module, config)
        _check_winner(experiment)
        new = new_directory(experiment.name, datetime.datetime.now())
        directory = stack.enter_context(new) if out is None else out
        here = run_folder.create(directory, experiment, source, config, discovery.text_of(module))
        return _carry_out(experiment, here, where)


def resume(arguments: Sequence[str]) -> int:
    """Continues an interrupted search."""
    from lanas_jax.commands.cluster_options import Where

    def parse(
        run: Folder,
        /,
        where: Annotated[Where, tyro.conf.arg(name="")] = Where(),  # noqa: B008
        budget: Annotated[int | None, tyro.conf.arg(metavar="N", help=BUDGET)] = None,
        accept_versions: ACCEPT_VERSIONS = False,
    ) -> Any:
        """Continue an interrupted search, or extend a finished one.

        The remaining trials are those it would have had without the interruption.
        """
        return run, where, budget, accept_versions

    directory, where, budget, accept = parsed(parse, "resume", arguments)
    here = run_folder.open_run(directory)
    TrialStore.open(here.trials).close()
    keep_programs()
    use_every_core()
    with where.connected(), inside_folder(here.working_folder):
        experiment = here.experiment()
        if budget is not None:
            experiment = with_budget(experiment, budget)
        return _carry_out(experiment, here, where, extend=budget is not None, accept_versions=accept)


def with_budget(experiment: "Experiment", budget: int) -> "Experiment":
    """Returns an experiment with another budget.

    Raises:
      RefusedError: the budget is not positive.
    """
    try:
        return dataclasses.replace(experiment, budget=budget)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _search_arguments(name: str, module: Any, arguments: Sequence[str]) -> tuple[Path | None, "Where", Any]:
    """Parses the run directory (or None), the place where trials run, and the experiment's `Config`."""
    from lanas_jax.commands.cluster_options import Where

    out = tyro.conf.arg(metavar="DIR", help="new or empty run folder; default: a new folder under runs/")
    options = [
        ("out", Annotated[Path | None, out], dataclasses.field(default=None, kw_only=True)),
        ("where", Annotated[Where, tyro.conf.arg(name="")], dataclasses.field(default_factory=Where, kw_only=True)),
    ]
    about = f"{module.__doc__ or ''}"
    given = parse_settings(f"search {name}", arguments, {"config": (module.Config,)}, options, description=about)
    return given.out, given.where, given.config


def _check_winner(experiment: "Experiment") -> None:
    """Checks the winner training before anything is written."""
    from lanas_jax.study.winner import check_winner

    if experiment.winner is None:
        return
    try:
        check_winner(experiment)
    except ValueError as error:
        raise RefusedError(f"the winner training of {experiment.name}: {error}") from error


def _carry_out(experiment: "Experiment", here: Run, where: "Where", **how: bool) -> int:
    """Runs a study with live progress; if it is stopped, prints how to continue."""
    from lanas_jax import report, study
    from lanas_jax.commands import summary
    from lanas_jax.evaluators.faults import describe_error
    from lanas_jax.runtime.interruption import handle_signals
    from lanas_jax.study.display import StudyDisplay

    console = terminal()
    console.print(f"{experiment.name}: {experiment.budget} trials, in {here.directory}", soft_wrap=True)
    display = StudyDisplay(console)
    with handle_signals(display.note) as interruption:
        try:
            with display, where.workers(experiment, here, display) as workers:
                progress = report.LiveReport(display, here.directory, experiment)
                result = study.run(experiment, here.directory, progress, workers=workers, **how)
            report.write_report(here.directory, experiment)
        except KeyboardInterrupt:
            return _stopped(here, "stopped", interruption.exit_code)
        except (*REFUSALS, sqlite3.OperationalError, BrokenPipeError):
            raise
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) and error.code else 1
            return _stopped(here, f"the experiment ended the process: {describe_error(error)}", code)
        except Exception as error:
            return _stopped(here, with_traceback(error, here.directory), 1)
    summary.show_result(console, experiment.space, result.trials, result.final)
    winner, earlier = result.best, _trained_code(here)
    if winner is not None and earlier is not None and not same_network(experiment.space, winner.code, earlier):
        console.print(
            f"{here.final} keeps the training of an earlier winner ({','.join(map(str, earlier))}); "
            f"to train the new one: lanas train {shlex.quote(str(here.directory))} --out DIR",
            soft_wrap=True,
        )
    console.print(f"report: {here.report}", soft_wrap=True)
    return 0


def _trained_code(here: Run) -> tuple[int, ...] | None:
    """Returns the code whose training is in the run's folder ``final``, or None."""
    from lanas_jax.trainer import folder as folders

    trained = here.final
    return tuple(folders.open_folder(trained).record["code"]) if folders.training_exists(trained) else None


def _stopped(here: Run, why: str, exit_code: int) -> int:
    with TrialStore.open(here.trials, read_only=True) as store:
        finished = sum(trial.finished is not None for trial in store.trials())
    again = f"lanas resume {shlex.quote(str(here.directory))}"
    print(f"{why}\n{finished} finished trials are saved. To continue: {again}", file=sys.stderr)
    return exit_code
