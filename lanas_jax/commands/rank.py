"""``lanas rank``: parses its arguments and prints the rank correlations."""

import dataclasses
import functools
import sys
from collections.abc import Sequence
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
    keep_programs,
    parse_settings,
    usage,
    use_every_core,
    with_traceback,
)
from lanas_jax.commands.hosts import Party
from lanas_jax.ranking import rank as ranking
from lanas_jax.ranking.base import TRUTH, Ranking, RankingError, check_offered, ranking_of
from lanas_jax.ranking.rank import RankingDesign, Valuing
from lanas_jax.ranking.result import Ranked
from lanas_jax.runtime import distributed
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.distributed import DistributedError
from lanas_jax.runtime.files import inside_folder
from lanas_jax.runtime.interruption import handle_signals
from lanas_jax.runtime.joining import Hosts
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage import config_json
from lanas_jax.study import StudyError
from lanas_jax.study.all_hosts import Lead, LedEvaluator, evaluating
from lanas_jax.study.display import StudyDisplay
from lanas_jax.study.run_folder import Run

HELP = f"""\
usage: lanas rank RUN [--networks N] [settings of its ranking]

Trains a sample of architectures from scratch and measures how well cheaper estimates rank them, above all the
supernet of a one-shot search. Writes the results to RUN/ranking and to the report of the run.
Ctrl-C stops. The same command continues.
{hosts.HELP}

For the settings: lanas rank RUN --help
"""


def rank(arguments: Sequence[str]) -> int:
    """Compares cheap estimates with training from scratch."""
    keep_programs()
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

    def load() -> tuple[ModuleType, Any, RankingDesign, Any, bool]:
        module, config = here.load()
        check_offered(module)
        return module, config, *_parse(module, here, arguments)

    expected = (*REFUSALS, RankingError)
    module, config, plan, settings, accept = distributed.together(load, *expected, SystemExit)
    hosts.check_same(module, {"settings": [dataclasses.asdict(plan), config_json.encode_value(settings), accept]})
    with inside_folder(here.working_folder):
        experiment = distributed.together(lambda: here.build(module, config), *expected)
        wanted = distributed.together(lambda: ranking_of(module, config, settings, here.directory), *expected)
        evaluators = {**wanted.estimates, TRUTH: wanted.truth}

        def run(lead: Lead) -> int:
            every = {name: LedEvaluator(lead, name, evaluator) for name, evaluator in evaluators.items()}
            led = wanted if not party.several else Ranking({n: every[n] for n in wanted.estimates}, every[TRUTH])
            return _rank_here(party, here, experiment, led, plan, settings, accept)

        return hosts.led(party, evaluating(evaluators), run)


def _rank_here(
    party: Party,
    here: Run,
    experiment: study.Experiment,
    wanted: Ranking,
    plan: RankingDesign,
    settings: Any,
    accept_versions: bool,
) -> int:
    console = terminal()
    note = functools.partial(console.print, soft_wrap=True)
    with handle_signals(note) as interruption:
        try:
            valuing = Valuing(
                experiment.space, here, plan.seed, note, lambda: StudyDisplay(console), accept_versions=accept_versions
            )
            ranked = ranking.rank_networks(wanted, plan, settings, valuing)
        except KeyboardInterrupt:
            return _stopped(here, "stopped", interruption.exit_code)
        except StudyError as error:
            return _stopped(here, with_traceback(error, ranking.folder_of(here)), 1)
        except DistributedError as error:
            return _stopped(here, f"lanas rank: {error}", 1)
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not (lost := party.loss_of(error)):
                raise
            return _stopped(here, lost, 1)
    console.print(table(ranked))
    note(f"report: {report.write_report(here.directory, experiment)}")
    return 0


def table(ranked: Ranked) -> Table:
    """Returns one row per estimate: its correlations with training from scratch and the number of networks."""
    shown = Table(box=SIMPLE)
    shown.add_column("estimate")
    for column in ("Spearman (95 %)", "Kendall (95 %)", "networks", "failed"):
        shown.add_column(column, justify="right")
    for name, found in ranked.correlations.items():
        shown.add_row(Text(name), found.spearman.text, found.kendall.text, str(found.networks), str(found.missing))
    return shown


def _parse(module: Any, here: Run, arguments: Sequence[str]) -> tuple[RankingDesign, Any, bool]:
    def number(text: str, default: str | None = None) -> Any:
        return tyro.conf.arg(metavar="N", help=text, help_behavior_hint=default and f"(default: {default})")

    options: list[Any] = [
        ("networks", Annotated[int, number("number of networks to train from scratch")], 32),
        ("pool", Annotated[int | None, number("number of candidates to sample from", "8 x networks")], None),
        (
            "batch",
            Annotated[int, number("number of networks trained together", "batch of the search")],
            here.record["batch"],
        ),
        ("seed", Annotated[int, number("random seed of sample, trainings and intervals")], 0),
        ("accept_versions", ACCEPT_VERSIONS, False),
        ("hosts", Hosts, dataclasses.field(default_factory=Hosts)),
    ]
    settings = {"settings": (module.Rank, dataclasses.field(default_factory=module.Rank))}
    about = f"{module.Rank.__doc__ or ''}"
    parsed = parse_settings(f"rank {arguments[0]}", arguments[1:], settings, options, description=about)
    pool = 8 * parsed.networks if parsed.pool is None else parsed.pool
    return RankingDesign(parsed.networks, pool, parsed.batch, parsed.seed), parsed.settings, parsed.accept_versions


def _stopped(here: Run, why: str, exit_code: int) -> int:
    trained = ranking.finished(ranking.folder_of(here) / TRUTH)
    print(f"{why}\n{trained} trained networks are saved. To continue, repeat the command", file=sys.stderr)
    return exit_code
