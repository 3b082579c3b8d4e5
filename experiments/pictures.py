"""Pictures of the documentation, each for light and for dark pages, from the results of other commands.

    lanas compare nasbench201-cifar10 --searchers lanas,tpe,evolution,random
    lanas compare nasbench201-imagenet16 --searchers lanas,tpe,evolution,random
    lanas search digits --out runs/pictures
    python -m lanas_jax.experiments.pictures runs/pictures

``make pictures`` runs all four, with Optuna (extra ``peers``), and writes to docs/images:

- ``regret-TABLE-light.svg`` and ``regret-TABLE-dark.svg``, for each table of ``--tables``: mean regret of each searcher
  against the number of samples, with 95 % bootstrap intervals over the searches
- ``report-light.svg`` and ``report-dark.svg``: the drawings of a run's report, the winning cells above the learned tree
"""

import dataclasses
import io
import re
from pathlib import Path
from typing import Annotated, NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
import tyro
from jaxtyping import Float
from matplotlib.figure import Figure

from lanas_jax.commands import help_text
from lanas_jax.comparison.output import LABELS
from lanas_jax.comparison.statistics import bootstrap, regret
from lanas_jax.report import graph, plots, tree
from lanas_jax.report.elements import Element, element
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.report.learned_tree import learned_tree
from lanas_jax.report.style import CSS
from lanas_jax.storage.trial import best
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import run_folder
from lanas_jax.tables import catalogue

SCHEMES = ("light", "dark")
LINES = {"lanas": "--best", "tpe": "--op0", "evolution": "--op3", "random": "--op7"}  # colours of the report's style
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'
DRAWINGS = (".edge", ".branch", ".node", ".label", ".name", ".operation", ".split", ".count", ".weight")
GAP, TITLE = 36, 30  # pixels between drawings, and above a drawing for its title


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the pictures.

    Attributes:
      run: folder of a finished search whose space has graphs.
      tables: names of the benchmark tables.
      comparisons: folder that contains one folder per table, written by ``lanas compare``.
      samples: number of samples on the horizontal axes.
      out: output folder.
    """

    run: Annotated[Path, tyro.conf.Positional]
    tables: tuple[str, ...] = ("nasbench201-cifar10", "nasbench201-imagenet16")
    comparisons: Path = Path("comparisons")
    samples: int = 300
    out: Path = Path("docs/images")


class Panel(NamedTuple):
    """The results of one comparison.

    Attributes:
      title: name of the table and number of searches.
      regrets: mean regret in percentage points, with its bootstrap interval, after each sample; by the name of the
        searcher.
    """

    title: str
    regrets: dict[str, Float[np.ndarray, "samples 3"]]


def panel_of(table: str, folder: Path, samples: int) -> Panel:
    """Reads the results of ``lanas compare`` on a table."""
    optimum = catalogue.find_benchmark(table).table().best
    with np.load(folder / "traces.npz") as traces:
        shortfalls = {name: 100 * regret(traces[name][:, :samples], optimum) for name in LINES if name in traces}
    searches = len(next(iter(shortfalls.values())))
    regrets = {name: np.array([bootstrap(column) for column in each.T]) for name, each in shortfalls.items()}
    return Panel(f"{table}, {searches} searches", regrets)


def colours(scheme: str) -> dict[str, str]:
    """Returns the colours of the report's style sheet on light or dark pages, by the names of their variables."""
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[:2]
    return dict(re.findall(r"(--\w+): (#\w+)", light if scheme == "light" else dark))


def regret_picture(panel: Panel, scheme: str) -> str:
    """Plots the mean regret of each searcher against the number of samples, with bootstrap intervals.

    Args:
      panel: results to plot.
      scheme: ``"light"`` or ``"dark"``.

    Returns:
      The text of an SVG file.
    """
    palette = colours(scheme)
    with matplotlib.rc_context(plots.STYLE | {"svg.hashsalt": "regret"}):
        figure = Figure(figsize=(9.2, 3.3), layout="constrained")
        axes = figure.subplots()
        for name, intervals in panel.regrets.items():
            color = palette[LINES[name]]
            samples = np.arange(1, len(intervals) + 1)
            axes.fill_between(samples, intervals[:, 1], intervals[:, 2], color=color, alpha=0.2, linewidth=0)
            width = 2.6 if name == "lanas" else 1.6
            axes.plot(samples, intervals[:, 0], color=color, linewidth=width, label=LABELS[name])
        axes.set(xlabel="trained networks", yscale="log", xlim=(1, len(samples)), ylim=(0.005, 10.0))
        axes.set_title(panel.title, loc="left", fontsize=10)
        axes.yaxis.set_major_formatter(lambda number, _: f"{number:g}")
        axes.set_ylabel("mean regret, points of accuracy")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=len(LINES), fontsize=10)
        return page_svg(figure, scheme)


def page_svg(figure: Figure, scheme: str) -> str:
    """Returns a figure as the text of an SVG file, in the font and the ink of light or dark pages."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    palette = colours(scheme)
    text = buffer.getvalue().replace("'DejaVu Sans'", FONT.replace('"', "'"))
    return text.replace(plots.INK, palette["--ink"]).replace(plots.FAINT, palette["--faint"])


def report_picture(run: Path, scheme: str) -> str:
    """Draws the winning cells of a run side by side, and its learned tree below.

    Returns:
      The text of an SVG file.
    """
    here = run_folder.open_run(run)
    experiment = here.experiment()
    with TrialStore.open(here.trials, read_only=True) as store:
        trials = store.trials()
    nodes, _ = learned_tree(experiment.searcher, experiment.seed, trials)
    winner = best(trials)
    if winner is None or nodes is None:
        raise ValueError(f"{run} has no tree: it needs a finished search by LaNAS")
    cells = experiment.space.graphs(np.array(winner.code, np.int32))
    operations = graph.operations(cells)
    drawn = [(cell.name, graph.draw_graph(cell, operations)) for cell in cells]
    show = ValueFormat.of(trial.value for trial in trials if trial.value is not None)
    return arranged([drawn, [("learned tree", tree.draw_tree(nodes, show))]], scheme)


def arranged(rows: list[list[tuple[str, Element]]], scheme: str) -> str:
    """Arranges titled drawings of the report in rows, and returns the text of an SVG file."""
    parts, top, width = [], 0, 0
    for row in rows:
        left, bottom = 0, top
        for title, drawing in row:
            across, down = (int(number) for number in drawing.attrib["viewBox"].split()[2:])
            parts.append(element("text", title, class_="title", x=left + 6, y=top + 20))
            inner = element("svg", *drawing, x=left, y=top + TITLE, width=across, height=down)
            parts.append(inner)
            left, bottom = left + across + GAP, max(bottom, top + TITLE + down)
        top, width = bottom + GAP // 2, max(width, left - GAP)
    rules = "\n".join(line for line in CSS.splitlines() if line.startswith(DRAWINGS))
    rules += f"\nsvg {{ font: 12px {FONT}; }} .title {{ font-size: 16px; font-weight: 600; fill: var(--ink); }}"
    size = f"0 0 {width} {top}"
    page = element("svg", element("style", rules), *parts, xmlns="http://www.w3.org/2000/svg", viewBox=size)
    text = ElementTree.tostring(page, encoding="unicode")
    palette = colours(scheme)
    return re.sub(r"var\((--\w+)\)", lambda name: palette[name[1]], text)


def main(config: Config) -> None:
    """Writes all pictures."""
    panels = {name: panel_of(name, config.comparisons / name, config.samples) for name in config.tables}
    config.out.mkdir(parents=True, exist_ok=True)
    for scheme in SCHEMES:
        regrets = {f"regret-{name}": regret_picture(panel, scheme) for name, panel in panels.items()}
        for name, text in (regrets | {"report": report_picture(config.run, scheme)}).items():
            path = config.out / f"{name}-{scheme}.svg"
            path.write_text(f"{text.rstrip()}\n", encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main(help_text.parse_documented(Config, __doc__))
