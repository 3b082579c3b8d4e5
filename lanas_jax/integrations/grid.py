"""Optuna's distributions as a `lanas_jax` search space: each parameter is a choice among finitely many values.

Categories are labels; integers and floats are levels of a scale. Numbers with more values than a limit, such as all
continuous ones, are reduced to a grid: evenly spaced, or in equal ratios with ``log=True``. Other values, which users
and other samplers may choose, count as the nearest point of the grid.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.choices import Choice

Code = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a study and the values it may take.

    Attributes:
      name: name of the parameter.
      distribution: its distribution in the study.
      values: values of the grid, in the order of the integers of a code.
    """

    name: str
    distribution: BaseDistribution
    values: tuple[Any, ...]

    @classmethod
    def of(cls, name: str, distribution: BaseDistribution, steps: int) -> "Parameter":
        """Returns the parameter of a distribution, with at most `steps` values if it is a number.

        Raises:
          ValueError: the distribution is of a class unknown to this module.
        """
        if isinstance(distribution, CategoricalDistribution):
            return cls(name, distribution, tuple(distribution.choices))
        if isinstance(distribution, IntDistribution):
            return cls(name, distribution, _integers(distribution, steps))
        if isinstance(distribution, FloatDistribution):
            return cls(name, distribution, _floats(distribution, steps))
        raise ValueError(
            f"parameter {name!r} has the distribution {distribution!r}; expected categorical, int or float"
        )

    @property
    def choice(self) -> Choice:
        """The choice of the search space: positions of the values."""
        is_scale = not isinstance(self.distribution, CategoricalDistribution)
        return Choice(self.name, range(len(self.values)), ordered=is_scale)

    def index(self, value: Any) -> int | None:
        """Returns the position of the value nearest to a parameter; None if it is outside the distribution."""
        try:
            number = self.distribution.to_internal_repr(value)
        except ValueError:  # not a category, or not a number
            return None
        if isinstance(self.distribution, CategoricalDistribution):
            return int(number)
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        if not self.distribution.low <= number <= self.distribution.high:
            return None
        points, number = np.array(self.values, float), float(number)
        if self.distribution.log:
            points, number = np.log(points), np.log(number)
        return int(np.argmin(np.abs(points - number)))


@dataclasses.dataclass(frozen=True)
class Grid:
    """A search space over parameters of a study.

    Attributes:
      parameters: parameters in the order of the integers of a code.
    """

    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, distributions: Mapping[str, BaseDistribution], steps: int) -> "Grid":
        """Returns the grid over distributions, in the order of their names."""
        return cls(tuple(Parameter.of(name, distributions[name], steps) for name in sorted(distributions)))

    @property
    def space(self) -> SearchSpace:
        """The product of the choices."""
        return SearchSpace(parameter.choice for parameter in self.parameters)

    def code(self, params: Mapping[str, Any]) -> Code | None:
        """Returns the nearest code; None if a parameter is missing or outside its distribution."""
        found = [
            parameter.index(params[parameter.name]) if parameter.name in params else None
            for parameter in self.parameters
        ]
        return None if None in found else tuple(index for index in found if index is not None)

    def params(self, code: Code) -> dict[str, Any]:
        """Returns the parameters of a code."""
        return {parameter.name: parameter.values[i] for parameter, i in zip(self.parameters, code, strict=True)}


def _integers(distribution: IntDistribution, steps: int) -> tuple[int, ...]:
    low, high, step = distribution.low, distribution.high, distribution.step
    if (high - low) // step < steps:
        return tuple(range(low, high + 1, step))
    if distribution.log:
        inner = np.rint(np.geomspace(low, high, steps)[1:-1])
        return tuple(dict.fromkeys([low, *map(int, inner), high]))
    return tuple(low + step * round(place) for place in np.linspace(0, (high - low) // step, steps).tolist())


def _floats(distribution: FloatDistribution, steps: int) -> tuple[float, ...]:
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is None:
        points: Float[np.ndarray, " steps"] = (np.geomspace if distribution.log else np.linspace)(low, high, steps)
    else:
        last = round((high - low) / step)
        points = low + step * np.rint(np.linspace(0, last, min(last + 1, steps)))
    return tuple(dict.fromkeys([low, *np.clip(points[1:-1], low, high).tolist(), high]))
