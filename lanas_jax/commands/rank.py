"""``lanas rank``: parses its arguments and prints the rank correlations."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import jax
import tyro
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from lanas_jax import report, study
from lanas_jax.commands import hosts
from lanas_jax.commands.base import (
    ACCEPT_VERSIONS,
    REFUSALS,
    RefusedError,
    cache_programs,
    parse_early,
    parse_settings,
    usage,
    use_every_core,
    with_traceback,
)
from lanas_jax.commands.hosts import Party
from lanas_jax.commands.reading import Reading, reading_option
from lanas_jax.evaluators.base import Evaluator
from lanas_jax.ranking import rank as ranking
from lanas_jax.ranking.against import NETWORKS, AgainstDesign, check_same_choices, rank_against
from lanas_jax.ranking.base import TRUTH, Ranking, RankingError, check_offered, ranking_of
from lanas_jax.ranking.rank import RankingDesign, Valuing
from lanas_jax.ranking.result import FOLDER, Ranked
from lanas_jax.runtime import distributed
from lanas_jax.runtime.console import print_table, terminal
from lanas_jax.runtime.distributed import DistributedError
from lanas_jax.runtime.files import inside_folder
from lanas_jax.runtime.interruption import handle_signals
from lanas_jax.runtime.joining import Hosts
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage import config_json
from lanas_jax.study import StudyError
from lanas_jax.study.all_hosts import Lead, LedEvaluator, evaluating
from lanas_jax.study.discovery import ExperimentError
from lanas_jax.study.display import StudyDisplay
from lanas_jax.study.run_folder import Run

NETWORKS_TRAINED = 32  # default number of networks to train from scratch
HELP = f"""\
usage: lanas rank RUN [--networks N] [settings of its ranking]
       lanas rank RUN --against TABLE [--networks N] [--ranked] [settings of its ranking]

Trains a sample of architectures from scratch and measures how well cheaper estimates rank them, above all the
supernet of a one-shot search. Writes the results to RUN/ranking and to the report of the run.
With --against, the sample is from a benchmark table of the same space, and nothing is trained from scratch: the
estimates, the number of parameters and the multiply-adds are compared with the values of the table. With --ranked, the
networks and their values are those that RUN/ranking has so far. Writes the results to RUN/against/TABLE and to the
report.
Ctrl-C stops. The same command continues.
{hosts.HELP}

For the settings: lanas rank RUN --help
"""


def rank(arguments: Sequence[str]) -> int:
    """Compares cheap estimates with training from scratch."""
    cache_programs()
    use_every_core()
    try:
        with hosts.joined("rank", arguments) as party:
            return _rank(party, arguments)
    except RankingError as error:
        raise RefusedError(str(error)) from error


def _rank(party: Party, arguments: Sequence[str]) -> int:
    """Computes the rank correlations, with live progress.

    Returns:
      The exit code: 0, 1 if an evaluator fails, or the code of the signal that stopped the command.

    Raises:
      RankingError, RunError, ExperimentError, ConfigError: ranking is not possible; the message says what to change.
    """
    if (exit_code := usage(HELP, arguments)) is not None:
        return exit_code
    here = hosts.open_run(local_path(arguments[0]).absolute())

    def load() -> tuple[ModuleType, Any, RankingDesign | AgainstDesign, Any, bool]:
        module, _ = here.load()
        plan, settings, accept, reading = _parse(module, here, arguments)
        present = dataclasses.replace(here, changes=reading.changes).present_config
        config = config_json.read_config(module.Config, present)
        return module, config, plan, settings, accept

    expected = (*REFUSALS, RankingError)
    module, config, plan, settings, accept = distributed.together(load, *expected, SystemExit)
    hosts.check_same(module, {"settings": [dataclasses.asdict(plan), config_json.encode_value(settings), accept]})
    with inside_folder(here.working_folder):
        experiment = distributed.together(lambda: here.build(module, config), *expected)

        def build_evaluators() -> dict[str, Evaluator]:
            if isinstance(plan, AgainstDesign):
                check_same_choices(plan.benchmark, experiment.space)
                if plan.ranked:
                    return {}
                if settings is None:
                    return {"evaluator of the search": experiment.evaluator}
            wanted = ranking_of(module, config, settings, here.directory)
            truth = {} if isinstance(plan, AgainstDesign) else {TRUTH: wanted.truth}
            return {**wanted.estimates, **truth}

        evaluators = distributed.together(build_evaluators, *expected)

        def run(lead: Lead) -> int:
            every: dict[str, Evaluator] = dict(evaluators)
            if party.several:
                every = {name: LedEvaluator(lead, name, evaluator) for name, evaluator in evaluators.items()}

            def compute(valuing: Valuing) -> Ranked:
                if isinstance(plan, AgainstDesign):
                    return rank_against(every, plan, settings, valuing)
                estimates = {name: evaluator for name, evaluator in every.items() if name != TRUTH}
                return ranking.rank_networks(Ranking(estimates, every[TRUTH]), plan, settings, valuing)

            return _rank_here(party, here, experiment, plan, compute, accept)

        return hosts.led(party, evaluating(evaluators), run)


def _rank_here(
    party: Party,
    here: Run,
    experiment: study.Experiment,
    plan: RankingDesign | AgainstDesign,
    compute: Callable[[Valuing], Ranked],
    accept_versions: bool,
) -> int:
    console = terminal()
    note = functools.partial(console.print, soft_wrap=True)
    folder = plan.folder(here) if isinstance(plan, AgainstDesign) else ranking.folder_of(here)
    with handle_signals(note) as interruption:
        try:
            valuing = Valuing(
                experiment.space, here, plan.seed, note, lambda: StudyDisplay(console), accept_versions=accept_versions
            )
            ranked = compute(valuing)
        except KeyboardInterrupt:
            return _stopped(folder, "stopped", interruption.exit_code)
        except StudyError as error:
            return _stopped(folder, with_traceback(error, folder), 1)
        except DistributedError as error:
            return _stopped(folder, f"lanas rank: {error}", 1)
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not (lost := party.loss_of(error)):
                raise
            return _stopped(folder, lost, 1)
    print_table(console, table(ranked))
    note(f"report: {report.write_report(here.directory, experiment)}")
    return 0


def table(ranked: Ranked) -> Table:
    """Returns one row per estimate: its correlations with the reference and the number of networks."""
    shown = Table(box=SIMPLE)
    shown.add_column("estimate")
    for column in ("Spearman (95 %)", "Kendall (95 %)", "networks", "failed"):
        shown.add_column(column, justify="right")
    for name, found in ranked.correlations.items():
        shown.add_row(Text(name), found.spearman.text, found.kendall.text, str(found.networks), str(found.missing))
    return shown


def _parse(
    module: Any, here: Run, arguments: Sequence[str]
) -> tuple[RankingDesign | AgainstDesign, Any, bool, Reading]:
    """Returns the design, the experiment's `Rank` settings or None, `accept_versions`, and how images are read."""
    kind = getattr(module, "Rank", None)
    try:
        check_offered(module)
    except ExperimentError:
        words = [word for word in arguments[1:] if word not in ("-h", "--help")]  # a table changes the help, too
        if not parse_early("against", str, "", "rank", words):
            raise
        kind = None

    def number(text: str, default: str | None = None) -> Any:
        return tyro.conf.arg(metavar="N", help=text, help_behavior_hint=default and f"(default: {default})")

    options: list[Any] = [
        (
            "against",
            Annotated[
                str | None,
                tyro.conf.arg(
                    metavar="TABLE",
                    help="benchmark table to compare with, without training: a name from lanas tables, or an .npz file",
                    help_behavior_hint="(default: training from scratch)",
                ),
            ],
            None,
        ),
        (
            "ranked",
            Annotated[
                bool,
                tyro.conf.FlagCreatePairsOff,
                tyro.conf.arg(help="with --against: compare the networks that the run's ranking has trained so far"),
            ],
            False,
        ),
        (
            "networks",
            Annotated[
                int | None,
                number(
                    "number of networks to train from scratch, or to sample from a table",
                    f"{NETWORKS_TRAINED}; with --against {NETWORKS:,} or the whole table",
                ),
            ],
            None,
        ),
        ("pool", Annotated[int | None, number("number of candidates to sample from", "8 x networks")], None),
        (
            "batch",
            Annotated[int | None, number("number of networks trained together", "batch of the search")],
            None,
        ),
        ("seed", Annotated[int, number("random seed of sample, trainings and intervals")], 0),
        ("accept_versions", ACCEPT_VERSIONS, False),
        ("hosts", Hosts, dataclasses.field(default_factory=Hosts)),
        *reading_option(kind),
    ]
    settings = {} if kind is None else {"settings": (kind, dataclasses.field(default_factory=kind))}
    docstring = "" if kind is None else kind.__doc__ or ""
    parsed = parse_settings(f"rank {arguments[0]}", arguments[1:], settings, options, docstring)
    plan: RankingDesign | AgainstDesign
    if parsed.against is not None:
        for name in ("pool", "batch"):
            if getattr(parsed, name) is not None:
                raise RankingError(f"--{name} has no effect with --against: omit it")
        plan = AgainstDesign(parsed.against, parsed.networks, parsed.seed, parsed.ranked)
    elif parsed.ranked:
        raise RankingError("--ranked needs --against TABLE")
    else:
        networks = NETWORKS_TRAINED if parsed.networks is None else parsed.networks
        pool = 8 * networks if parsed.pool is None else parsed.pool
        batch = here.record["batch"] if parsed.batch is None else parsed.batch
        plan = RankingDesign(networks, pool, batch, parsed.seed)
    reading = getattr(parsed, "reading", Reading())
    return plan, None if kind is None else parsed.settings, parsed.accept_versions, reading


def _stopped(folder: Path, why: str, exit_code: int) -> int:
    saved = f"{ranking.finished(folder / TRUTH)} trained networks" if folder.name == FOLDER else "The values so far"
    print(f"{why}\n{saved} are saved. To continue, repeat the command", file=sys.stderr)
    return exit_code
