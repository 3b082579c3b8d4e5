"""Runs to report on, with made-up values: no network is trained here."""

import numpy as np

from lanas_jax.ranking.correlation import rank_correlation
from lanas_jax.ranking.result import Ranked
from lanas_jax.report.page import ReportData
from lanas_jax.spaces.base import Choice, SearchSpace
from lanas_jax.storage.trial import Status, Trial

NAN = float("nan")
SPACE = SearchSpace([Choice(f"op{i}", ("none", "skip", "conv1x1", "conv3x3", "pool")) for i in range(6)])


def trial(i: int, value: float | None = None, reason: str | None = None, **fields: object) -> Trial:
    """Trial `i` of batches of four: done with a value, failed with a reason, else pending."""
    status = Status.DONE if value is not None else Status.FAILED if reason is not None else Status.PENDING
    made = {"code": tuple((i // 5**k) % 5 for k in range(6)), "software": {"jax": "0.10.2"}} | fields
    if status != Status.PENDING:
        made = {"compile_seconds": 0.5, "train_seconds": 1.5, "started": 1.75e9, "finished": 1.75e9 + i} | made
    return Trial(id=i, batch=i // 4, key="00", status=status, value=value, reason=reason, **made)


def trials(n: int, seed: int = 0, failing: float = 0.1) -> list[Trial]:
    """`n` finished trials, some of them failed."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        cost = {"multiply_adds": int(rng.integers(10**5, 10**6)), "parameters": int(rng.integers(10**4, 10**5))}
        if rng.random() < failing:
            made.append(trial(i, reason=f"the loss is NaN after step {i}", **cost))
        else:
            made.append(trial(i, value=float(rng.uniform(0.8, 0.99)), **cost))
    return made


def run(given: list[Trial], **fields: object) -> ReportData:
    """A run of these trials."""
    return ReportData(**{"name": "made up", "space": SPACE, "trials": given, "budget": len(given)} | fields)


def ranked(estimates: dict[str, list[float]], truth: list[float]) -> Ranked:
    """A ranking of these values."""
    codes = [trial(i).code for i in range(len(truth))]
    columns = {name: np.array(values) for name, values in estimates.items()}
    correlations = {name: rank_correlation(column, np.array(truth), resamples=20) for name, column in columns.items()}
    return Ranked(codes, columns, np.array(truth), np.ones(len(truth)), correlations, {"pool": 8 * len(truth)})


def final(code: tuple[int, ...]) -> dict[str, object]:
    """The result of a winner's training."""
    return {
        "code": list(code),
        "recipe": {"epochs": 30},
        "validation_accuracy": 0.981,
        "ema_validation_accuracy": 0.9825,
        "test_accuracy": 0.9725,
        "ema_test_accuracy": 0.9731,
        "seconds": 11.0,
        "compile_seconds": 1.0,
        "multiply_adds": 1_240_000,
        "parameters": 45_600,
    }
