"""The figures of benchmarks, printed and written down; rows and report are those of `candidates.py`."""

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

import jax
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one way took.

    Attributes:
      way: which.
      candidates: how many it trained, or timed.
      compile_seconds: of tracing and compiling, all candidates together.
      step_seconds: of one training step of one candidate: where several train at a time, their share of the time.
      share_of_peak: of the step, in what its devices reach in a matrix product.
      proxy_steps: of a candidate's training.
      planned_bytes: memory of a device for the training program, as XLA plans it; None: not known.
      train_seconds: of whole trainings and evaluations; None: only steps were timed.
      accuracy: mean over its candidates, on the validation split; None as above.
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
        """Everything counted; None where only steps were timed."""
        if self.train_seconds is None:
            return None
        return (self.compile_seconds + self.train_seconds) / self.candidates

    @property
    def per_minute(self) -> float:
        """Candidates a minute, compilation not counted; where only steps were timed, by these alone."""
        if self.train_seconds is None:
            return 60 / (self.proxy_steps * self.step_seconds)
        return 60 * self.candidates / self.train_seconds


def cells(timing: Timing, first: Timing) -> dict[str, str]:
    """A row of the table, with its titles; what the setting does not measure is not in it."""
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
    """A row in words, for while others are measured."""
    way, *figures = cells(timing, first).items()
    return f"{way[1]}: " + ", ".join(f"{value} {title}" for title, value in figures)


def table(title: str, rows: list[dict[str, str]]) -> Table:
    """Rows of figures by their titles; the first column is words."""
    columns = Table(title=title)
    for i, name in enumerate(rows[0]):
        columns.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        columns.add_row(*row.values())
    return columns


def machine() -> str:
    """The devices that the figures come from."""
    return f"{len(jax.local_devices())} x {jax.local_devices()[0].device_kind}"


def show_timings(config: Any, peaks: Mapping[int, float], timings: list[Timing], console: Console) -> None:
    """The table."""
    rows = [cells(timing, timings[0]) for timing in timings]
    console.print(table(f"training candidates: {config.setting}, {config.dtype}, {machine()}", rows))
    reached = ", ".join(f"{peak / 1e12:.3g} on {n} device{'s' * (n > 1)}" for n, peak in peaks.items())
    console.print(
        f"ms/step: of one candidate, its share where several train at a time. of peak: six operations per multiply-add "
        f"and image, in units of what a matrix product in {config.dtype} was measured to reach (10^12 a second: "
        f"{reached}). Rows of fewer nets are samples; their figures are those of the sample.",
        highlight=False,
    )
    if timings[0].train_seconds is not None:
        console.print(
            "s each: seconds per candidate, compilation counted and shared by the candidates of the row. per min: "
            "candidates a minute, after the compilation. ratio: s each, in units of the first row."
        )
    else:
        console.print(
            f"per min: candidates a minute at {timings[0].proxy_steps} steps each, by the steps alone: no compilation, "
            "no evaluation. GiB: of a device, as XLA plans it. Images are random: speed only."
        )


def timings_report(config: Any, peaks: Mapping[int, float], timings: list[Timing]) -> dict[str, Any]:
    """The figures, and what they were measured on and with."""
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
