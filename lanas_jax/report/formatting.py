"""Human-readable numbers: 98.3 %, 1.24 M, 3 min 20 s. No line breaks between a number and its unit."""

import dataclasses
import datetime
import decimal
import math
from collections.abc import Iterable

MISSING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
LETTERS = {1: "k", 2: "M", 3: "G", 4: "T"}  # by power of 1000
SPACE = "\N{NO-BREAK SPACE}"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclasses.dataclass(frozen=True)
class ValueFormat:
    """Formats the values of a run: accuracies as percentages, anything else as plain numbers.

    Attributes:
      percent: True for percentages.
      name: name of the values; None if their evaluator does not name them.
    """

    percent: bool
    name: str | None = None

    @classmethod
    def of(cls, values: Iterable[float], name: str | None = None) -> "ValueFormat":
        """Returns a percentage format if every value is in [0, 1], as accuracies are and negative losses are not."""
        return cls(all(0.0 <= value <= 1.0 for value in values), name)

    @property
    def label(self) -> str:
        """The label of an axis of values."""
        return self.name or ("search-validation accuracy" if self.percent else "value")

    def __call__(self, value: float | None, decimals: int = 1) -> str:
        """Formats `value`, a dash if there is none; plain numbers get two more decimals than percentages."""
        if value is None or not math.isfinite(value):
            return MISSING
        return f"{100 * value:.{decimals}f}{SPACE}%" if self.percent else f"{value:.{decimals + 2}f}"


def count(number: int | float | None) -> str:
    """Formats a number with three significant digits and a letter; a whole number exactly below 10,000."""
    if number is None or not math.isfinite(number):
        return MISSING
    if abs(number) < 99.95 and number != round(number):
        return f"{number:.3g}"
    if abs(number) < 10_000:
        return f"{number:,.0f}"
    # 999,600 is 1.00 M, not 1000 k: the limits are the points where rounding carries over.
    scale, letter = next(
        (1000.0**n, letter) for n, letter in LETTERS.items() if abs(number) < 999.5 * 1000.0**n or n == 4
    )
    scaled = number / scale
    decimals = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{decimals}f}{SPACE}{letter}"


def seconds(duration: int | float | None) -> str:
    """Formats a duration: 0.41 s, 12.3 s, 3 min 20 s, 5 h 02 min, 2 d 4 h."""
    if duration is None or not math.isfinite(duration):
        return MISSING
    if duration < 59.95:
        return f"{duration:.2f}{SPACE}s" if duration < 9.995 else f"{duration:.1f}{SPACE}s"
    whole = round(duration)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s".replace(" ", SPACE)
    minutes = round(duration / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min".replace(" ", SPACE)
    hours = round(duration / 3600)
    return f"{hours // 24} d {hours % 24} h".replace(" ", SPACE)


def date(timestamp: float | None) -> str:
    """Formats Unix seconds as a date and time with the name of the local time zone."""
    if timestamp is None:
        return MISSING
    return datetime.datetime.fromtimestamp(timestamp).astimezone().strftime("%d %B %Y, %H:%M %Z")


def code(integers: Iterable[int]) -> str:
    """Formats a code as the command line takes it: 2,2,0,1."""
    return ",".join(str(int(integer)) for integer in integers)


def plural(number: int, noun: str) -> str:
    """Formats a number with its noun: 1 trial, 1,200 trials."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def power(number: int) -> str:
    """Formats an integer of any size: exact below a million, otherwise as 5.43 times a power of ten."""
    if number < 1_000_000:
        return f"{number:,}"
    mantissa, exponent = f"{decimal.Decimal(number):.2e}".split("e+")
    return f"{mantissa}{SPACE}{TIMES}{SPACE}10{exponent.translate(SUPERSCRIPTS)}"
