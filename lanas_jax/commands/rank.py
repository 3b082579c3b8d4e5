"""``lanas rank``: its arguments, and what it prints."""

import dataclasses
import functools
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lanas_jax import report
from lanas_jax.commands.base import RefusedError, keep_programs, terminal, usage, use_every_core
from lanas_jax.ranking import rank as ranking
from lanas_jax.ranking.base import TRUTH, RankingError, check_offered, ranking_of
from lanas_jax.ranking.rank import Plan, Valuing
from lanas_jax.ranking.result import Ranked
from lanas_jax.runtime.interruption import heard
from lanas_jax.study import StudyError, run_folder
from lanas_jax.study.display import Display
from lanas_jax.study.run_folder import Run

HELP = """\
usage: lanas rank RUN [--networks N] [settings of its ranking]

Trains a sample of architectures from scratch, and says how well cheaper estimates rank them: the supernet of a
one-shot search first of all. Everything goes into RUN/ranking, and into the report of the run.
Ctrl-C stops. The same command again continues.

For the settings: lanas rank RUN --help
"""


def rank(arguments: Sequence[str]) -> int:
    """Compares estimates with training from scratch."""
    keep_programs()
    use_every_core()
    try:
        return _rank(terminal(), arguments)
    except RankingError as error:
        raise RefusedError(str(error)) from error


def _rank(console: Console, arguments: Sequence[str]) -> int:
    """Ranks, with live progress.

    Returns:
      The exit code: 0; 1 where an evaluator is broken; that of a signal where it was stopped.

    Raises:
      RankingError, RunError, ExperimentError, ConfigError: what has to be changed first.
    """
    if (exit_code := usage(HELP, arguments)) is not None:
        return exit_code
    here = run_folder.open_run(Path(arguments[0]))
    module, config = here.load()
    check_offered(module)
    plan, settings = _parse(module, here, arguments)
    experiment = run_folder.build(module, config)
    wanted = ranking_of(module, config, settings, here.directory)
    note = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    with heard(note) as interruption:
        try:
            valuing = Valuing(experiment.space, here, plan.seed, note, lambda: Display(console))
            ranked = ranking.rank(wanted, plan, settings, valuing)
        except KeyboardInterrupt:
            return _stopped(here, "stopped", interruption.exit_code)
        except StudyError as error:
            details = ranking.folder_of(here) / "traceback.txt"
            details.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            return _stopped(here, f"{error}\nThe whole traceback is in {details}", 1)
    console.print(table(ranked))
    note(f"report: {report.write(here.directory, experiment)}")
    return 0


def table(ranked: Ranked) -> Table:
    """A row per estimate: its correlations with training from scratch, and on how many networks they rest."""
    shown = Table(box=SIMPLE)
    shown.add_column("estimate")
    for column in ("Spearman (95 %)", "Kendall (95 %)", "networks", "failed"):
        shown.add_column(column, justify="right")
    for name, found in ranked.correlations.items():
        shown.add_row(Text(name), found.spearman.text, found.kendall.text, str(found.networks), str(found.missing))
    return shown


def _parse(module: Any, here: Run, arguments: Sequence[str]) -> tuple[Plan, Any]:
    def number(text: str, default: str | None = None) -> Any:
        return tyro.conf.arg(metavar="N", help=text, help_behavior_hint=default and f"(default: {default})")

    fields: list[Any] = [
        ("settings", Annotated[module.Rank, tyro.conf.arg(name="")], dataclasses.field(default_factory=module.Rank)),
        ("networks", Annotated[int, number("trained from scratch")], 32),
        ("pool", Annotated[int | None, number("architectures they are sampled from", "8 times as many")], None),
        (
            "batch",
            Annotated[int, number("networks trained at a time", "as many as in the search")],
            here.record["batch"],
        ),
        ("seed", Annotated[int, number("of sample, trainings and intervals")], 0),
    ]
    both = dataclasses.make_dataclass("Settings", fields)
    parsed: Any = tyro.cli(
        both, prog=f"lanas rank {arguments[0]}", args=list(arguments[1:]), description=f"{module.Rank.__doc__ or ''}"
    )
    pool = 8 * parsed.networks if parsed.pool is None else parsed.pool
    return Plan(parsed.networks, pool, parsed.batch, parsed.seed), parsed.settings


def _stopped(here: Run, why: str, exit_code: int) -> int:
    trained = ranking.finished(ranking.folder_of(here) / TRUTH)
    print(f"{why}\n{trained} trained networks are kept. To continue: the same command again", file=sys.stderr)
    return exit_code
