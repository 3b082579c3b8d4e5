"""A ranking without training: estimates of architectures compared with their values in a benchmark table.

The sample covers the whole range of the table's values, and each network of the table is equally likely to be in it.
The costs of the networks are compared, too, if the space has costs: an estimate is only useful if it ranks better than
the number of parameters does. Contents of the run's folder ``against/TABLE``:

================  =====================================================================================
``asked.json``    the requested ranking; a different request is refused
``estimate-0/``   a run (`lanas_jax.study.run_folder`): the sample, valued by the first estimate; and so on
``ranking.csv``   one row per network, written at the end
``ranking.json``  the correlations, written last
================  =====================================================================================
"""

import dataclasses
import datetime
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lanas_jax.evaluators.base import Evaluator
from lanas_jax.formats.errors import FileError
from lanas_jax.ranking import result
from lanas_jax.ranking.base import RankingError
from lanas_jax.ranking.correlation import FEWEST, rank_correlation
from lanas_jax.ranking.rank import AT_ONCE, Valuing, claim_folder, networks_so_far, trial_values
from lanas_jax.ranking.result import Ranked
from lanas_jax.ranking.sample import stratified
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.definition import choices_of, definition_difference
from lanas_jax.storage import config_json, software
from lanas_jax.study import run_folder
from lanas_jax.study.run_folder import Run
from lanas_jax.tables.benchmark import Benchmark
from lanas_jax.tables.catalogue import find_benchmark

NETWORKS = 1000  # default size of the sample
SCRATCH = "trained from scratch"  # estimate by the trainings of a ranking
PARAMETERS, MULTIPLY_ADDS = "parameters (control)", "multiply-adds (control)"


@dataclasses.dataclass(frozen=True)
class AgainstDesign:
    """The table, the size and the seed of a ranking against a table.

    Attributes:
      table: name of a benchmark or path of an ``.npz`` file, as for `find_benchmark`.
      networks: number of networks to sample from the table; None: 1,000, or all networks of a smaller table.
      seed: random seed of the sample, the trials and the intervals.
      ranked: True to compare the networks that the run's ranking has trained so far, and their values, instead of a
        sample.

    Raises:
      RankingError: a number is out of range, or a number of networks is given with `ranked`.
    """

    table: str
    networks: int | None = None
    seed: int = 0
    ranked: bool = False

    def __post_init__(self) -> None:
        if self.networks is not None and self.networks < FEWEST:
            raise RankingError(f"networks must be at least {FEWEST}; got {self.networks}")
        if self.networks is not None and self.ranked:
            raise RankingError("--ranked compares all networks that the ranking has trained: omit --networks")
        if not 0 <= self.seed < 2**32:
            raise RankingError(f"seed must be 0 to 2**32 - 1; got {self.seed}")

    def folder(self, here: Run) -> Path:
        """Returns the folder of the ranking in a run."""
        name = Path(self.table).name.replace(":", "-")
        return here.directory / result.AGAINST / (f"{name}-ranked" if self.ranked else name)

    @functools.cached_property
    def benchmark(self) -> Benchmark:
        """The table.

        Raises:
          RankingError: the table is unknown or cannot be read; the message names the tables there are.
        """
        try:
            return find_benchmark(self.table)
        except FileError as error:
            raise RankingError(str(error)) from error


def check_same_choices(benchmark: Benchmark, space: SearchSpace) -> None:
    """Checks that the codes of a table have the same meaning in the space of a run.

    Only the choices count: a supernet may have fewer channels or cells than the networks of the table.

    Raises:
      RankingError: the choices differ; the message names both spaces and the differences.
    """
    theirs, ours = (choices_of(one.definition()) for one in (benchmark.space, space))
    if changed := definition_difference(theirs, ours):
        raise RankingError(
            f"{benchmark.name} is a table of another space: the table has {_title(benchmark.space)}, the run has "
            f"{_title(space)}: {changed}. Choose a table of the run's space (lanas tables)"
        )


def rank_against(estimates: Mapping[str, Evaluator], design: AgainstDesign, settings: Any, valuing: Valuing) -> Ranked:
    """Values networks of a table with every estimate and correlates the estimates with the table's values.

    The values of the table are validation accuracies or negated losses, averaged over repeats. A second call with the
    same arguments resumes the ranking.

    Args:
      estimates: evaluators by name; not used with `design.ranked`.
      design: table, size and seed of the ranking.
      settings: settings of the experiment that made `estimates`; saved with the ranking.
      valuing: evaluation of columns in the space and the run folder.

    Raises:
      RankingError: the table belongs to another space or has too few networks, or no ranking has trained enough.
      RunError: the folder holds another ranking (the message names the difference), or another process writes to the
        run.
      StudyError: an evaluator is broken.
    """
    benchmark = design.benchmark
    check_same_choices(benchmark, valuing.space)
    codes, truth, columns, pool = (
        _trained(benchmark, valuing) if design.ranked else _sample(benchmark, design, valuing.space)
    )
    folder = design.folder(valuing.here)
    asked = {
        "against": design.table,
        "networks": len(codes),
        "seed": design.seed,
        "settings": config_json.encode_value(settings),
        "estimates": [*columns, *estimates],
    }
    claim_folder(folder, asked, growing=("networks",) if design.ranked else ())
    with run_folder.RUN.lock(valuing.here.directory):
        for i, (name, evaluator) in enumerate(estimates.items()):
            columns[name] = trial_values(valuing.column(name, evaluator, codes, folder / f"estimate-{i}", AT_ONCE))
        columns |= _controls(benchmark.space, valuing.space, codes)
        ranked = Ranked(
            codes=[tuple(code) for code in codes.tolist()],
            estimates=columns,
            truth=truth,
            seconds=np.full(len(codes), np.nan),
            correlations={name: rank_correlation(found, truth, seed=design.seed) for name, found in columns.items()},
            about=asked
            | {
                "pool": pool,
                "benchmark": benchmark.name,
                "software": software.versions(),
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            },
        )
        result.write_ranking(folder, ranked)
    return ranked


Networks = tuple[Int[np.ndarray, "n dims"], Float[np.ndarray, " n"], dict[str, Float[np.ndarray, " n"]], int | None]


def _sample(benchmark: Benchmark, design: AgainstDesign, space: SearchSpace) -> Networks:
    """Returns codes, values in the table, no columns yet, and the number of codes that the table and the space share.

    Codes are canonical in the space of the run and in ascending order of their value in the table.
    """
    valid = np.asarray(space.valid(benchmark.codes))
    codes = np.asarray(space.canonical(benchmark.codes[valid]))
    values = benchmark.validation.mean(axis=1, dtype=np.float64)[valid]
    first = np.sort(np.unique(codes, axis=0, return_index=True)[1])  # a coarser canonical form may merge codes
    codes, values = codes[first], values[first]
    networks = min(NETWORKS, len(codes)) if design.networks is None else design.networks
    if not FEWEST <= networks <= len(codes):
        raise RankingError(
            f"{benchmark.name} has {len(codes)} networks that are valid in the run's space, but "
            f"{max(networks, FEWEST)} are needed; request fewer networks or choose another table"
        )
    rows = stratified(values, networks, design.seed)
    return codes[rows], values[rows], {}, len(codes)


def _trained(benchmark: Benchmark, valuing: Valuing) -> Networks:
    """Returns the codes that the run's ranking has trained, their values in the table, all columns, no pool size."""
    codes, estimates, trained = networks_so_far(valuing)
    if len(codes) < FEWEST:
        raise RankingError(
            f"{valuing.here.directory} has no ranking with {FEWEST} trained networks: omit --ranked to compare the "
            f"run's own estimates, or run lanas rank without --against first"
        )
    truth = np.asarray(benchmark.table().lookup(codes), np.float64)
    return codes, truth, {**estimates, SCRATCH: trained}, None


def _controls(
    of_table: SearchSpace, of_run: SearchSpace, codes: Int[np.ndarray, "n dims"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Returns the costs of the networks: those of the table's space or else of the run's; empty if neither has any."""
    for space in (of_table, of_run):
        try:
            cost = space.cost(codes)
        except NotImplementedError:
            continue
        return {
            PARAMETERS: np.asarray(cost.parameters, np.float64),
            MULTIPLY_ADDS: np.asarray(cost.multiply_adds, np.float64),
        }
    return {}


def _title(space: SearchSpace) -> str:
    return f"{type(space).__name__} of {len(space.choices)} choices and {space.size:,} codes"
