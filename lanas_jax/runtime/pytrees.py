"""Configurations as pytrees: numbers that change no shape are inputs of a compiled program, not constants in it.

A frozen dataclass of settings, registered here, is passed to a jitted function like an array. Its static fields are
part of the program; its data fields arrive as traced scalars, so that other numbers run the program compiled before.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

Class = TypeVar("Class", bound=type)


def register_config(*, data: Sequence[str]) -> Callable[[Class], Class]:
    """Registers a frozen dataclass of settings as a pytree.

    Numbers become leaves of fixed dtypes: float32 where a field is declared as a float, int32 or bool otherwise, so
    that ``cp=1`` and ``cp=0.5`` share a program, and 64-bit mode changes nothing. Tuples of numbers become one leaf per
    entry, None becomes none, and other values (arrays, pytrees) are passed as they are. A tree that is put together
    again is not validated: its numbers may be tracers.

    Args:
      data: names of the fields that are inputs of a program; all other fields are static and must be hashable.

    Returns:
      A decorator, which returns the class itself.
    """

    def decorate(cls: Class) -> Class:
        names = tuple(data)
        static = tuple(field.name for field in dataclasses.fields(cls) if field.name not in names)
        hints = typing.get_type_hints(cls)
        real = {name for name in names if float in _parts(hints[name])}

        def flatten(config: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            children = tuple(_leaf(getattr(config, name), name in real) for name in names)
            return children, tuple(getattr(config, name) for name in static)

        def flatten_with_keys(config: Any) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
            children, values = flatten(config)
            keys = [jax.tree_util.GetAttrKey(name) for name in names]
            return tuple(zip(keys, children, strict=True)), values

        def unflatten(values: tuple[Any, ...], children: Iterable[Any]) -> Any:
            config: Any = object.__new__(cls)
            for name, value in (*zip(static, values, strict=True), *zip(names, children, strict=True)):
                object.__setattr__(config, name, value)
            return config

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
        return cls

    return decorate


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types that an annotation is made of."""
    arguments = typing.get_args(hint)
    return (hint,) if not arguments else tuple(part for argument in arguments for part in _parts(argument))


def _leaf(value: Any, real: bool) -> Any:
    """A Python number as a NumPy scalar of a fixed dtype; everything else as it is."""
    if isinstance(value, tuple):
        return tuple(_leaf(item, real) for item in value)
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int | float):
        return np.float32(value) if real else np.int32(value)
    return value
