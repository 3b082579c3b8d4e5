"""A benchmark: results of trained networks, with separate validation and test accuracies.

A search uses validation accuracies, as a `Table`; test accuracies are only read for the networks a search found. In a
benchmark of regression, losses take the place of accuracies; they are negated, since values are maximized.
Benchmarks are saved as compact ``.npz`` files, which contain only arrays and load in about a second.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import fields_of, read_npz, write_npz
from lanas_jax.runtime.paths import local_path
from lanas_jax.spaces.base import Codes, SearchSpace
from lanas_jax.spaces.choices import Choice, choice_from_definition
from lanas_jax.spaces.convnet import ConvNetSpace
from lanas_jax.spaces.mnasnet import MnasNetSpace
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.natsbench_size import NATSBenchSizeSpace
from lanas_jax.spaces.recurrent import RecurrentSpace
from lanas_jax.tables.base import Table

FORMAT = "lanas benchmark 2"
OLDER = "lanas benchmark 1"  # in this format, options are text and therefore labels
THROUGHPUT, COST = "throughput_", "cost_"  # prefixes of the fields with throughputs and measured costs
_SPACES = {
    cls.__name__: cls
    for cls in (ConvNetSpace, MnasNetSpace, NASBench101Space, NASBench201Space, NATSBenchSizeSpace, RecurrentSpace)
}
_FIELDS = ("format", "name", "notes", "space", "codes", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Benchmark:
    """Validation and test accuracy of networks, each trained once or several times.

    Args:
      name: name of the benchmark and its dataset.
      space: search space of the codes.
      codes: distinct valid codes, one per class of equivalent codes; the attribute `codes` holds the canonical codes.
      validation: validation accuracies in [0, 1], or negated losses, one column per repeat; the values a search sees.
      test: test accuracies in [0, 1], or negated losses, one column per repeat; only reported.
      notes: remarks for readers of the results.
      throughputs: measured images per second of each network by device, NaN where not measured.
      costs: other measured costs of each network by name, such as ``latency_edgegpu``, NaN where not measured.

    Raises:
      ValueError: if codes are invalid or equivalent, accuracies are not in [0, 1], losses are negative or not finite,
        or shapes do not match; names the rows.
    """

    name: str
    space: SearchSpace
    codes: Int[np.ndarray, "m dims"]
    validation: Float[np.ndarray, "validated repeats"]
    test: Float[np.ndarray, "tested repeats_of_test"]
    notes: str = ""
    throughputs: Mapping[str, Float[np.ndarray, " m"]] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, Float[np.ndarray, " m"]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("validation", "test"):
            values = np.asarray(getattr(self, part), np.float32)
            if values.ndim != 2 or len(values) != len(self.codes) or not values.shape[1]:
                raise ValueError(
                    f"{len(self.codes)} codes need {part} values of shape [m, repeats]; got {values.shape}"
                )
            losses = np.isfinite(values).all() and values.max(initial=0) <= 0
            rows = np.flatnonzero(~((values >= 0) & (values <= 1)).all(axis=1))
            if len(rows) and not losses:
                raise ValueError(
                    f"{len(rows)} rows hold {part} values that are not in [0, 1], the first in row {rows[0]}: "
                    f"{values[rows[0]].tolist()}; losses must be finite and negated, all at most 0"
                )
            object.__setattr__(self, part, values)
        measured = {f"throughputs of {device}": column for device, column in self.throughputs.items()}
        for what, column in (*measured.items(), *self.costs.items()):
            if np.shape(column) != (len(self.codes),):
                raise ValueError(
                    f"{len(self.codes)} codes need {what} of shape ({len(self.codes)},); got {np.shape(column)}"
                )
        object.__setattr__(self, "codes", np.asarray(self._tests.codes))

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def has_losses(self) -> bool:
        """True if the values are negated losses instead of accuracies."""
        return bool(self.validation.min(initial=0) < 0)

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

    def within(
        self, max_multiply_adds: float | None = None, min_throughputs: Mapping[str, float] | None = None
    ) -> "Benchmark":
        """Returns the benchmark of the networks within hard limits; its name states them.

        Networks whose throughput was not measured do not meet a limit on it.

        Args:
          max_multiply_adds: largest number of multiply-adds, in millions; None for no limit. In NAS-Bench-201 and the
            NATS-Bench sizes, it counts a CIFAR-10 image, whatever the dataset.
          min_throughputs: smallest number of images per second by device.

        Raises:
          ValueError: if a limit is not a positive number or no network meets it, or the benchmark does not have the
            costs or the device; names what there is.
        """
        allowed, name = np.ones(len(self), bool), self.name
        if max_multiply_adds is not None:
            try:
                millions = self.space.cost(self.codes).multiply_adds / 1e6
            except NotImplementedError as error:
                raise ValueError(f"{self.name} takes no limit on multiply-adds: its networks have no costs") from error
            unit = "M multiply-adds"
            if any(self.space == known() for known in (NASBench201Space, NATSBenchSizeSpace)):
                unit += " of a CIFAR-10 image"  # also in tables of other datasets
            allowed &= _meets(self.name, millions, unit, max_multiply_adds, is_least=False)
            name += f", at most {max_multiply_adds:g} {unit}"
        for device, least in (min_throughputs or {}).items():
            if device not in self.throughputs:
                there = ", ".join(self.throughputs) or "no device at all"
                raise ValueError(f"{self.name} has no throughput of {device!r}; it has {there}")
            speeds = np.asarray(self.throughputs[device])
            allowed &= _meets(self.name, speeds, f"images/s on {device}", least, is_least=True)
            name += f", at least {least:g} images/s on {device}"
        if not allowed.any():
            raise ValueError(f"no network of {self.name} meets all limits, although some meet each: relax one")
        rows = {part: getattr(self, part)[allowed] for part in ("codes", "validation", "test")}
        speeds_left = {device: np.asarray(column)[allowed] for device, column in self.throughputs.items()}
        costs_left = {cost: np.asarray(column)[allowed] for cost, column in self.costs.items()}
        return dataclasses.replace(self, name=name, throughputs=speeds_left, costs=costs_left, **rows)

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
        arrays |= {THROUGHPUT + device: np.asarray(column) for device, column in self.throughputs.items()}
        arrays |= {COST + cost: np.asarray(column) for cost, column in self.costs.items()}
        write_npz(path, {**{field: np.array(text) for field, text in texts.items()}, **arrays})

    @classmethod
    def load(cls, path: Path | str) -> "Benchmark":
        """Loads a benchmark written by `save`.

        Files of the older format ``lanas benchmark 1`` hold the options of a plain space as text, which becomes labels.

        Raises:
          FileError: if the file is missing, of another kind or damaged, or `Benchmark` rejects its rows.
        """
        path = local_path(path)
        measured = [field for field in fields_of(path) if field.startswith((THROUGHPUT, COST))]
        arrays = read_npz(path, (*_FIELDS, *measured))
        if arrays["format"] not in (FORMAT, OLDER):
            raise FileError(f"{path}: expected the format {FORMAT!r}; found {str(arrays['format'])!r}")
        try:
            space = _space_of(str(arrays["space"]))
            name, notes = str(arrays["name"]), str(arrays["notes"])
            codes = space.check(arrays["codes"])
            speeds, costs = (
                {field.removeprefix(prefix): arrays[field] for field in measured if field.startswith(prefix)}
                for prefix in (THROUGHPUT, COST)
            )
            return cls(name, space, codes, arrays["validation"], arrays["test"], notes, speeds, costs)
        except (ValueError, TypeError, KeyError) as error:
            raise FileError(f"{path}: {error}") from error


def _meets(
    name: str, numbers: Float[np.ndarray, " m"], unit: str, limit: float, *, is_least: bool
) -> Bool[np.ndarray, " m"]:
    """Returns which numbers meet a limit.

    Raises:
      ValueError: if the limit is not a positive finite number, or no number meets it; names the smallest and largest.
    """
    if not (math.isfinite(limit) and limit > 0):
        raise ValueError(f"a limit must be a positive number of {unit}; got {limit}")
    met = numbers >= limit if is_least else numbers <= limit
    if not met.any():
        bound = "at least" if is_least else "at most"
        least, most = np.nanmin(numbers), np.nanmax(numbers)
        raise ValueError(f"no network of {name} has {bound} {limit:g} {unit}: they have {least:,.1f} to {most:,.1f}")
    return met


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
