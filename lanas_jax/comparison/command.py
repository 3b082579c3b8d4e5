"""What ``lanas compare`` does: a benchmark by name, searchers by name, and files in a folder."""

import dataclasses
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from lanas_jax.comparison import output
from lanas_jax.comparison.compare import NAMES, SEARCHERS, Comparison, compare
from lanas_jax.comparison.peers import MissingPeerError as MissingPeerError
from lanas_jax.tables import catalogue
from lanas_jax.tables.benchmark import Benchmark

DEFAULT = ",".join(SEARCHERS)
CHOICE = f"out of {', '.join(NAMES)}; the last two need the extra peers"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of the command; see its help."""

    table: str
    searchers: tuple[str, ...]
    seeds: int
    budget: int
    batch: int
    first_seed: int
    out: Path | None

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return Path("comparisons") / Path(self.table).name.replace(":", "-") if self.out is None else self.out


def carry_out(console: Console, settings: Settings) -> None:
    """Compares, prints, and writes files anew after each searcher, so that an interruption costs one of them.

    Raises:
      ValueError: a benchmark, searcher or number that cannot be used.
      MissingPeerError: a peer whose package is not installed.
      OSError: the folder cannot be written.
    """
    benchmark = catalogue.find(settings.table)
    folder = settings.folder
    console.print(f"{benchmark.name}: {len(benchmark):,} networks. {benchmark.notes}", highlight=False)
    if settings.budget > len(benchmark):
        console.print(f"every search tries all {len(benchmark):,}: the budget of {settings.budget:,} goes beyond them")
    results: list[Comparison] = []
    began = time.monotonic()

    def note(done: Comparison) -> None:
        results.append(done)
        _write(folder, benchmark, settings, results)
        console.print(f"{output.LABELS[done.name]}: {time.monotonic() - began:.0f} s", highlight=False)

    with console.status("searching") as status:
        compare(
            benchmark.table(),
            settings.searchers,
            budget=settings.budget,
            seeds=settings.seeds,
            batch=settings.batch,
            first_seed=settings.first_seed,
            note=note,
            progress=lambda name, done: status.update(f"{output.LABELS[name]}: {done} of {settings.seeds} searches"),
        )
    console.print(output.table(results, _tests(benchmark, results)))
    console.print(f"files: {folder}", highlight=False, soft_wrap=True)


def _tests(benchmark: Benchmark, results: list[Comparison]) -> list[float]:
    """Mean test accuracy of what each searcher's searches ended with."""
    return [float(np.mean(benchmark.test_of(result.winners))) for result in results]


def _write(folder: Path, benchmark: Benchmark, settings: Settings, results: list[Comparison]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    output.write_csv(folder / "comparison.csv", results, _tests(benchmark, results))
    output.write_traces(folder / "traces.npz", results)
    title = f"{benchmark.name}, {settings.seeds} searches each, batch {settings.batch}"
    output.write_picture(folder / "comparison.png", results, benchmark.table().best, title)
