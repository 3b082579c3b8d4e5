"""Conversion of an experiment's `Config` to JSON and back, for a human-readable config.json that a run can resume from.

A `Config` may contain numbers, strings, booleans, None, paths and enumerations, and tuples, lists, dictionaries and
dataclasses of these. The declared types determine how a value is decoded.
"""

import dataclasses
import enum
import math
import pathlib
import types
import typing
from typing import Any

from lanas_jax.runtime.errors import STOPS, explain_error, in_brackets


class ConfigError(Exception):
    """Raised for a `Config` that cannot be converted to JSON and back."""


def encode_value(value: Any) -> Any:
    """Converts a value to human-readable JSON types that `json.dumps` accepts.

    Raises:
      ConfigError: JSON has no such value.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: encode_value(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init
        }
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return [encode_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode_value(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{value!r} cannot be written to config.json: use None, or a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"{value!r} ({type(value).__name__}) cannot be written to config.json: "
        f"use numbers, strings, booleans, None, paths, enums, or containers and dataclasses of these"
    )


def decode_value(kind: Any, value: Any) -> Any:
    """Converts the output of `encode_value` back to a value of a declared type.

    Raises:
      ConfigError: the value does not fit the type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return decode_value(arguments[0], value)
    if origin is typing.Literal or kind in (Any, object, None, types.NoneType):
        return value
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(arguments, value)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _decode_dataclass(typing.cast(type, kind), value)
    if isinstance(value, list):
        return _decode_sequence(origin or kind, arguments, value)
    if isinstance(value, dict) and (origin or kind) is dict:
        key, item = arguments or (str, Any)
        return {decode_value(key, k): decode_value(item, v) for k, v in value.items()}
    if isinstance(kind, type):
        return _decode_scalar(kind, value)
    raise ConfigError(f"{value!r} cannot be converted to {kind}")


def read_config(kind: type, value: Any) -> Any:
    """Converts the output of `encode_value` back to a `Config`.

    Raises:
      ConfigError: the fields or types of the class have changed.
    """
    try:
        return decode_value(kind, value)
    except ConfigError:
        raise
    except STOPS as error:  # a ``__post_init__`` may raise anything
        raise ConfigError(
            f"the settings in config.json do not fit {kind.__name__}: {explain_error(error)}{in_brackets(error)}"
        ) from error


def check_config(config: Any) -> None:
    """Checks, before a run starts, that a config can be restored from JSON.

    Raises:
      ConfigError: a field cannot be restored; the message names it.
    """
    hints = typing.get_type_hints(type(config))
    for field in (field for field in dataclasses.fields(config) if field.init):  # the class computes the others
        value = getattr(config, field.name)
        try:
            same = decode_value(hints[field.name], encode_value(value)) == value
        except ConfigError as error:
            raise ConfigError(f"Config.{field.name}: {error}") from error
        except STOPS as error:
            raise ConfigError(f"Config.{field.name} = {value!r} cannot be restored: {explain_error(error)}") from error
        if not same:
            raise ConfigError(f"Config.{field.name} = {value!r} changes when it is written to JSON and read back")


def _decode_dataclass(kind: type, value: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    if unknown := value.keys() - hints.keys():
        raise ConfigError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    return kind(**{name: decode_value(hints[name], item) for name, item in value.items()})


def _decode_sequence(kind: Any, arguments: tuple[Any, ...], value: list[Any]) -> Any:
    if kind is not tuple:
        return [decode_value(arguments[0] if arguments else Any, item) for item in value]
    if not arguments or arguments[-1] is Ellipsis:
        return tuple(decode_value(arguments[0] if arguments else Any, item) for item in value)
    return tuple(decode_value(argument, item) for argument, item in zip(arguments, value, strict=True))


def _decode_scalar(kind: type, value: Any) -> Any:
    if issubclass(kind, enum.Enum):
        if not isinstance(value, str) or value not in kind.__members__:
            raise ConfigError(
                f"{value!r} is not a member of {kind.__name__}; choose from {', '.join(kind.__members__)}"
            )
        return kind[value]
    if issubclass(kind, pathlib.PurePath) or (kind is float and type(value) is int):
        return kind(value)
    if type(value) is not kind:
        raise ConfigError(f"{value!r} is not {kind.__name__}")
    return value


def _first_that_fits(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in sorted(kinds, key=lambda kind: kind is not type(value)):  # an exact match before a conversion
        if kind is types.NoneType and value is not None:
            continue
        try:
            return decode_value(kind, value)
        except (ConfigError, KeyError, TypeError, ValueError):
            continue
    raise ConfigError(f"{value!r} fits none of {', '.join(map(str, kinds))}")
