"""The definition of a search space as JSON: everything that gives its codes their meaning.

Runs and trainings record the definition of their space and compare it when they continue. A code is a list of
positions, so the same code may mean another architecture once an option is added, removed or moved.
"""

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any

LISTED = 3  # maximum number of differences that are described; the others are counted
SHOWN = 12  # maximum number of options that are written out; a range may have a thousand


def define_fields(thing: Any) -> dict[str, Any]:
    """Returns the class and the fields of a dataclass as JSON, such as those of a space and of its choices.

    Numbers, text, paths, enumerations, containers, arrays and dataclasses are recorded with their values; functions and
    other objects by name; an object with a method `definition` by the result of that method.
    """
    fields = {field.name: _as_json(getattr(thing, field.name, None)) for field in dataclasses.fields(thing)}
    return {"class": type(thing).__qualname__, **fields}


def definition_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describes how the definition of a space changed, choice by choice; empty if it did not.

    Args:
      before: recorded definition.
      now: definition of the current space.
    """
    old, new = _by_name(before), _by_name(now)
    found = [
        f"{name} {_shown(old, name)}, now {_shown(new, name)}"
        for name in dict.fromkeys([*old, *new])
        if _text(old.get(name)) != _text(new.get(name))
    ]
    if not found and _names(before) != _names(now):
        found = [f"the order of the choices: {', '.join(_names(before))}, now {', '.join(_names(now))}"]
    rest = len(found) - LISTED
    return "; ".join(found[:LISTED]) + (f"; and {rest} more differences" if rest > 0 else "")


def choices_of(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Returns only the choices of a definition; spaces that differ only in the size of the networks share them."""
    return {"choices": definition["choices"]}


def _by_name(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a definition, with one entry per field of each choice.

    Fields that are None are omitted, and so are `ordered` and `when` of a choice without a scale or conditions.
    """
    entries = {f"its {name} is": value for name, value in definition.items() if name != "choices"}
    for choice in definition.get("choices", ()):
        for name, value in choice.items():
            if name not in ("class", "name") and value not in (False, []):
                entries[f"{name} of choice {choice['name']!r}:"] = value
    return {name: value for name, value in entries.items() if value is not None}


def _names(definition: Mapping[str, Any]) -> list[str]:
    return [choice["name"] for choice in definition.get("choices", ())]


def _shown(entries: Mapping[str, Any], name: str) -> str:
    """Returns an entry as text in Python's notation, so that 1 and "1" differ."""
    if name not in entries:
        return "absent"
    if not isinstance(value := entries[name], list):
        return repr(value)
    more = f", ... ({len(value)} in all, the last is {value[-1]!r})" if len(value) > SHOWN else ""
    return ", ".join(map(repr, value[:SHOWN])) + more


def _text(value: Any) -> str:
    """Returns JSON text, in which 1, 1.0, true and "1" differ."""
    return json.dumps(value, sort_keys=True)


def _as_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if not isinstance(value, type) and callable(definition := getattr(value, "definition", None)):
        return definition()
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, PurePath | str):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return define_fields(value)
    if isinstance(value, Mapping):
        return [[_as_json(key), _as_json(item)] for key, item in value.items()]
    if isinstance(value, Set):
        return sorted(map(_as_json, value), key=_text)
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if hasattr(value, "__array__"):
        import numpy as np  # imported here because commands that need no space also import this module

        array = np.asarray(value)
        if not array.ndim:
            return _as_json(array.item())
        return f"{array.dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    return f"{getattr(value, '__qualname__', type(value).__qualname__)}"
