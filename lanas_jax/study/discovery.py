"""Finds and loads experiments, by name from the package ``lanas_jax.experiments`` or by the path of a Python file.

An experiment is a plain Python file with a frozen dataclass ``Config`` and a function ``build(config) -> Experiment``.
There is no registry: the files of the package are the list. Listing them parses the files without running them, so
that it does not import JAX.
"""

import ast
import atexit
import dataclasses
import functools
import importlib.machinery
import importlib.util
import inspect
import os
import re
import shutil
import sys
import tempfile
import typing
from pathlib import Path
from types import ModuleType
from typing import Any

from lanas_jax.runtime.errors import STOPS, explain_error, in_brackets, is_coroutine, what_it_did
from lanas_jax.runtime.paths import local_path

SETTINGS = ("Config", "Final", "Rank")  # dataclasses of settings that an experiment's file may define
_CHILD = '''\
"""Loads an experiment in a process that the experiment started."""

from pathlib import Path

from lanas_jax.study.discovery import run_file

run_file({text!r}, Path({path!r}), Path({original!r}))
'''


class _TextLoader(importlib.machinery.SourceFileLoader):
    """Loads a module from source text already in memory, so that later edits of its file have no effect."""

    def __init__(self, name: str, path: str, text: bytes):
        super().__init__(name, path)
        self.text = text

    def path_stats(self, path: str) -> Any:
        raise OSError("the bytecode of this file is not cached")

    def get_data(self, path: str) -> bytes:
        return self.text


class ExperimentError(Exception):
    """Raised for an experiment that does not exist, or for a file that is not an experiment."""


def experiments() -> dict[str, Path]:
    """Returns the files of the package ``lanas_jax.experiments`` that define `build`, by name."""
    return {file.stem: file for file in sorted(_packaged("*.py")) if _defines_build(file)}


def find_experiment(experiment: str) -> Path:
    """Returns the file of an experiment.

    Args:
      experiment: name from the package ``lanas_jax.experiments``, or a path that ends in ``.py``.

    Raises:
      PathError: the path is remote, or cannot be used.
      ExperimentError: there is no such experiment; the message lists the existing ones.
    """
    if Path(experiment).suffix == ".py":
        path = local_path(experiment)
        if not path.is_file():
            raise ExperimentError(f"there is no file {experiment}")
        return path.resolve()
    if re.fullmatch(r"\w+", experiment) and (found := [*filter(_defines_build, _packaged(f"{experiment}.py"))]):
        return found[-1]
    path = local_path(experiment)  # a remote place is refused as such
    if path.is_dir():
        wrong = f"{experiment} is a folder, not an experiment (lanas resume continues a run)"
    else:
        wrong = f"there is no {'file or folder' if len(path.parts) > 1 else 'experiment'} {experiment!r}"
    names = ", ".join(experiments()) or "none"
    raise ExperimentError(f"{wrong}; choose from {names}, or give the path of such a Python file")


def summary(path: Path) -> str:
    """Returns the first line of an experiment's docstring, without running the file."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def load_experiment(path: Path, *, original: Path | None = None) -> ModuleType:
    """Runs an experiment's file and returns its module, with `Config` and `build`.

    The module is named after the original file, and processes that the experiment starts can import it by that name,
    as they must to unpickle its functions and classes. They run the text that was read here.

    Args:
      path: path of the experiment file.
      original: path of the file that `path` is a copy of, default: `path` itself. It is the module's ``__file__``, so
        that files next to it are found, and its folder is appended to `sys.path`.

    Raises:
      ExperimentError: the file cannot be run, lacks `Config` or `build`, or has settings that cannot be read.
    """
    original = path.absolute() if original is None else original
    if not path.is_file():
        raise ExperimentError(f"there is no file {path}")
    text = path.read_bytes()
    _offer_to_children(text, path, original)
    module = run_file(text, path, original)
    if not dataclasses.is_dataclass(getattr(module, "Config", None)):
        raise ExperimentError(f"{path} has no dataclass Config; define one with the experiment's settings")
    if not callable(getattr(module, "build", None)):
        raise ExperimentError(f"{path} has no function build(config); define one that returns an Experiment")
    for name in SETTINGS:
        if dataclasses.is_dataclass(kind := getattr(module, name, None)):
            _check_annotations(kind, path, set())
    return module


def run_file(text: bytes, path: Path, original: Path) -> ModuleType:
    """Runs the text of an experiment's file as a module, and returns the module.

    Args:
      text: text of the file.
      path: path of the file, for tracebacks.
      original: path of the file when the search started, as in `load_experiment`.

    Raises:
      ExperimentError: the text raises an error or calls ``sys.exit``.
    """
    if (folder := str(original.parent)) not in sys.path:
        sys.path.append(folder)
    name = _module_name(original)
    loader = _TextLoader(name, str(path), text)
    spec = importlib.util.spec_from_file_location(name, original, loader=loader)
    assert spec is not None  # a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module while it runs
    try:
        loader.exec_module(module)
    except STOPS as error:
        raise ExperimentError(f"{path} cannot be loaded: {explain_error(error)}{in_brackets(error)}") from error
    return module


def file_of(module: ModuleType) -> Path:
    """Returns the path of the file that a module's code came from: for a run, the run's copy."""
    return Path(getattr(module.__loader__, "path", None) or str(module.__file__))


def text_of(module: ModuleType) -> bytes:
    """Returns the source text from which `load_experiment` made a module; the file may have been edited since."""
    loader = module.__loader__
    assert isinstance(loader, _TextLoader), f"{module.__name__} was not loaded by load_experiment"
    return loader.text


def call_experiment(module: Any, call: str, *arguments: Any) -> Any:
    """Calls a function of an experiment's file and returns its result.

    Args:
      module: loaded module of the experiment.
      call: call as text, such as ``build(config)``, for the error message.
      *arguments: arguments of the function.

    Raises:
      ExperimentError: the function raised an error or called ``sys.exit``.
    """
    try:
        found = getattr(module, call.partition("(")[0])(*arguments)
        found = list(found) if inspect.isgenerator(found) else found  # a generator runs here, where errors are caught
    except STOPS as error:
        raise ExperimentError(f"{file_of(module)}: {call} {what_it_did(error)}") from error
    if is_coroutine(found):
        raise ExperimentError(f"{file_of(module)}: {call} is an async function: define it with def")
    return found


def missing(module: ModuleType, settings: str, function: str) -> list[str]:
    """Returns what an experiment's file lacks of a settings dataclass and a function; empty if it defines both.

    Args:
      module: loaded module of the experiment.
      settings: name of the dataclass. One that the file imports from elsewhere does not count.
      function: signature of the function, such as ``final(config, settings, code)``.
    """
    own = getattr(module, settings, None)
    lacking = [] if dataclasses.is_dataclass(own) and own.__module__ == module.__name__ else [f"dataclass {settings}"]
    there = callable(getattr(module, function.partition("(")[0], None))
    return lacking if there else [*lacking, f"function {function}"]


def _packaged(pattern: str) -> list[Path]:
    """Returns the files of the package ``lanas_jax.experiments`` that match a pattern, without private ones."""
    package = importlib.util.find_spec("lanas_jax.experiments")
    folders = package.submodule_search_locations if package is not None else None
    found = (file for folder in folders or () for file in Path(folder).glob(pattern))
    return [file for file in found if not file.stem.startswith("_")]


def _defines_build(file: Path) -> bool:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == "build" for node in tree.body)


def _module_name(original: Path) -> str:
    """Returns the name of an experiment's module, which does not depend on where a copy of its file lies."""
    return f"lanas_experiment_{re.sub('[^0-9A-Za-z_]', '_', original.stem)}"


def _offer_to_children(text: bytes, path: Path, original: Path) -> None:
    """Makes a module importable by name in child processes, which start with this process's `sys.path`."""
    file = _folder_for_children() / f"{_module_name(original)}.py"
    # Python takes bytecode for current if size and second of the source are the same, as for two runs in one second.
    Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
    file.write_text(_CHILD.format(text=text, path=str(path), original=str(original)), encoding="utf-8")


@functools.cache
def _folder_for_children() -> Path:
    """Returns a temporary folder on `sys.path`; this process removes it when it ends."""
    folder, owner = Path(tempfile.mkdtemp(prefix="lanas-experiments-")), os.getpid()

    def clear() -> None:
        if os.getpid() == owner:  # a forked child ends too
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clear)
    sys.path.append(str(folder))
    return folder


def _check_annotations(kind: Any, path: Path, checked: set[Any]) -> None:
    """Raises `ExperimentError` if an annotation of a settings dataclass, or of one inside it, has no value."""
    checked.add(kind)
    try:
        hints = typing.get_type_hints(kind)
    except NameError as error:
        raise ExperimentError(
            f"{path}: an annotation of {kind.__name__} is not defined when the file runs ({error}): import it outside "
            f"of `if TYPE_CHECKING`"
        ) from error
    except Exception as error:
        raise ExperimentError(f"{path}: an annotation of {kind.__name__} is invalid: {explain_error(error)}") from error
    parts = list(hints.values())
    while parts:
        part = parts.pop()
        parts += typing.get_args(part)
        if isinstance(part, type) and dataclasses.is_dataclass(part) and part not in checked:
            _check_annotations(part, path, checked)
