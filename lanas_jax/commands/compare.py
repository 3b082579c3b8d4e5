"""``lanas compare``: parses its arguments, runs searchers on a benchmark table, prints and writes the results."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from lanas_jax.commands.base import RefusedError, call_with_arguments
from lanas_jax.comparison import front_output, fronts, output, parallel, peers
from lanas_jax.comparison.compare import NAMES, SEARCHERS, Comparison, compare_searchers
from lanas_jax.comparison.peers import MissingPeerError as MissingPeerError
from lanas_jax.comparison.statistics import TOP_SHARE
from lanas_jax.runtime.console import print_table, terminal
from lanas_jax.runtime.live_display import LiveDisplay
from lanas_jax.searchers.objectives import check_objectives
from lanas_jax.storage.folder import numbered_directory
from lanas_jax.tables import catalogue
from lanas_jax.tables.base import Table
from lanas_jax.tables.benchmark import Benchmark
from lanas_jax.tables.objectives import cost_names, objective_values

Number = TypeVar("Number", int, float)
RESULTS, PICTURE = "comparison.csv", "comparison.png"
WIDE = 120  # columns of a terminal in which the whole table is readable
DEFAULT = ",".join(SEARCHERS)
CHOICE = f"names of searchers, from {', '.join(NAMES)}; the last two need the extra peers"
WORK = "hard limit on the multiply-adds of a network; nasbench201 and natsbench-size count those of a CIFAR-10 image"
THROUGHPUTS = "hard limits on measured throughput, in images per second by device, such as tpuv3=1500,a100=8000"
CHOICE_OF_FRONTS = f"with --objectives, from {', '.join(fronts.NAMES)}"
SEVERAL = "objectives to search a front of, such as accuracy,parameters; costs are minimised, all others maximised"
LEAST = "with --objectives: values below which a network is of no use, such as 0.6,1.5e6; ParetoLaNAS uses them"
AT_ONCE = "numbers of asynchronous workers to simulate, such as 1,8,64"


@dataclasses.dataclass(frozen=True)
class CompareArguments:
    """Arguments of the command; the help text describes each."""

    table: str
    searchers: tuple[str, ...]
    seeds: int
    budget: int
    batch: int
    first_seed: int
    out: Path | None
    workers: tuple[int, ...] = ()
    top: float = 100 * TOP_SHARE
    max_multiply_adds: float | None = None
    min_throughput: tuple[tuple[str, float], ...] = ()
    objectives: tuple[str, ...] = ()
    reference: tuple[float, ...] = ()

    def folder(self) -> contextlib.AbstractContextManager[Path]:
        """Returns the context of the output folder: that of ``--out``, or a new one that names the problem.

        Raises:
          RefusedError: the folder of ``--out`` holds a comparison.
        """
        if self.out is not None:
            if (self.out / RESULTS).exists():
                raise RefusedError(f"{self.out} already contains a comparison; choose another folder")
            return contextlib.nullcontext(self.out)
        limits = [] if self.max_multiply_adds is None else [f"{self.max_multiply_adds:g}M"]
        limits += [f"{device}-{least:g}" for device, least in self.min_throughput]
        name = "-".join([Path(self.table).name.replace(":", "-"), *limits, *self.objectives])
        return numbered_directory(Path("comparisons") / name)


def compare(arguments: Sequence[str]) -> int:
    """Compares searchers on a benchmark table."""
    try:
        return _compare(terminal(), arguments)
    except (ValueError, peers.MissingPeerError) as error:
        raise RefusedError(str(error)) from error


def _compare(console: Console, arguments: Sequence[str]) -> int:
    """Parses the arguments and runs the comparison.

    Raises:
      ValueError, MissingPeerError, OSError: as in `run_comparison`.
    """

    def parse(
        table: Annotated[str, tyro.conf.arg(metavar="TABLE", help="name from lanas tables, or an .npz file")],
        /,
        searchers: Annotated[
            str | None,
            tyro.conf.arg(
                metavar="A,B,...",
                help=f"{CHOICE}; {CHOICE_OF_FRONTS}",
                help_behavior_hint=f"(default: {DEFAULT}; with --objectives {','.join(fronts.SEARCHERS)})",
            ),
        ] = None,
        seeds: Annotated[int, tyro.conf.arg(metavar="N", help="number of searches per searcher")] = 200,
        budget: Annotated[int, tyro.conf.arg(metavar="N", help="number of samples per search")] = 400,
        batch: Annotated[int, tyro.conf.arg(metavar="N", help="number of samples per ask")] = 1,
        first_seed: Annotated[int, tyro.conf.arg(metavar="N", help="seed of all searches")] = 0,
        out: Annotated[
            Path | None,
            tyro.conf.arg(
                metavar="DIR",
                help="new folder",
                help_behavior_hint="(default: comparisons/TABLE, or with a number, comparisons/TABLE-2)",
            ),
        ] = None,
        workers: Annotated[
            str, tyro.conf.arg(metavar="A,B,...", help=AT_ONCE, help_behavior_hint="(default: synchronous batches)")
        ] = "",
        top: Annotated[float, tyro.conf.arg(metavar="PERCENT", help="share of the table that counts as its top")] = 100
        * TOP_SHARE,
        max_multiply_adds: Annotated[
            float | None, tyro.conf.arg(metavar="MILLIONS", help=WORK, help_behavior_hint="(default: none)")
        ] = None,
        min_throughput: Annotated[
            str, tyro.conf.arg(metavar="DEVICE=N,...", help=THROUGHPUTS, help_behavior_hint="(default: none)")
        ] = "",
        objectives: Annotated[
            str, tyro.conf.arg(metavar="A,B,...", help=SEVERAL, help_behavior_hint="(default: none)")
        ] = "",
        reference: Annotated[
            str, tyro.conf.arg(metavar="A,B,...", help=LEAST, help_behavior_hint="(default: none)")
        ] = "",
    ) -> Any:
        """Run searchers on a benchmark table with equal budgets, counting distinct architectures.

        With hard limits, only the networks that meet them are searched. Prints a table and writes comparison.csv,
        comparison.png and traces.npz.
        """
        several = tuple(name.replace("-", "_") for name in objectives.split(",")) if objectives else ()
        default = ",".join(fronts.SEARCHERS) if several else DEFAULT
        return CompareArguments(
            table,
            tuple((searchers or default).split(",")),
            seeds,
            budget,
            batch,
            first_seed,
            out,
            _numbers("workers", workers, int),
            top,
            max_multiply_adds,
            _throughputs(min_throughput),
            several,
            _numbers("reference", reference, float),
        )

    settings = call_with_arguments(parse, "compare", arguments)
    if settings.objectives:
        run_front_comparison(console, settings)
    else:
        run_comparison(console, settings)
    return 0


def _numbers(name: str, text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    try:
        return tuple(kind(number) for number in text.split(",")) if text else ()
    except ValueError:
        what = "integers" if kind is int else "numbers"
        raise ValueError(f"{name} must be {what} separated by commas; got {text!r}") from None


def _throughputs(text: str) -> tuple[tuple[str, float], ...]:
    limits = []
    for part in text.split(",") if text else ():
        device, _, least = part.partition("=")
        try:
            limits.append((device, float(least)))
        except ValueError:
            raise ValueError(f"min-throughput must be such as tpuv3=1500,a100=8000; got {text!r}") from None
    return tuple(limits)


def run_comparison(console: Console, settings: CompareArguments) -> None:
    """Runs the comparison and prints it. Rewrites the files after each searcher, so an interruption loses only one.

    Raises:
      ValueError: the benchmark, a searcher or a number is invalid.
      MissingPeerError: the package of a peer is not installed.
      OSError: the folder cannot be written.
    """
    if settings.reference:
        raise ValueError("a reference needs --objectives, such as accuracy,parameters")
    if not 0 < settings.top <= 100:
        raise ValueError(f"top must be a percentage above 0 and at most 100; got {settings.top}")
    benchmark = _opened(console, settings)
    results: list[Comparison] = []
    began = time.monotonic()

    def note(done: Comparison) -> None:
        results.append(done)
        _write(folder, benchmark, settings, results)
        console.print(f"{output.label_of(done.name, done.workers)}: {time.monotonic() - began:.0f} s")

    with settings.folder() as folder, _progress(console, settings) as advance:
        compare_searchers(
            benchmark.table(),
            settings.searchers,
            budget=settings.budget,
            seeds=settings.seeds,
            batch=settings.batch,
            first_seed=settings.first_seed,
            workers=settings.workers,
            top_share=settings.top / 100,
            note=note,
            progress=advance,
        )
    tests = _tests(benchmark, results)
    if settings.workers:
        print_table(console, parallel.table(results, tests))
    else:
        print_table(console, output.table(results, tests, narrow=console.width < WIDE))
    console.print(f"plot and samples: {folder / PICTURE}, comparison.csv, traces.npz", soft_wrap=True)
    if not settings.workers:
        console.print(output.medians(results), soft_wrap=True)


def run_front_comparison(console: Console, settings: CompareArguments) -> None:
    """Compares searchers for a front, and prints the result. Rewrites the files after each searcher.

    Raises:
      ValueError: the benchmark, a searcher, an objective or a number is invalid.
      MissingPeerError: the package of a peer is not installed.
      OSError: the folder cannot be written.
    """
    if settings.workers:
        raise ValueError("workers are simulated for a single objective: leave out workers, or leave out objectives")
    objectives = check_objectives(settings.objectives)
    benchmark = _opened(console, settings)
    values = objective_values(benchmark, objectives)
    measured = np.isfinite(values).all(axis=1)
    if not measured.all():
        console.print(f"{len(measured) - int(measured.sum()):,} networks are left out: an objective was not measured")
    table = Table(benchmark.space, benchmark.codes[measured], values[measured])
    costs = cost_names(benchmark)
    given = [-value if name in costs else value for value, name in zip(settings.reference, objectives, strict=False)]
    if settings.reference and len(settings.reference) != len(objectives):
        raise ValueError(f"the reference needs a value for each of {', '.join(objectives)}; got {len(given)}")
    problem = fronts.FrontProblem.of(table, objectives, given or None)
    console.print(front_output.describe_problem(problem, costs), soft_wrap=True)
    results: list[fronts.FrontComparison] = []
    began = time.monotonic()

    def note(done: fronts.FrontComparison) -> None:
        results.append(done)
        folder.mkdir(parents=True, exist_ok=True)
        front_output.write_front_csv(folder / RESULTS, results)
        front_output.write_front_traces(folder / "traces.npz", results)
        title = f"{benchmark.name}, {settings.seeds} searches each, batch {settings.batch}"
        front_output.write_front_picture(folder / PICTURE, results, problem, title)
        console.print(f"{fronts.LABELS[done.name]}: {time.monotonic() - began:.0f} s")

    with settings.folder() as folder, _progress(console, settings) as advance:
        fronts.compare_fronts(
            problem,
            settings.searchers,
            budget=settings.budget,
            seeds=settings.seeds,
            batch=settings.batch,
            first_seed=settings.first_seed,
            inform=bool(given),
            note=note,
            progress=advance,
        )
    print_table(console, front_output.front_table(results))
    console.print(f"plot and samples: {folder / PICTURE}, comparison.csv, traces.npz", soft_wrap=True)


def _opened(console: Console, settings: CompareArguments) -> Benchmark:
    """Returns the networks of the benchmark that meet the hard limits, and prints what they are."""
    benchmark = catalogue.find_benchmark(settings.table)
    benchmark = benchmark.within(settings.max_multiply_adds, dict(settings.min_throughput))
    console.print(f"{benchmark.name}: {len(benchmark):,} networks. {benchmark.notes}")
    if settings.budget > len(benchmark):
        console.print(
            f"budget {settings.budget:,} exceeds the table: every search tries all {len(benchmark):,} networks"
        )
    return benchmark


class _Lines(LiveDisplay):
    """A line a minute where the output is no terminal: how many searches have finished."""

    finished = ""

    def line(self) -> Text:
        """See `LiveDisplay`."""
        return Text(f"{self.finished}, {self.elapsed():.0f} s")


@contextlib.contextmanager
def _progress(console: Console, settings: CompareArguments) -> Iterator[Callable[[str, int | None, int], object]]:
    """Shows a progress bar per searcher and number of workers on a terminal, elsewhere a line a minute.

    Yields the function that is told of finished searches, as `compare_searchers` calls it. A bar moves back and forth
    while the searcher is compiled.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("searches"))
    lines = _Lines(console)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=lines.plain) as bars:
        tasks: dict[tuple[str, int | None], TaskID] = {}

        def advance(name: str, workers: int | None, searches: int) -> None:
            label = fronts.LABELS[name] if settings.objectives else output.label_of(name, workers)
            if not searches:
                tasks[name, workers] = bars.add_task(label, start=False, total=settings.seeds)
                return
            bars.start_task(tasks[name, workers])
            bars.update(tasks[name, workers], completed=searches)
            lines.finished = f"{label}: {searches} of {settings.seeds} searches"
            lines.print_plain()

        yield advance


def _tests(benchmark: Benchmark, results: list[Comparison]) -> list[float]:
    """Returns, per searcher, the mean test accuracy of the best networks of its searches."""
    return [float(np.mean(benchmark.test_of(result.winners))) for result in results]


def _write(folder: Path, benchmark: Benchmark, settings: CompareArguments, results: list[Comparison]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    more = [parallel.columns(results, result) for result in results] if settings.workers else None
    output.write_csv(folder / RESULTS, results, _tests(benchmark, results), more)
    output.write_traces(folder / "traces.npz", results)
    title = f"{benchmark.name}, {settings.seeds} searches each"
    if settings.workers:
        parallel.write_picture(folder / PICTURE, results, title)
    else:
        title += f", batch {settings.batch}"
        output.write_picture(folder / PICTURE, results, benchmark.table().best, title)
