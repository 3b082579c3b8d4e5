"""The report's section on ranking by a supernet: a table of rank correlations and a plot per estimate."""

from lanas_jax.ranking.correlation import RankCorrelation
from lanas_jax.ranking.result import Ranked
from lanas_jax.report import formatting, plots, tables
from lanas_jax.report.elements import Element, element


def section(ranked: Ranked) -> list[Element]:
    """Returns heading, explanation, table and plots."""
    figures = [
        element(
            "figure",
            plots.truth_against_estimate(estimate, ranked.truth, name, f"ranking{i}"),
            element("figcaption", _caption(name, ranked.correlations[name])),
        )
        for i, (name, estimate) in enumerate(ranked.estimates.items())
    ]
    return [
        element("h2", "Does the supernet rank?"),
        element("p", _explanation(ranked), class_="quiet"),
        tables.ranking_table(ranked.correlations),
        element("div", *figures, class_="plots"),
    ]


def _explanation(ranked: Ranked) -> str:
    first, pool = next(iter(ranked.estimates)), ranked.about.get("pool")
    networks = formatting.plural(len(ranked.codes), "architecture") + ("" if pool is None else f" out of {pool:,}")
    return (
        f"{networks}, spread over the whole range of their values by {first}, were trained from scratch. A rank "
        f"correlation of 1 means that an estimate gives the same order, 0 that it gives no information about it. "
        f"Intervals are 95 % bootstrap intervals over networks."
    )


def _caption(name: str, found: RankCorrelation) -> str:
    failed = f", {found.missing} failed" if found.missing else ""
    networks = formatting.plural(found.networks, "network")
    return f"{name}: Spearman {found.spearman.text}, Kendall {found.kendall.text}, {networks}{failed}."
