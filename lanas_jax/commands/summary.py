"""Terminal output about trials and results: tables, CSV, and the summary at the end of a search."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lanas_jax.runtime.console import print_table
from lanas_jax.storage.trial import Status, Trial, differ_in_steps

if TYPE_CHECKING:
    from lanas_jax.spaces.base import SearchSpace

TOP = 5
REASON_LENGTH = 1_000  # maximum characters of a failure's reason, such as a compiler's list of buffers; CSV has all
COLUMNS = (
    "id", "batch", "status", "value", "multiply_adds", "parameters", "compile_seconds", "train_seconds", "steps",
    "started", "finished", "asked", "told", "tries", "worker", "reason", "code", "key", "software",
)  # fmt: skip


def top(trials: Sequence[Trial], n: int = TOP) -> list[Trial]:
    """Returns the `n` trials with the highest values, best first; ties go to the earlier trial."""
    done = [trial for trial in trials if trial.value is not None]
    return sorted(done, key=lambda trial: (-(trial.value or 0.0), trial.id))[:n]


def best_table(trials: Sequence[Trial]) -> Table:
    """Returns a table of the best trials, one row per trial."""
    table = Table(title=f"the best {len(trials)} trials" if len(trials) > 1 else "the best trial", title_justify="left")
    for name in ("trial", "value", "multiply-adds", "parameters", *outcome_names(trials)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("code", overflow="fold")
    for trial in trials:
        table.add_row(
            str(trial.id),
            value(trial),
            grouped_count(trial.multiply_adds),
            grouped_count(trial.parameters),
            *outcomes(trial),
            code(trial),
        )
    return table


def front_table(members: Sequence[Trial], knee: Trial | None) -> Table:
    """Returns a table of a front, one row per trial, the knee marked."""
    table = Table()
    for name in ("trial", "value", "multiply-adds", "parameters", *outcome_names(members)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("code", overflow="fold")
    for trial in members:
        mark = " knee" if trial is knee else ""
        counts = map(grouped_count, (trial.multiply_adds, trial.parameters))
        table.add_row(f"{trial.id}{mark}", value(trial), *counts, *outcomes(trial), code(trial))
    return table


def outcome_names(trials: Sequence[Trial]) -> list[str]:
    """Returns the headings of the columns of trials' outcomes besides the value."""
    return [name.replace("_", "-") for name in (trials[0].outcomes if trials else ())]


def outcomes(trial: Trial) -> list[str]:
    """Formats the outcomes of a trial besides its value; empty if they are missing."""
    return ["" if number is None else f"{number:,.6g}" for number in trial.outcomes.values()]


def trials_table(trials: Sequence[Trial]) -> Table:
    """Returns a table of all trials, one row per trial, with training steps if these differ."""
    table, with_steps = Table(), differ_in_steps(trials)
    steps = ["steps"] if with_steps else []
    for name in ("trial", "status", "value", "multiply-adds", "parameters", *outcome_names(trials), *steps, "seconds"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    table.add_column("code, or reason of failure", overflow="fold")
    for trial in trials:
        seconds = "" if trial.train_seconds is None else f"{trial.train_seconds:.2f}"
        last = _clipped(trial.reason) if trial.reason else code(trial)
        counted = [*map(grouped_count, (trial.multiply_adds, trial.parameters)), *outcomes(trial)]
        counted += [grouped_count(trial.steps)] if with_steps else []
        table.add_row(str(trial.id), trial.status.value, value(trial), *counted, seconds, last)
    return table


def trials_csv(trials: Sequence[Trial]) -> str:
    """Returns all trials as CSV with a header and every recorded field."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    measured = list(trials[0].outcomes) if trials else []
    writer.writerow([*COLUMNS, *measured])
    for trial in trials:
        software = " ".join(f"{name}={version}" for name, version in trial.software.items())
        fields = {"status": trial.status.value, "code": code(trial), "software": software}
        row = [fields.get(column, getattr(trial, column)) for column in COLUMNS]
        writer.writerow([*row, *(trial.outcomes[name] for name in measured)])
    return lines.getvalue()


def counts(trials: Sequence[Trial]) -> str:
    """Returns the number of trials of each status, as text."""
    number = {status: sum(trial.status == status for trial in trials) for status in Status}
    return ", ".join(f"{n} {status.value}" for status, n in number.items() if n) or "no trials yet"


def show_result(
    console: Console,
    space: "SearchSpace",
    trials: Sequence[Trial],
    final: Mapping[str, Any] | None,
    front: Sequence[Trial] = (),
    knee: Trial | None = None,
) -> None:
    """Prints the result of a search: the best cell, the five best trials, and the accuracies of the trained winner.

    Args:
      console: console to print to.
      space: search space.
      trials: trials of the search.
      final: result of the winner training; None if there is none.
      front: front of a search with several objectives, shown instead of the five best trials.
      knee: trial on that front that is shown instead of the best one.
    """
    import numpy as np

    leaders = top(trials)
    console.print()
    if leaders:
        leader, what = (leaders[0], "best") if knee is None else (knee, "knee of the front")
        console.print(f"{what} of {len(trials)} trials ({counts(trials)}): trial {leader.id}")
        console.print(space.describe(np.array(leader.code, np.int32)))
        console.print()
        print_table(console, best_table(leaders) if knee is None else front_table(front, knee))
    else:
        reasons = [trial.reason for trial in trials if trial.reason]
        last = _clipped(reasons[-1]) if reasons else "unknown"
        console.print(f"no trial succeeded; reason of the last failure: {last}", soft_wrap=True)
    if final is not None:
        console.print(f"\nthe winner, trained for {length(final['recipe'])}:")
        show_accuracies(console, final)


def show_accuracies(console: Console, final: Mapping[str, Any]) -> None:
    """Prints the accuracies of a training's last weights and of their moving average, from its final.json.

    A language model has bits per character instead.
    """
    if "test_bits" in final:
        for name, label in (("validation_bits", "search-validation"), ("test_bits", "test")):
            console.print(f"{label} {final[name]:.4f} bits per character", soft_wrap=True)
        return
    for name, label in (("validation_accuracy", "search-validation accuracy"), ("test_accuracy", "test accuracy")):
        if (last := final[name]) is None:
            continue
        average = final[f"ema_{name}"]
        text = f"{label} {last:.4f}" + ("" if average is None else f", average of weights {average:.4f}")
        console.print(text, soft_wrap=True)


def length(recipe: Mapping[str, Any]) -> str:
    """Returns the length of a winner training in words, from its recipe: epochs, or steps of a language model."""
    return next(f"{recipe[unit]:,} {unit}" for unit in ("epochs", "steps") if unit in recipe)


def _clipped(reason: str) -> str:
    return reason if len(reason) <= REASON_LENGTH else f"{reason[:REASON_LENGTH]}... ({len(reason):,} characters)"


def value(trial: Trial) -> str:
    """Formats a value for a table; empty if there is none."""
    return "" if trial.value is None else f"{trial.value:.4f}"


def grouped_count(number: int | None) -> str:
    """Formats a count with thousands separators; empty if it is unknown."""
    return "" if number is None else f"{number:,}"


def code(trial: Trial) -> str:
    """Formats a code as ``lanas describe --code`` takes it."""
    return ",".join(map(str, trial.code))
