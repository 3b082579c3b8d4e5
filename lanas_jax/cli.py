"""The command line ``lanas``, one function per command.

It only parses, calls and prints; errors that a person can mend become one message and exit code 2. JAX is imported
where it is used, so that help and listings answer at once.
"""

import dataclasses
import datetime
import sqlite3
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lanas_jax import config_json, discovery, runs
from lanas_jax.cluster.connection import ClusterError
from lanas_jax.command_line import Folder, parsed, terminal
from lanas_jax.run_commands import report, tree, trials
from lanas_jax.runs import Run
from lanas_jax.trials import TrialStore, TrialStoreError

if TYPE_CHECKING:
    from lanas_jax.cluster.command import Where

HELP = """\
lanas finds good neural networks after training few of them (LaNAS, arXiv 1906.06832).

usage: lanas COMMAND ...

  search EXPERIMENT   search, retrain the winner, write a report
  resume RUN          continue a search that was interrupted
  train RUN           train the best network of a search to the end, as published results are trained
  export RUN          write out the weights of that network, and what loads them
  supernet EXPERIMENT train the supernet of a one-shot search beforehand, on one host or on many
  extract RUN         take a network out of the supernet of a one-shot or few-shot search
  plan EXPERIMENT     compile it for a TPU slice that need not be here: does it fit, how many chip-hours?
  rank RUN            train a sample of networks: does the supernet of the search rank them?
  report RUN          write the report of a run again
  trials RUN          list the trials of a run, as a table or as CSV
  tree RUN            what the search has learned: which choices are good, region by region
  describe SPACE      draw the network that a code stands for, or a published one, and count what it costs
  tables              list the benchmark tables; make one from its official files
  compare TABLE       how many samples do searchers need on a benchmark table?

A RUN is the folder that a search wrote. lanas COMMAND --help says more. To begin with:

  lanas search digits
"""

SEARCH_HELP = """\
usage: lanas search EXPERIMENT [--out DIR] [settings of the experiment]

Searches, retrains the winner, and writes a report, all into one folder: a new one under runs/, or DIR.
Ctrl-C stops; lanas resume continues.
Compiled programs are kept for later runs, in ~/.cache/lanas_jax; LANAS_COMPILE_CACHE=off keeps none.

EXPERIMENT is one of

{experiments}

or the path of a Python file like those. For an experiment's settings: lanas search EXPERIMENT --help
"""

TABLES_HELP = """\
usage: lanas tables
       lanas tables convert SOURCE OUT.npz [--dataset NAME]

Lists the benchmark tables, and whether their files are in the folder that LANAS_DATA names; or makes such a file.
"""


class RefusedError(Exception):
    """A command that cannot be carried out as given."""


REFUSALS = (
    RefusedError,
    ClusterError,
    discovery.ExperimentError,
    config_json.ConfigError,
    runs.RunError,
    TrialStoreError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: without the program's name; default: those of this process.

    Returns:
      The exit code: 0; 1 where the search could not go on; 2 where the command has to be changed; 130 after Ctrl-C.
    """
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command not in COMMANDS:
        print(f"lanas: there is no command {command!r}. There are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[command](rest)
    except REFUSALS as error:
        print(f"lanas {command}: {error}", file=sys.stderr)
        return 2
    except sqlite3.OperationalError as error:  # a full disk, a file system that went away
        print(f"lanas {command}: the trials file cannot be used: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # lanas trials RUN | head
        sys.stderr.close()
        return 0


def search(arguments: Sequence[str]) -> int:
    """Searches, retrains the winner, writes the report."""
    if not arguments or arguments[0] in ("-h", "--help"):
        found = discovery.experiments()
        lines = [f"  {name:<12}{discovery.summary(path)}" for name, path in found.items()] or ["  (none is installed)"]
        print(SEARCH_HELP.format(experiments="\n".join(lines)), end="")
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise RefusedError("the experiment comes first: lanas search EXPERIMENT [--out DIR] [settings]")
    _keep_programs()
    _use_every_core()
    source = discovery.find(arguments[0])
    module = discovery.load(source)
    out, where, config = _search_arguments(arguments[0], module, arguments[1:])
    if out is not None and runs.exists(out):  # before the experiment loads its data
        raise runs.RunError(f"{out} holds a run already. To continue it: lanas resume {out}")
    with where.connected():
        experiment = runs.build(module, config)
        directory = runs.default_directory(experiment.name, datetime.datetime.now()) if out is None else out
        return _carry_out(experiment, runs.create(directory, experiment, source, config), where)


def resume(arguments: Sequence[str]) -> int:
    """Continues an interrupted search."""
    from lanas_jax.cluster.command import Where

    def parse(run: Folder, /, where: Annotated[Where, tyro.conf.arg(name="")] = Where()) -> Any:  # noqa: B008
        """Continue a search that was interrupted, by Ctrl-C or by a crash, to the trials it would have had without."""
        return run, where

    directory, where = parsed(parse, "resume", arguments)
    here = runs.open_run(directory)
    TrialStore.open(here.trials).close()
    _keep_programs()
    _use_every_core()
    with where.connected():
        return _carry_out(here.experiment(), here, where)


def train(arguments: Sequence[str]) -> int:
    """Trains the best network of a run."""
    from lanas_jax.description import CodeError
    from lanas_jax.distributed import DistributedError
    from lanas_jax.final import command

    _keep_programs()
    try:
        return command.train(terminal(), arguments)
    except (ValueError, CodeError, DistributedError) as error:
        raise RefusedError(str(error)) from error


def export(arguments: Sequence[str]) -> int:
    """Writes the trained weights out."""
    from lanas_jax.final import command
    from lanas_jax.final.exported import MissingPackageError

    try:
        return command.export(terminal(), arguments)
    except (OSError, MissingPackageError) as error:
        raise RefusedError(str(error)) from error


def supernet(arguments: Sequence[str]) -> int:
    """Trains the supernet of a search beforehand."""
    from lanas_jax.distributed import DistributedError
    from lanas_jax.supernet import ahead

    _keep_programs()
    try:
        return ahead.supernet(terminal(), arguments)
    except (ValueError, DistributedError) as error:
        raise RefusedError(str(error)) from error


def extract(arguments: Sequence[str]) -> int:
    """Takes a network out of a supernet."""
    from lanas_jax.description import CodeError
    from lanas_jax.evaluators.base import NotPreparedError
    from lanas_jax.final.exported import MissingPackageError
    from lanas_jax.supernet import command

    try:
        return command.extract(terminal(), arguments)
    except (OSError, MissingPackageError, NotPreparedError, CodeError) as error:
        raise RefusedError(str(error)) from error


def rank(arguments: Sequence[str]) -> int:
    """Compares estimates with training from scratch."""
    from lanas_jax.ranking import command
    from lanas_jax.ranking.task import RankingError

    _keep_programs()
    _use_every_core()
    try:
        return command.rank(terminal(), arguments)
    except RankingError as error:
        raise RefusedError(str(error)) from error


def plan(arguments: Sequence[str]) -> int:
    """Says what an experiment's programs need on another machine."""
    from lanas_jax.planning import command
    from lanas_jax.planning.topology import MissingLibtpuError

    try:
        return command.plan(terminal(), arguments)
    except (ValueError, MissingLibtpuError) as error:
        raise RefusedError(str(error)) from error


def describe(arguments: Sequence[str]) -> int:
    """Draws a network."""
    from lanas_jax import description_command
    from lanas_jax.description import CodeError

    try:
        return description_command.describe(arguments)
    except CodeError as error:
        raise RefusedError(str(error)) from error


def tables(arguments: Sequence[str]) -> int:
    """Lists benchmark tables, or makes one."""
    from lanas_jax.tables import listing

    def parse(
        source: Annotated[Path, tyro.conf.arg(metavar="SOURCE", help="official file or folder, or an .npz file")],
        out: Annotated[Path, tyro.conf.arg(metavar="OUT.npz", help="the file to write")],
        /,
        dataset: Annotated[
            str | None, tyro.conf.arg(metavar="NAME", help="cifar10, cifar100 or imagenet16, of NATS-Bench")
        ] = None,
    ) -> Any:
        """Make a table that loads in seconds from the official files of NAS-Bench-101 or NATS-Bench."""
        return source, out, dataset

    if not arguments:
        terminal().print(listing.listing())
        return 0
    if arguments[0] != "convert":
        print(TABLES_HELP, end="")
        return 0 if arguments[0] in ("-h", "--help") else 2
    try:
        listing.convert(terminal(), *parsed(parse, "tables convert", arguments[1:]))
    except (ValueError, ImportError, OSError) as error:
        raise RefusedError(str(error)) from error
    return 0


def compare(arguments: Sequence[str]) -> int:
    """Compares searchers on a table."""
    from lanas_jax.comparison import command

    try:
        return command.compare(terminal(), arguments)
    except (ValueError, OSError, command.MissingPeerError) as error:
        raise RefusedError(str(error)) from error


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "search": search,
    "resume": resume,
    "train": train,
    "export": export,
    "supernet": supernet,
    "extract": extract,
    "plan": plan,
    "rank": rank,
    "report": report,
    "trials": trials,
    "tree": tree,
    "describe": describe,
    "tables": tables,
    "compare": compare,
}


def _search_arguments(name: str, module: Any, arguments: Sequence[str]) -> tuple[Path | None, "Where", Any]:
    """The run directory, if one was named, where trials run, and the experiment's `Config` with what was overridden."""
    from lanas_jax.cluster.command import Where

    out = tyro.conf.arg(metavar="DIR", help="the folder for the run, new or empty; default: a new one under runs/")
    both = dataclasses.make_dataclass(
        "Settings",
        [
            ("config", Annotated[module.Config, tyro.conf.arg(name="")]),
            ("out", Annotated[Path | None, out], dataclasses.field(default=None, kw_only=True)),
            (
                "where",
                Annotated[Where, tyro.conf.arg(name="")],
                dataclasses.field(default_factory=Where, kw_only=True),
            ),
        ],
    )
    about = f"{module.__doc__ or ''}"
    given: Any = tyro.cli(both, prog=f"lanas search {name}", args=list(arguments), description=about)
    return given.out, given.where, given.config


def _carry_out(experiment: Any, here: Run, where: "Where") -> int:
    """Runs a study to its end with live progress, and says how to go on where it is stopped."""
    from lanas_jax import study, summary
    from lanas_jax.interruption import heard
    from lanas_jax.progress import Display

    console = terminal()
    console.print(
        f"{experiment.name}: {experiment.budget} trials, in {here.directory}", highlight=False, soft_wrap=True
    )
    display = Display(console)
    with heard(display.note) as interruption:
        try:
            with display, where.workers(experiment, here, display) as workers:
                result = study.run(experiment, here.directory, display, workers=workers)
        except KeyboardInterrupt:
            return _stopped(here, "stopped", interruption.exit_code)
        except study.StudyError as error:
            return _stopped(here, f"{error}{_with_traceback(error, here.directory / 'traceback.txt')}", 1)
    summary.show_result(console, experiment.space, result.trials, result.final)
    console.print(f"report: {here.report}", highlight=False, soft_wrap=True)
    return 0


def _with_traceback(error: Exception, path: Path) -> str:
    """Writes a traceback, and says where it is."""
    try:
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:  # the disk may be what went wrong
        return ""
    return f"\nThe whole traceback is in {path}"


def _stopped(here: Run, why: str, exit_code: int) -> int:
    with TrialStore.open(here.trials, read_only=True) as store:
        finished = sum(trial.finished is not None for trial in store.trials())
    print(f"{why}\n{finished} finished trials are kept. To continue: lanas resume {here.directory}", file=sys.stderr)
    return exit_code


def _use_every_core() -> None:
    """Has to happen before the first array."""
    from lanas_jax.training.population import one_device_per_core

    one_device_per_core()


def _keep_programs() -> None:
    """Has to happen before the first array."""
    from lanas_jax import compile_cache

    compile_cache.keep(lambda text: print(f"lanas: {text}", file=sys.stderr))
