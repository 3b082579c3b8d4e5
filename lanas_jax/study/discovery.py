"""Finding experiments and loading them: a name from the package ``experiments``, or the path of a file like those.

An experiment is a plain Python file with a frozen dataclass ``Config`` and a function ``build(config) -> Experiment``.
Nothing is registered: the files of the package are the list. Looking for names reads files without running them, so
that a list of experiments costs no import of JAX.
"""

import ast
import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


class ExperimentError(Exception):
    """An experiment that does not exist, or a file that is none."""


def experiments() -> dict[str, Path]:
    """The files of the package ``experiments`` that define `build`, by name."""
    package = importlib.util.find_spec("experiments")
    folders = package.submodule_search_locations if package is not None else None
    files = sorted(file for folder in folders or () for file in Path(folder).glob("*.py"))
    return {file.stem: file for file in files if not file.stem.startswith("_") and _defines_build(file)}


def find(experiment: str) -> Path:
    """The file of an experiment.

    Args:
      experiment: a name from the package ``experiments``, or a path that ends in ``.py``.

    Raises:
      ExperimentError: there is none; says which there are.
    """
    known = experiments()
    if experiment in known:
        return known[experiment]
    path = Path(experiment)
    if path.suffix == ".py" and path.is_file():
        return path.resolve()
    if path.suffix == ".py":
        raise ExperimentError(f"there is no file {experiment}")
    there_are = ", ".join(known) or "none"
    raise ExperimentError(
        f"there is no experiment {experiment!r}. There are: {there_are}. The path of a Python file like those works too"
    )


def summary(path: Path) -> str:
    """The first line of an experiment's docstring, read without running the file."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def load(path: Path, *, beside: Path | None = None) -> ModuleType:
    """Runs an experiment's file and returns its module, with `Config` and `build`.

    Args:
      path: the file.
      beside: a folder from which the file may import, put at the end of `sys.path`; default: the file's own.

    Raises:
      ExperimentError: the file cannot be run, or lacks `Config` or `build`.
    """
    folder = str(path.parent if beside is None else beside)
    if folder not in sys.path:
        sys.path.append(folder)
    name = f"lanas_experiment_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ExperimentError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being run
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ExperimentError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not dataclasses.is_dataclass(getattr(module, "Config", None)):
        raise ExperimentError(f"{path} has no dataclass Config; an experiment's settings belong there")
    if not callable(getattr(module, "build", None)):
        raise ExperimentError(f"{path} has no function build(config)")
    return module


def missing(module: ModuleType, settings: str, function: str) -> list[str]:
    """What an experiment's file lacks of a dataclass of settings and a function that takes them.

    Args:
      module: the file, run.
      settings: the dataclass's name. One that the file imports from elsewhere does not count.
      function: the function with its arguments, such as ``final(config, settings, code)``.
    """
    own = getattr(module, settings, None)
    lacking = [] if dataclasses.is_dataclass(own) and own.__module__ == module.__name__ else [f"dataclass {settings}"]
    there = callable(getattr(module, function.partition("(")[0], None))
    return lacking if there else [*lacking, f"function {function}"]


def _defines_build(file: Path) -> bool:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == "build" for node in tree.body)
