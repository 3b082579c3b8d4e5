"""The report's section on ranking by a supernet: a table of rank correlations and a plot per estimate."""

from lanas_jax.ranking.correlation import RankCorrelation
from lanas_jax.ranking.result import Ranked
from lanas_jax.report import formatting, plots, tables
from lanas_jax.report.elements import Element, element


def section(ranked: Ranked, place: str = "ranking") -> list[Element]:
    """Returns heading, explanation, table and plots.

    Args:
      ranked: finished ranking, against training from scratch or against a benchmark table.
      place: prefix of the ids of the plots, unique within the page.
    """
    benchmark = ranked.about.get("benchmark")
    figures = [
        element(
            "figure",
            plots.truth_against_estimate(
                estimate, ranked.truth, name, f"{place}{i}", benchmark or "trained from scratch"
            ),
            element("figcaption", _caption(name, ranked.correlations[name])),
        )
        for i, (name, estimate) in enumerate(ranked.estimates.items())
    ]
    return [
        element("h2", "Does the supernet rank?" if benchmark is None else f"Ranking against {benchmark}"),
        element("p", _explanation(ranked), class_="quiet"),
        tables.ranking_table(ranked.correlations),
        element("div", *figures, class_="plots"),
    ]


def _explanation(ranked: Ranked) -> str:
    pool, benchmark = ranked.about.get("pool"), ranked.about.get("benchmark")
    networks = formatting.plural(len(ranked.codes), "architecture") + ("" if pool is None else f" out of {pool:,}")
    if benchmark is None:
        first = next(iter(ranked.estimates))
        what = f"{networks}, spread over the whole range of their values by {first}, were trained from scratch."
    else:
        what = f"{networks} are compared by their values in {benchmark}. Controls are costs, not estimates."
    return (
        f"{what} A rank correlation of 1 means that an estimate gives the same order, 0 that it gives no information "
        f"about it. Intervals are 95 % bootstrap intervals over networks."
    )


def _caption(name: str, found: RankCorrelation) -> str:
    failed = f", {found.missing} failed" if found.missing else ""
    networks = formatting.plural(found.networks, "network")
    return f"{name}: Spearman {found.spearman.text}, Kendall {found.kendall.text}, {networks}{failed}."
