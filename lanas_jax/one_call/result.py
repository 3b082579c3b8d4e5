"""The result of a search: its trials and its best options, as text and as a notebook shows it."""

import base64
import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lanas_jax.report import plots
from lanas_jax.report.elements import Element, element, html
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.choices import Option
from lanas_jax.storage.trial import Status, Trial
from lanas_jax.study.objectives import VALUES, front, winner_among


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Study:
    """A search, finished or not.

    Attributes:
      directory: run folder, which contains ``report.html`` once the search is finished.
      name: name of the objective, or of the experiment.
      space: search space; of a loaded run, the product of its choices, without costs and graphs.
      trials: trials in the order asked, pending and failed ones included.
      budget: total number of trials of the search.
      objectives: names of the objectives of a search with several; empty for one.
    """

    directory: Path
    name: str
    space: SearchSpace
    trials: Sequence[Trial]
    budget: int
    objectives: tuple[str, ...] = ()

    @property
    def best(self) -> Trial | None:
        """The trial with the highest value, or the knee of the front of several objectives; None if there is none."""
        return winner_among(self.trials, self.objectives)

    @property
    def front(self) -> list[Trial]:
        """The trials that no other beats in every objective; with one objective, the best trial."""
        return front(self.trials, self.objectives or VALUES[:1])

    @property
    def best_value(self) -> float | None:
        """The value of the best trial."""
        return None if self.best is None else self.best.value

    @property
    def best_options(self) -> dict[str, Option] | None:
        """The options of the best trial by the names of their choices."""
        return None if self.best is None else self.options(self.best)

    def options(self, trial: Trial) -> dict[str, Option]:
        """Returns the options of a trial by the names of their choices, as the objective received them."""
        return self.space.options(np.array(trial.code, np.int32))

    def __repr__(self) -> str:
        lines = [self._summary()]
        if (winner := self.best) is not None:
            code = np.array(winner.code, np.int32)
            lines += [f"best: trial {winner.id}, value {winner.value:.6g}", self.space.describe(code)]
        return "\n".join([*lines, str(self.directory)])

    def _repr_html_(self) -> str:
        """Returns the HTML that a notebook displays: a plot of the trials, and the best options."""
        parts: list[Element] = [element("p", element("b", self.name), f": {self._summary(named=False)}")]
        values = [trial.value for trial in self.trials if trial.value is not None]
        if (winner := self.best) is not None:
            picture = plots.svg_document(plots.best_against_trials(self.trials, ValueFormat.of(values)))
            source = f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"
            label = "value of each trial, and best value so far, against the trial number"
            parts.append(element("img", src=source, alt=label, style="width: 100%; max-width: 540px; background: #fff"))
            facts = [("value", f"{winner.value:.6g}"), *self.options(winner).items()]
            rows = [element("tr", element("td", name), element("td", str(fact))) for name, fact in facts]
            heading = element("caption", f"best: trial {winner.id}", style="text-align: left")
            parts.append(element("table", heading, *rows))
        parts.append(element("p", element("code", str(self.directory))))
        return html(element("div", *parts))

    def _summary(self, *, named: bool = True) -> str:
        counts = Counter(trial.status for trial in self.trials)
        over = counts[Status.DONE] + counts[Status.FAILED]
        others = [f", {counts[status]} {status.value}" for status in (Status.FAILED, Status.PENDING) if counts[status]]
        return f"{f'{self.name}: ' if named else ''}{over} of {self.budget} trials{''.join(others)}"
