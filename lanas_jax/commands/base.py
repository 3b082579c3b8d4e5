"""Shared parts of the ``lanas`` commands: argument parsing, terminal output, and process setup."""

import contextlib
import dataclasses
import errno
import inspect
import os
import shutil
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from lanas_jax.cluster.connection import ClusterError
from lanas_jax.commands import help_text
from lanas_jax.runtime.errors import STOPS, is_from_user
from lanas_jax.runtime.paths import PathError, local_path
from lanas_jax.storage import config_json
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trial_file import TrialStoreError
from lanas_jax.study import discovery

Setting = TypeVar("Setting")


class RefusedError(Exception):
    """Raised when a command cannot run with the given arguments."""


REFUSALS = (
    RefusedError,
    ClusterError,
    discovery.ExperimentError,
    config_json.ConfigError,
    RunError,
    TrialStoreError,
    PathError,
)
ACCEPT_VERSIONS = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="continue although the versions of Python or a package, or JAX's matmul precision, differ"),
]
_ABOUT_PATH = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)


def is_about_path(error: OSError) -> bool:
    """Returns whether another path can avoid an error; for a full disk it cannot."""
    return isinstance(error, _ABOUT_PATH) or error.errno in (errno.EROFS, errno.ENAMETOOLONG)


def reason_of(error: OSError) -> str:
    """Returns an error of the operating system as text, with the file if the system named one."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename} cannot be used: {error.strerror}" if error.filename else f"cannot write: {error.strerror}"


HELP_COLUMNS = 40  # smallest width for which help is laid out; a narrower terminal wraps its lines
PATHS = ConstructorRegistry()  # parsing rules for paths


@PATHS.primitive_rule
def _path_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """Parses every path option with `local_path`, which expands ``~`` and refuses remote places."""
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: local_path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


Folder = Annotated[Path, tyro.conf.arg(metavar="RUN", help="run folder that a search wrote")]


def with_traceback(error: BaseException, folder: Path) -> str:
    """Writes the traceback of an error to a file in a folder, and returns the error and a sentence that names the file.

    An error of the file system names the file. Another error than `StudyError` is described with its type and the line
    that raised it.
    """
    from lanas_jax.evaluators.faults import describe_error
    from lanas_jax.study import StudyError

    if isinstance(error, OSError) and not is_from_user(error):
        text = reason_of(error)
    else:
        text = str(error) if isinstance(error, StudyError) else describe_error(error)
    path = folder / "traceback.txt"
    try:
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
    except OSError:  # the disk itself may be the problem
        return text
    return f"{text}\nThe full traceback is in {path}"


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


def call_with_arguments(
    function: Callable[..., Any], command: str, arguments: Sequence[str], docstring: str | None = None, **how: Any
) -> Any:
    """Parses the command line into the arguments of a function or class, and returns the result of its call.

    Args:
      function: function or dataclass whose parameters are the options.
      command: words of the command line before the options, without ``lanas``.
      arguments: remaining words of the command line.
      docstring: text of the help; default: the docstring of the function.
      **how: further arguments of `tyro.cli`.
    """
    text = inspect.getdoc(function) or "" if docstring is None else docstring
    with _enough_columns():
        return help_text.parse_documented(function, text, arguments, prog=f"lanas {command}", registry=PATHS, **how)


@contextlib.contextmanager
def _enough_columns() -> Iterator[None]:
    """Makes help at least `HELP_COLUMNS` wide. In a narrower terminal, tyro would print one letter per line."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(max(shutil.get_terminal_size().columns, HELP_COLUMNS))
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def parsed(function: Callable[..., Any], command: str, arguments: Sequence[str]) -> Any:
    """Parses the command line into the arguments of a function and returns the function's result.

    Raises:
      RefusedError: a value is out of range.
    """
    try:
        return call_with_arguments(function, command, arguments, config=(tyro.conf.FlagCreatePairsOff,))
    except ValueError as error:  # raised by a ``__post_init__``
        raise RefusedError(f"invalid options: {error}") from error


def parse_settings(
    command: str,
    arguments: Sequence[str],
    settings: Mapping[str, Any],
    options: Sequence[Any],
    docstring: str = "",
    **how: Any,
) -> Any:
    """Parses the options of a command together with settings that an experiment's file defines.

    Args:
      command: words of the command line before the options, without ``lanas``.
      arguments: remaining words of the command line.
      settings: dataclasses of settings whose fields become options, by the name of the result's attribute, optionally
        with a default: ``{"config": (Config, field)}``.
      options: fields of the command's own options, as `dataclasses.make_dataclass` takes them.
      docstring: text of the help.
      **how: further arguments of `tyro.cli`.

    Returns:
      An object with an attribute per dataclass and option.

    Raises:
      RefusedError: a field of the settings has the name of an option, or a settings class raises an error.
    """
    fields: list[Any] = []
    for name, (kind, *default) in settings.items():
        _refuse_collisions(command, kind, options)
        fields.append((name, Annotated[kind, tyro.conf.arg(name="")], *default))
    both: Any = dataclasses.make_dataclass("Settings", [*fields, *options])
    try:
        return call_with_arguments(both, command, arguments, docstring, **how)
    except (PathError, BrokenPipeError):  # the latter of lanas train --help | head
        raise
    except STOPS as error:  # from a ``__post_init__``, or a type tyro cannot parse
        if isinstance(error, SystemExit) and not is_from_user(error):  # of tyro, after it has printed help or an error
            raise
        raise _invalid(error) from error


def default_settings(kind: type) -> Any:
    """Returns the settings that an experiment has without any options.

    Raises:
      RefusedError: a field has no default, or the class raises an error.
    """
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RefusedError(
            f"{kind.__name__} has no default for {', '.join(missing)}: give one, or name a run, which has settings"
        )
    try:
        return kind()
    except STOPS as error:
        raise _invalid(error) from error


def _invalid(error: BaseException) -> RefusedError:
    from lanas_jax.evaluators.faults import describe_error

    return RefusedError(f"invalid settings: {describe_error(error)}")


def _refuse_collisions(command: str, kind: Any, options: Sequence[Any]) -> None:
    """Raises RefusedError if a field of the settings has the name of an option of the command."""
    taken = {"help"}
    for name, hint, *_ in options:
        unnamed = any(getattr(mark, "name", None) == "" for mark in getattr(hint, "__metadata__", ()))
        taken |= {field.name for field in dataclasses.fields(typing.get_args(hint)[0])} if unnamed else {name}
    if found := [field.name for field in dataclasses.fields(kind) if field.name.replace("-", "_") in taken]:
        raise RefusedError(
            f"{kind.__name__} has the field {found[0]!r}, which is an option of lanas {command.split()[0]}: rename it"
        )


def parse_early(name: str, kind: type[Setting], default: Setting, command: str, arguments: Sequence[str]) -> Setting:
    """Parses one setting that must be known before the experiment, which defines the other settings, is imported.

    Args:
      name: name of the setting: ``topology`` is parsed from ``--topology``, ``hosts`` from all ``--hosts.*``.
      kind: type of the setting, which may be a dataclass.
      default: value if the arguments do not contain the setting, or ask for help.
      command: name of the command, for error messages.
      arguments: all arguments of the command; the unknown ones are ignored.
    """
    if {"-h", "--help"} & {*arguments}:
        return default
    settings: Any = dataclasses.make_dataclass("Settings", [(name, kind, dataclasses.field(default=default))])
    found, _ = call_with_arguments(settings, command, arguments, return_unknown_args=True)
    setting: Setting = getattr(found, name)
    return setting


def use_every_core() -> None:
    """Gives JAX one CPU device per core; must be called before the first array exists."""
    from lanas_jax.runtime.devices import one_device_per_core

    one_device_per_core()


def cache_programs() -> None:
    """Enables the persistent compilation cache; must be called before the first array exists."""
    from lanas_jax.runtime import compile_cache

    compile_cache.enable_compile_cache(lambda text: print(f"lanas: {text}", file=sys.stderr))
