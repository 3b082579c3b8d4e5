"""A benchmark: results of trained networks, with separate validation and test accuracies.

A search uses validation accuracies, as a `Table`; test accuracies are only read for the networks a search found.
Benchmarks are saved as compact ``.npz`` files, which contain only arrays and load in about a second.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import read_npz, write_npz
from lanas_jax.runtime.paths import local_path
from lanas_jax.spaces.base import Codes, SearchSpace
from lanas_jax.spaces.choices import Choice, choice_from_definition
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.natsbench_size import NATSBenchSizeSpace
from lanas_jax.tables.base import Table

FORMAT = "lanas benchmark 2"
OLDER = "lanas benchmark 1"  # in this format, options are text and therefore labels
_SPACES = {space.__name__: space for space in (NASBench101Space, NASBench201Space, NATSBenchSizeSpace)}
_FIELDS = ("format", "name", "notes", "space", "codes", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Benchmark:
    """Validation and test accuracy of networks, each trained once or several times.

    Args:
      name: name of the benchmark and its dataset.
      space: search space of the codes.
      codes: distinct valid codes, one per class of equivalent codes; the attribute `codes` holds the canonical codes.
      validation: validation accuracies in [0, 1], one column per repeat; the values a search sees.
      test: test accuracies in [0, 1], one column per repeat; only reported.
      notes: remarks for readers of the results.

    Raises:
      ValueError: if codes are invalid or equivalent, accuracies are not in [0, 1], or shapes do not match; names the
        rows.
    """

    name: str
    space: SearchSpace
    codes: Int[np.ndarray, "m dims"]
    validation: Float[np.ndarray, "validated repeats"]
    test: Float[np.ndarray, "tested repeats_of_test"]
    notes: str = ""

    def __post_init__(self) -> None:
        for part in ("validation", "test"):
            values = np.asarray(getattr(self, part), np.float32)
            if values.ndim != 2 or len(values) != len(self.codes) or not values.shape[1]:
                raise ValueError(
                    f"{len(self.codes)} codes need {part} values of shape [m, repeats]; got {values.shape}"
                )
            rows = np.flatnonzero(~((values >= 0) & (values <= 1)).all(axis=1))
            if len(rows):
                raise ValueError(
                    f"{len(rows)} rows hold {part} values that are not in [0, 1], the first in row {rows[0]}: "
                    f"{values[rows[0]].tolist()}"
                )
            object.__setattr__(self, part, values)
        object.__setattr__(self, "codes", np.asarray(self._tests.codes))

    def __len__(self) -> int:
        return len(self.codes)

    def table(self, repeat: int | None = None, *, key: PRNGKeyArray | None = None) -> Table:
        """Returns the validation accuracies as a table; the means of the repeats unless an argument is given.

        Args:
          repeat: index of the repeat to use.
          key: PRNG key for drawing one repeat per code; consumed.

        Raises:
          ValueError: if the repeat does not exist, or both arguments are given.
        """
        m, repeats = self.validation.shape
        if repeat is not None and key is not None:
            raise ValueError("give a repeat or a key, not both")
        if repeat is not None and not 0 <= repeat < repeats:
            raise ValueError(f"repeat must be 0 to {repeats - 1}; got {repeat}")
        if key is not None:
            column = np.asarray(jax.random.randint(key, (m,), 0, repeats))
            return Table(self.space, self.codes, self.validation[np.arange(m), column])
        return Table(
            self.space, self.codes, self.validation.mean(axis=1) if repeat is None else self.validation[:, repeat]
        )

    def test_of(self, codes: Codes) -> Float[Array, " n"]:
        """Returns the mean test accuracy of codes over repeats; NaN for codes that are not in the benchmark."""
        return self._tests.lookup(codes)

    @functools.cached_property
    def _tests(self) -> Table:
        return Table(self.space, self.codes, self.test.mean(axis=1))

    def save(self, path: Path | str) -> None:
        """Writes an ``.npz`` file atomically.

        Raises:
          ValueError: if the name does not end in ``.npz``, or the space is neither a plain product of choices nor the
            space of a known benchmark.
          OSError: if the folder cannot be written.
        """
        path = local_path(path)
        if path.suffix != ".npz":
            raise ValueError(f"{path}: expected a file name that ends in .npz")
        codes = self.codes.astype(np.uint8) if self.space.cardinalities.max() <= 256 else self.codes
        texts = {"format": FORMAT, "name": self.name, "notes": self.notes, "space": _space_text(self.space)}
        arrays = {"codes": codes, "validation": self.validation, "test": self.test}
        write_npz(path, {**{field: np.array(text) for field, text in texts.items()}, **arrays})

    @classmethod
    def load(cls, path: Path | str) -> "Benchmark":
        """Loads a benchmark written by `save`.

        Files of the older format ``lanas benchmark 1`` hold the options of a plain space as text, which becomes labels.

        Raises:
          FileError: if the file is missing, of another kind or damaged, or `Benchmark` rejects its rows.
        """
        path = local_path(path)
        arrays = read_npz(path, _FIELDS)
        if arrays["format"] not in (FORMAT, OLDER):
            raise FileError(f"{path}: expected the format {FORMAT!r}; found {str(arrays['format'])!r}")
        try:
            space = _space_of(str(arrays["space"]))
            name, notes = str(arrays["name"]), str(arrays["notes"])
            codes = space.check(arrays["codes"])
            return cls(name, space, codes, arrays["validation"], arrays["test"], notes)
        except (ValueError, TypeError, KeyError) as error:
            raise FileError(f"{path}: {error}") from error


def _space_text(space: SearchSpace) -> str:
    if type(space) is SearchSpace:
        return json.dumps(space.definition()["choices"])
    if any(space == known() for known in _SPACES.values()):
        return json.dumps(type(space).__name__)
    expected = f"expected a plain SearchSpace, or one of {', '.join(_SPACES)} without arguments"
    raise ValueError(f"a benchmark over {type(space).__name__} cannot be written: {expected}")


def _space_of(text: str) -> SearchSpace:
    about = json.loads(text)
    if isinstance(about, list):
        return SearchSpace(map(_choice_of, about))
    if about not in _SPACES:
        raise ValueError(f"unknown space {about!r}; expected one of {', '.join(_SPACES)}")
    return _SPACES[about]()


def _choice_of(about: Any) -> Choice:
    """Returns a choice from its definition, or from a name and options in files of the older format."""
    if isinstance(about, dict):
        return choice_from_definition(about)
    name, options = about
    return Choice(name, options)
