"""What the commands of ``lanas`` share: how they read their arguments, and where they print."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console


class RefusedError(Exception):
    """A command that cannot be carried out as given."""


Folder = Annotated[Path, tyro.conf.arg(metavar="RUN", help="the folder that a search wrote")]


def usage(text: str, arguments: Sequence[str]) -> int | None:
    """Prints how a command is used whose first argument, what it is about, is missing.

    Returns:
      The exit code: 0 where help was asked for, else 2; None where the argument is there.
    """
    if arguments and not arguments[0].startswith("-"):
        return None
    asked = bool(arguments) and arguments[0] in ("-h", "--help")
    print(text, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def terminal() -> Console:
    """The terminal; wide enough for a table where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def parsed(function: Callable[..., Any], command: str, arguments: Sequence[str]) -> Any:
    """What a function makes of a command's arguments, which are its own."""
    marks = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(function, prog=f"lanas {command}", args=list(arguments), config=marks)


def use_every_core() -> None:
    """Has to happen before the first array."""
    from lanas_jax.runtime.devices import one_device_per_core

    one_device_per_core()


def keep_programs() -> None:
    """Has to happen before the first array."""
    from lanas_jax.runtime import compile_cache

    compile_cache.keep(lambda text: print(f"lanas: {text}", file=sys.stderr))
