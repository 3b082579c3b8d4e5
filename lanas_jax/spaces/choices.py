"""Choices: the named decisions of a search space, with their options.

The options of a choice are labels or the levels of a scale. A scale is declared, not guessed: numbers form a scale and
strings do not, unless `ordered` overrides this. A choice with `when` exists only in networks with certain options of
earlier choices. `base.py` builds spaces, codes and features from choices.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Reversible, Sized
from typing import Any

import numpy as np

Option = int | float | str | None  # Booleans are integers in Python
Conditions = tuple[tuple[str, tuple[Option, ...]], ...]

MOST_STEPS = 1024  # maximum number of options of a range without `steps`
MOST_OPTIONS = 4096  # maximum number of options of a choice, each of which is a column of features
_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)  # in memory, as in the text of a function


@dataclasses.dataclass(frozen=True)
class Choice:
    """One decision: a name and its options.

    Args:
      name: name of the decision, unique within a space.
      options: alternatives, at least one, all different; the position of an option is its integer in codes, so the
        options must have an order: a list, a tuple or another sequence, not a set. Numbers, strings, Booleans and None
        keep their type; other objects are converted to text by ``str``, which must be the same in every process.
      ordered: declaration of the options as a scale (True) or as labels (False). By default, numbers form a
        scale; strings are labels, even if they spell numbers; so are Booleans, None and mixed options. The levels of a
        scale ascend with the numbers, in whatever order they are given. Strings can form a scale only if they spell
        numbers.
      when: conditions for this choice to exist: names of earlier choices, each with the options that satisfy the
        condition; all must hold. Otherwise the choice is inactive: it has no effect on the network.

    Attributes:
      ordered: True if the options are a scale.
      when: conditions as pairs of a name and options; empty if the choice exists in every network.

    Raises:
      ValueError: if the options have no order or can be read only once, there is no option or more than
        `MOST_OPTIONS`, an option is repeated or not finite or has another text in each process, the options of a scale
        are not numbers, or a condition lists no options.
    """

    name: str
    options: tuple[Option, ...]
    ordered: bool
    when: Conditions

    def __init__(
        self,
        name: str,
        options: Iterable[object],
        ordered: bool | None = None,
        when: Mapping[str, object] | None = None,
    ):
        object.__setattr__(self, "name", str(name))
        _check_order(self.name, options)
        if isinstance(options, Sized) and len(options) > MOST_OPTIONS:
            raise ValueError(f"choice {self.name!r} has {len(options):,} options; give at most {MOST_OPTIONS:,}")
        options = tuple(options)
        for i, option in enumerate(options):
            for earlier in options[:i]:
                if type(option) is not type(earlier) and _equal(option, earlier):
                    raise ValueError(
                        f"choice {self.name!r} has equal options {earlier!r} and {option!r}; options must be different"
                    )
        object.__setattr__(self, "options", tuple(map(_option, options)))
        for option, text in zip(options, self.options, strict=True):
            if text is not option and isinstance(text, str) and _ADDRESS.search(text):
                raise ValueError(
                    f"choice {self.name!r} has the option {text}, whose text differs in each process: give numbers or "
                    f"strings, and look the object up by them"
                )
        if not self.options:
            raise ValueError(f"choice {self.name!r} has no options: give at least one")
        for option in self.options:
            if isinstance(option, float) and not math.isfinite(option):
                raise ValueError(f"choice {self.name!r} has the option {option}; numbers must be finite")
        if len(set(map(str, self.options))) < len(self.options):
            raise ValueError(f"choice {self.name!r} repeats an option: {self.options}; options must be different")
        object.__setattr__(self, "ordered", all(map(_is_number, self.options)) if ordered is None else bool(ordered))
        if self.ordered:
            self._check_scale()
        object.__setattr__(self, "when", self._conditions({} if when is None else when))

    @property
    def is_scale(self) -> bool:
        """True if the order of the options matters: a scale of three or more levels. Two have no order to learn."""
        return self.ordered and len(self.options) > 2

    @property
    def levels(self) -> tuple[int, ...]:
        """Level of each option on the scale, from 0; the positions of the options if they are labels."""
        if not self.ordered:
            return tuple(range(len(self.options)))
        numbers = [_number(option) for option in self.options]
        ascending = sorted(numbers)
        level = {number: i for i, number in enumerate(ascending)}
        return tuple(level[number] for number in numbers)

    @property
    def texts(self) -> tuple[str, ...]:
        """Options as text, such as ``conv3x3`` or ``0.000316228``; all different."""
        short = tuple(
            f"{option:.6g}" if isinstance(option, float) and len(str(option)) > 8 else str(option)
            for option in self.options
        )
        return short if len(set(short)) == len(short) else tuple(map(str, self.options))

    def _check_scale(self) -> None:
        """Checks that the options are different numbers.

        Raises:
          ValueError: if an option is not a number or is repeated; names the option.
        """
        numbers = [_number(option) for option in self.options]
        wrong = next((option for option, number in zip(self.options, numbers, strict=True) if math.isnan(number)), ...)
        if wrong is not ...:
            raise ValueError(
                f"choice {self.name!r} is declared a scale, but its option {wrong!r} is not a number: "
                "give numbers, or ordered=False"
            )
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"choice {self.name!r} repeats a number: {self.options}; levels must be different")

    def _conditions(self, when: Mapping[str, object]) -> Conditions:
        """Returns the conditions as a tuple.

        Raises:
          ValueError: if they are not a mapping of names to options; names the choice.
        """
        if not isinstance(when, Mapping):
            raise ValueError(
                f"choice {self.name!r}: when must map names of choices to options, such as "
                f"{{'optimizer': ('sgd',)}}; got {when!r}"
            )
        conditions = []
        for name, options in when.items():
            one = isinstance(options, str) or not isinstance(options, Iterable)
            if not one:
                _check_order(self.name, options)
            listed = (_option(options),) if one else tuple(map(_option, options))  # type: ignore[call-overload]
            if not listed:
                raise ValueError(f"choice {self.name!r}: the condition on {name!r} lists no options: give at least one")
            conditions.append((str(name), listed))
        return tuple(conditions)


def choice_from_definition(about: Mapping[str, Any]) -> Choice:
    """Returns the choice of a definition, as `lanas_jax.spaces.definition.define_fields` writes it.

    Raises:
      KeyError, TypeError, ValueError: the definition is not that of a choice.
    """
    return Choice(about["name"], about["options"], about["ordered"], dict(about["when"]))


def Range(  # noqa: N802 - used in place of a Choice
    name: str,
    low: float,
    high: float,
    *,
    log: bool = False,
    steps: int | None = None,
    when: Mapping[str, object] | None = None,
) -> Choice:
    """Returns a choice among numbers from `low` to `high`, which form a scale.

    Args:
      name: name of the decision, unique within a space.
      low: lowest option.
      high: highest option.
      log: True for equal ratios between options, False for equal differences.
      steps: number of options. If both ends are whole numbers, all options are rounded to whole numbers; without steps,
        every whole number from `low` to `high` is an option.
      when: conditions, as in `Choice`.

    Raises:
      ValueError: if an end is not a finite number, `low` is not below `high`, a range with log is not above zero, the
        number of steps is not between 2 and `MOST_OPTIONS`, or two steps give the same option; names the range.
    """
    ends = tuple(map(_option, (low, high)))
    for end in ends:
        if not _is_number(end) or not math.isfinite(end):  # type: ignore[arg-type]
            raise ValueError(f"range {name!r} needs two finite numbers as ends; got {low!r} and {high!r}")
    low, high = ends  # type: ignore[assignment]
    if low >= high:
        raise ValueError(f"range {name!r} goes from {low} to {high}; the first end must be below the second")
    if log and low <= 0:
        raise ValueError(f"range {name!r} goes from {low} to {high}; with log=True both ends must be above 0")
    whole = isinstance(low, int) and isinstance(high, int)
    if steps is None and (log or not whole or high - low >= MOST_STEPS):
        kind = "with log=True" if log else f"of more than {MOST_STEPS} numbers" if whole else "of real numbers"
        raise ValueError(f"range {name!r} {kind} needs steps, the number of its options")
    if steps is None:
        return Choice(name, range(int(low), int(high) + 1), when=when)
    if not isinstance(steps, int | np.integer) or isinstance(steps, bool) or steps < 2:
        raise ValueError(f"range {name!r}: steps must be a whole number, at least 2; got {steps!r}")
    if steps > MOST_OPTIONS:
        raise ValueError(f"range {name!r} has {steps:,} steps; give at most {MOST_OPTIONS:,}")
    options = np.geomspace(low, high, steps) if log else np.linspace(low, high, steps)
    inner = options[1:-1].tolist()
    numbers = [low, *map(round, inner), high] if whole else [float(low), *inner, float(high)]
    if len(set(numbers)) < steps:
        raise ValueError(
            f"range {name!r} has fewer than {steps} different numbers from {low} to {high}: "
            + ("lower steps, or give real numbers as ends, such as 1.0" if whole else "lower steps")
        )
    return Choice(name, numbers, when=when)


def _check_order(name: str, options: object) -> None:
    """Raises ValueError for options whose order may differ in another process, or that can be read only once."""
    if isinstance(options, Reversible) or hasattr(options, "__array__"):
        return
    if not isinstance(options, Iterable):
        raise ValueError(f"choice {name!r} has the options {options!r}: give a list or a tuple")
    once = isinstance(options, Iterator)
    why = "which can be read only once" if once else "which has no fixed order, so codes would change their meaning"
    raise ValueError(f"choice {name!r} has its options in a {type(options).__name__}, {why}: give a list or a tuple")


def _equal(one: object, other: object) -> bool:
    """Returns whether two options of different types are equal, as 1, 1.0 and True are."""
    try:
        return bool(one == other)
    except ValueError:  # arrays
        return False


def _option(option: object) -> Option:
    """Converts a NumPy scalar to the corresponding Python object, and an object that is not a scalar to text."""
    if isinstance(option, np.generic):
        option = option.item()
    return option if option is None or type(option) in (bool, int, float, str) else str(option)  # type: ignore[return-value]


def _is_number(option: Option) -> bool:
    return isinstance(option, int | float) and not isinstance(option, bool)


def _number(option: Option) -> float:
    """Returns the finite number that an option is or spells; NaN for any other option."""
    if _is_number(option):
        return option  # type: ignore[return-value]
    try:
        number = float(option) if isinstance(option, str) else math.nan
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
