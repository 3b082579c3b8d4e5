"""Shared parts of the ``lanas`` commands: argument parsing, terminal output, and process setup."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console


class RefusedError(Exception):
    """Raised when a command cannot run with the given arguments."""


Folder = Annotated[Path, tyro.conf.arg(metavar="RUN", help="run folder that a search wrote")]


def usage(text: str, arguments: Sequence[str]) -> int | None:
    """Prints the usage of a command if its first positional argument is missing.

    Returns:
      The exit code, 0 if help was requested and 2 otherwise; None if the argument is present.
    """
    if arguments and not arguments[0].startswith("-"):
        return None
    asked = bool(arguments) and arguments[0] in ("-h", "--help")
    print(text, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def terminal() -> Console:
    """Returns the console; 140 columns wide if the output is not a terminal, so that tables fit."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def parsed(function: Callable[..., Any], command: str, arguments: Sequence[str]) -> Any:
    """Parses the command line into the arguments of a function and returns the function's result."""
    marks = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(function, prog=f"lanas {command}", args=list(arguments), config=marks)


def use_every_core() -> None:
    """Gives JAX one CPU device per core; must be called before the first array exists."""
    from lanas_jax.runtime.devices import one_device_per_core

    one_device_per_core()


def keep_programs() -> None:
    """Enables the persistent compilation cache; must be called before the first array exists."""
    from lanas_jax.runtime import compile_cache

    compile_cache.enable_compile_cache(lambda text: print(f"lanas: {text}", file=sys.stderr))
