"""Tables and reports of benchmark figures; `Timing` and the report are for `candidates.py`."""

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from lanas_jax.runtime.console import print_table


@dataclasses.dataclass(frozen=True)
class Timing:
    """Measurements of one method.

    Attributes:
      way: name of the method.
      candidates: number of candidates trained or timed.
      compile_seconds: total seconds of tracing and compiling for all candidates.
      step_seconds: seconds per training step and candidate; concurrent candidates share the time.
      share_of_peak: operation rate of the step relative to that of a matrix product on its devices.
      proxy_steps: number of steps of a candidate's whole training.
      planned_bytes: bytes per device that XLA plans for the training program; None if unknown.
      train_seconds: total seconds of whole trainings and evaluations; None if only steps were timed.
      accuracy: mean accuracy of the candidates on the validation split; None if only steps were timed.
    """

    way: str
    candidates: int
    compile_seconds: float
    step_seconds: float
    share_of_peak: float
    proxy_steps: int
    planned_bytes: int | None = None
    train_seconds: float | None = None
    accuracy: float | None = None

    @property
    def seconds_per_candidate(self) -> float | None:
        """Seconds per candidate, including compilation; None if only steps were timed."""
        if self.train_seconds is None:
            return None
        return (self.compile_seconds + self.train_seconds) / self.candidates

    @property
    def per_minute(self) -> float:
        """Candidates per minute, without compilation; computed from step times if only steps were timed."""
        if self.train_seconds is None:
            return 60 / (self.proxy_steps * self.step_seconds)
        return 60 * self.candidates / self.train_seconds


def cells(timing: Timing, first: Timing) -> dict[str, str]:
    """Returns a row of the table by column title; omits columns that were not measured."""
    row = {
        "way": timing.way,
        "nets": str(timing.candidates),
        "compile s": f"{timing.compile_seconds:.1f}",
        "ms/step": f"{1000 * timing.step_seconds:.2f}",
        "of peak": f"{100 * timing.share_of_peak:.2f}%",
        "per min": f"{timing.per_minute:.3g}",
    }
    each, first_each = timing.seconds_per_candidate, first.seconds_per_candidate
    if each is None or first_each is None:
        planned = timing.planned_bytes
        return {**row, "GiB": "-" if planned is None else f"{planned / 2**30:.2f}"}
    return {
        **row,
        "s each": f"{each:.2f}",
        "ratio": f"{each / first_each:.1f}",
        "accuracy": f"{timing.accuracy:.3f}",
    }


def line(timing: Timing, first: Timing) -> str:
    """Returns a row as one line of text, to print before the table is complete."""
    way, *figures = cells(timing, first).items()
    return f"{way[1]}: " + ", ".join(f"{value} {title}" for title, value in figures)


def table(title: str, rows: list[dict[str, str]]) -> Table:
    """Returns a table of rows given by column title; the first column is text."""
    columns = Table(title=title)
    for i, name in enumerate(rows[0]):
        columns.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        columns.add_row(*row.values())
    return columns


def machine() -> str:
    """Returns a description of the devices."""
    return f"{len(jax.local_devices())} x {jax.local_devices()[0].device_kind}"


def show_timings(config: Any, peaks: Mapping[int, float], timings: list[Timing], console: Console) -> None:
    """Prints the table and explains its columns."""
    rows = [cells(timing, timings[0]) for timing in timings]
    print_table(console, table(f"training candidates: {config.setting}, {config.dtype}, {machine()}", rows))
    reached = ", ".join(f"{peak / 1e12:.3g} on {n} device{'s' * (n > 1)}" for n, peak in peaks.items())
    console.print(
        f"ms/step: milliseconds per step and candidate; concurrent candidates share the time. of peak: six operations "
        f"per multiply-add and image, relative to the measured rate of a matrix product in {config.dtype} (10^12 per "
        f"second: {reached}). Rows with fewer networks are measured on a sample.",
    )
    if timings[0].train_seconds is not None:
        console.print(
            "s each: seconds per candidate, including its share of the row's compilation. per min: candidates per "
            "minute, after compilation. ratio: s each, relative to the first row."
        )
    else:
        console.print(
            f"per min: candidates per minute at {timings[0].proxy_steps} steps each, without compilation and "
            "evaluation. GiB: memory per device planned by XLA. Images are random, so only speed is measured."
        )


def timings_report(config: Any, peaks: Mapping[int, float], timings: list[Timing]) -> dict[str, Any]:
    """Returns the figures with the settings, machine and software of the measurement."""
    each = [timing.seconds_per_candidate for timing in timings]
    rows = [
        {
            **dataclasses.asdict(timing),
            "seconds_per_candidate": seconds,
            "candidates_per_minute_after_compile": timing.per_minute,
            "ratio_to_first_row": None if seconds is None or each[0] is None else seconds / each[0],
        }
        for timing, seconds in zip(timings, each, strict=True)
    ]
    settings = dataclasses.asdict(config)
    return {
        "config": {name: value for name, value in settings.items() if name != "json"},
        "machine": f"{platform.machine()}, {machine()}",
        "software": {"python": platform.python_version(), "jax": jax.__version__},
        "peak_flops": {f"{n} devices": peak for n, peak in peaks.items()},
        "rows": rows,
    }
