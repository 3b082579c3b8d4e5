"""The result of a ranking and its files: ``ranking.csv``, one row per network, and ``ranking.json``, the correlations.

Each file is written atomically, ranking.json last, so a folder with a ranking.json holds a finished ranking.
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lanas_jax.ranking.base import TRUTH
from lanas_jax.ranking.correlation import Coefficient, RankCorrelation
from lanas_jax.runtime.files import replace_json, replace_text
from lanas_jax.storage.folder import RunError

FOLDER = "ranking"  # within the run directory
AGAINST = "against"  # within the run directory; one folder per table
FORMAT = 1
_TABLE, _RECORD = "ranking.csv", "ranking.json"


@dataclasses.dataclass(frozen=True)
class Ranked:
    """Networks with their estimated and true values.

    Attributes:
      codes: codes of the sampled networks, by ascending value of the first estimate or of the benchmark table.
      estimates: values per network, by name of the estimate; NaN: no value.
      truth: value of each network after training from scratch or in a benchmark table; NaN: no value.
      seconds: training time of each network in seconds, including compilation; NaN: not trained here.
      correlations: rank correlation with the truth, by name of the estimate.
      about: requested settings, software versions and date, by name.
    """

    codes: Sequence[tuple[int, ...]]
    estimates: Mapping[str, Float[np.ndarray, " n"]]
    truth: Float[np.ndarray, " n"]
    seconds: Float[np.ndarray, " n"]
    correlations: Mapping[str, RankCorrelation]
    about: Mapping[str, Any]


def write_ranking(folder: Path, ranked: Ranked) -> None:
    """Writes ranking.csv and ranking.json."""
    names = list(ranked.estimates)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["code", *names, TRUTH, "seconds"])
    columns = [*ranked.estimates.values(), ranked.truth, ranked.seconds]
    for code, *numbers in zip(ranked.codes, *(column.tolist() for column in columns), strict=True):
        writer.writerow([",".join(map(str, code)), *("" if math.isnan(number) else repr(number) for number in numbers)])
    record = {
        "format": FORMAT,
        **ranked.about,
        "correlations": {name: _encoded(found) for name, found in ranked.correlations.items()},
    }
    replace_text(folder / _TABLE, lines.getvalue())
    replace_json(folder / _RECORD, record)


def read_ranking(folder: Path) -> Ranked | None:
    """Reads the ranking in a folder; returns None if there is no finished ranking.

    Raises:
      RunError: a file is damaged or has another format.
    """
    if not ((folder / _TABLE).exists() and (folder / _RECORD).exists()):
        return None
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if record.pop("format") != FORMAT:
            raise RunError(f"{folder / _RECORD} is not of format {FORMAT}, the one this version of lanas_jax reads")
        correlations = {name: _decoded(found) for name, found in record.pop("correlations").items()}
        return _with_table(folder / _TABLE, correlations, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"the ranking in {folder} is damaged: {type(error).__name__}: {error}") from error


def read_against(directory: Path) -> list[Ranked]:
    """Reads the finished rankings against benchmark tables in a run directory, in order of their folders' names.

    Raises:
      RunError: a file is damaged or has another format.
    """
    return [found for folder in sorted((directory / AGAINST).glob("*")) if (found := read_ranking(folder)) is not None]


def _with_table(path: Path, correlations: Mapping[str, RankCorrelation], about: Mapping[str, Any]) -> Ranked:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> Float[np.ndarray, " n"]:
        return np.array([float(row[name] or "nan") for row in rows])

    codes = [tuple(map(int, row["code"].split(","))) for row in rows]
    estimates = {name: column(name) for name in correlations}
    return Ranked(codes, estimates, column(TRUTH), column("seconds"), correlations, about)


def _encoded(found: RankCorrelation) -> dict[str, Any]:
    """Encodes a correlation for JSON, with null for NaN."""

    def numbers(coefficient: Coefficient) -> dict[str, float | None]:
        return {name: None if math.isnan(number) else number for name, number in coefficient._asdict().items()}

    return found._asdict() | {"spearman": numbers(found.spearman), "kendall": numbers(found.kendall)}


def _decoded(found: Mapping[str, Any]) -> RankCorrelation:
    def coefficient(numbers: Mapping[str, float | None]) -> Coefficient:
        return Coefficient(**{name: math.nan if number is None else number for name, number in numbers.items()})

    both = {name: coefficient(found[name]) for name in ("spearman", "kendall")}
    return RankCorrelation(**{**found, **both})
