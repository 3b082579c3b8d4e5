"""``lanas search`` and ``lanas resume``: run a search, from its arguments to its report."""

import contextlib
import dataclasses
import shlex
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import jax
import tyro

from lanas_jax.commands import hosts
from lanas_jax.commands.base import (
    ACCEPT_VERSIONS,
    REFUSALS,
    Folder,
    RefusedError,
    cache_programs,
    parse_settings,
    parsed,
    use_every_core,
    with_traceback,
)
from lanas_jax.commands.hosts import Party
from lanas_jax.commands.observation import OBSERVATION, Observation
from lanas_jax.commands.reading import READING, Reading, words_of
from lanas_jax.runtime import distributed
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.distributed import DistributedError
from lanas_jax.runtime.files import inside_folder
from lanas_jax.runtime.joining import Hosts
from lanas_jax.storage import config_json
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import discovery, run_folder
from lanas_jax.study.all_hosts import AllHosts, Lead, studying
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
{hosts}

EXPERIMENT is one of

{experiments}

or the path of a Python file like those. For an experiment's settings: lanas search EXPERIMENT --help
"""


def search(arguments: Sequence[str]) -> int:
    """Searches, trains the winner, and writes the report."""
    if not arguments or arguments[0] in ("-h", "--help"):
        found = discovery.experiments()
        width = max(map(len, found), default=0)
        lines = [f"  {name:<{width}}  {discovery.summary(path)}" for name, path in found.items()]
        print(SEARCH_HELP.format(experiments="\n".join(lines or ["  (none installed)"]), hosts=hosts.HELP), end="")
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise RefusedError("the experiment must come first: lanas search EXPERIMENT [--out DIR] [settings]")
    cache_programs()
    use_every_core()
    with hosts.joined("search", arguments) as party:
        return _search(party, arguments)


def _search(party: Party, arguments: Sequence[str]) -> int:
    def load() -> tuple[Path, ModuleType, Any]:
        source = discovery.find_experiment(arguments[0])
        module = discovery.load_experiment(source)
        return source, module, _search_arguments(arguments[0], module, arguments[1:])

    source, module, given = distributed.together(load, *REFUSALS, SystemExit)
    out, where, config = given.out, given.where, given.config
    _check_place(party, where)
    settings = None if not party.several else distributed.together(lambda: config_json.encode_value(config), *REFUSALS)
    place = None if out is None else str(out.absolute())
    hosts.check_same(module, {"the command": arguments[0], "settings": settings, "the run folder": place})

    def check_new() -> None:
        if out is not None and run_folder.run_exists(out):  # checked before the experiment loads its data
            raise RunError(f"{out} already contains a run. To continue it: lanas resume {shlex.quote(str(out))}")

    def build() -> "Experiment":
        experiment = run_folder.build_experiment(module, config)
        _check_winner(experiment)
        return experiment

    distributed.by_first(check_new, *REFUSALS)
    with given.observation.active(), where.connected(), contextlib.ExitStack() as stack:
        experiment = distributed.together(build, *REFUSALS)
        directory = stack.enter_context(hosts.new_directory(experiment.name)) if out is None else out
        directory = directory.absolute()
        distributed.check_shared(directory)

        def create() -> None:
            run_folder.create(directory, experiment, source, config, discovery.text_of(module))

        distributed.by_first(create, *REFUSALS)
        return _run_study(party, experiment, run_folder.open_run(directory), where)


def resume(arguments: Sequence[str]) -> int:
    """Continues an interrupted search."""
    from lanas_jax.commands.cluster_options import Where

    def parse(
        run: Folder,
        /,
        where: Annotated[Where, tyro.conf.arg(name="")] = Where(),  # noqa: B008
        hosts: Hosts = Hosts(),  # noqa: B008
        observation: OBSERVATION = Observation(),  # noqa: B008
        reading: READING = Reading(),  # noqa: B008
        budget: Annotated[int | None, tyro.conf.arg(metavar="N", help=BUDGET)] = None,
        accept_versions: ACCEPT_VERSIONS = False,
    ) -> Any:
        """Continue an interrupted search, or extend a finished one.

        The remaining trials are those it would have had without the interruption. The number of hosts may change.
        """
        del hosts  # parsed before
        return run, where, observation, reading, budget, accept_versions

    directory, where, observation, reading, budget, accept = parsed(parse, "resume", arguments)
    if not any(word.startswith("--hosts.") for word in arguments):  # refused without JAX
        TrialStore.open(run_folder.open_run(directory).trials).close()
    cache_programs()
    use_every_core()
    with hosts.joined("resume", arguments) as party, observation.active():
        return _resume(party, directory, where, reading, budget, accept)


def _resume(
    party: Party, directory: Path, where: "Where", reading: Reading, budget: int | None, accept_versions: bool
) -> int:
    _check_place(party, where)
    hosts.check_same(None, {"settings": [budget, accept_versions]})
    here = dataclasses.replace(hosts.open_run(directory.absolute()), changes=reading.changes)
    distributed.by_first(lambda: TrialStore.open(here.trials).close(), *REFUSALS)
    with where.connected(), inside_folder(here.working_folder):
        experiment = distributed.together(here.experiment, *REFUSALS)
        if budget is not None:
            experiment = with_budget(experiment, budget)
        extend = budget is not None
        return _run_study(party, experiment, here, where, extend=extend, accept_versions=accept_versions)


def _check_place(party: Party, where: "Where") -> None:
    """Checks that at most one of a cluster and several hosts is asked for.

    Raises:
      RefusedError: both are.
    """
    if party.several and where.cluster != "local":
        raise RefusedError("--cluster and --hosts exclude each other: the workers of a cluster are its hosts")


def with_budget(experiment: "Experiment", budget: int) -> "Experiment":
    """Returns an experiment with another budget.

    Raises:
      RefusedError: the budget is not positive.
    """
    try:
        return dataclasses.replace(experiment, budget=budget)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _search_arguments(name: str, module: Any, arguments: Sequence[str]) -> Any:
    """Parses `config`, `out`, `where`, `hosts` and `observation` from the command line."""
    from lanas_jax.commands.cluster_options import Where

    out = tyro.conf.arg(
        metavar="DIR", help="new or empty run folder", help_behavior_hint="(default: a new folder under runs/)"
    )
    options = [
        ("out", Annotated[Path | None, out], dataclasses.field(default=None, kw_only=True)),
        ("where", Annotated[Where, tyro.conf.arg(name="")], dataclasses.field(default_factory=Where, kw_only=True)),
        ("hosts", Hosts, dataclasses.field(default_factory=Hosts, kw_only=True)),
        ("observation", OBSERVATION, dataclasses.field(default_factory=Observation, kw_only=True)),
    ]
    return parse_settings(f"search {name}", arguments, {"config": (module.Config,)}, options, module.__doc__ or "")


def _check_winner(experiment: "Experiment") -> None:
    """Checks the winner training before anything is written."""
    from lanas_jax.study.winner import check_winner

    if experiment.winner is None:
        return
    try:
        check_winner(experiment)
    except ValueError as error:
        raise RefusedError(f"the winner training of {experiment.name}: {error}") from error


def _run_study(party: Party, experiment: "Experiment", here: Run, where: "Where", **how: bool) -> int:
    """Runs a study with live progress; if it is stopped, prints how to continue."""
    party.again(["lanas", "resume", str(here.directory), *words_of(here.changes)])

    def run(lead: Lead) -> int:
        return _lead(party, lead, experiment, here, where, **how)

    return hosts.led(party, studying(experiment, here), run)


def _lead(party: Party, lead: Lead, experiment: "Experiment", here: Run, where: "Where", **how: bool) -> int:
    from lanas_jax import report, study
    from lanas_jax.commands import summary
    from lanas_jax.evaluators.base import NamesValue
    from lanas_jax.evaluators.faults import describe_error
    from lanas_jax.runtime.interruption import handle_signals
    from lanas_jax.study.display import StudyDisplay

    console = terminal()
    on = f", on {jax.device_count()} devices of {jax.process_count()} hosts" if party.several else ""
    console.print(f"{experiment.name}: {experiment.budget} trials, in {here.directory}{on}", soft_wrap=True)
    if isinstance(experiment.evaluator, NamesValue):
        console.print(f"value: {experiment.evaluator.value_name}")
    display = StudyDisplay(console)
    with handle_signals(display.note) as interruption:
        try:
            with display, where.workers(experiment, here, display) as workers:
                workers = AllHosts(experiment, lead) if party.several else workers
                progress = report.LiveReport(display, here.directory, experiment)
                result = study.run(experiment, here.directory, progress, workers=workers, **how)
            report.write_report(here.directory, experiment)
        except KeyboardInterrupt:
            return _stopped(here, "stopped", party.continuing, interruption.exit_code)
        except (*REFUSALS, sqlite3.OperationalError, BrokenPipeError):
            raise
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) and error.code else 1
            why = f"the experiment ended the process: {describe_error(error)}"
            return _stopped(here, why, party.continuing, code)
        except DistributedError as error:
            return _stopped(here, f"lanas {party.command}: {error}", party.continuing, 1)
        except Exception as error:
            why = party.loss_of(error) or with_traceback(error, here.directory)
            return _stopped(here, why, party.continuing, 1)
    front, knee = (result.front, result.best) if result.objectives else ([], None)
    summary.show_result(console, experiment.space, result.trials, result.final, front, knee)
    winner, earlier = result.best, _trained_code(here)
    if winner is not None and earlier is not None and not same_network(experiment.space, winner.code, earlier):
        console.print(
            f"{here.final} holds the training of an earlier winner ({','.join(map(str, earlier))}); "
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


def _stopped(here: Run, why: str, again: str, exit_code: int) -> int:
    with TrialStore.open(here.trials, read_only=True) as store:
        finished = sum(trial.finished is not None for trial in store.trials())
    print(f"{why}\n{finished} finished trials are saved. {again}", file=sys.stderr)
    return exit_code
