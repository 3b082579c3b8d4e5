"""Finds and loads experiments, by name from the package ``lanas_jax.experiments`` or by the path of a Python file.

An experiment is a plain Python file with a frozen dataclass ``Config`` and a function ``build(config) -> Experiment``.
There is no registry: the files of the package are the list. Listing them parses the files without running them, so
that it does not import JAX.
"""

import ast
import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


class ExperimentError(Exception):
    """Raised for an experiment that does not exist, or for a file that is not an experiment."""


def experiments() -> dict[str, Path]:
    """Returns the files of the package ``lanas_jax.experiments`` that define `build`, by name."""
    package = importlib.util.find_spec("lanas_jax.experiments")
    folders = package.submodule_search_locations if package is not None else None
    files = sorted(file for folder in folders or () for file in Path(folder).glob("*.py"))
    return {file.stem: file for file in files if not file.stem.startswith("_") and _defines_build(file)}


def find_experiment(experiment: str) -> Path:
    """Returns the file of an experiment.

    Args:
      experiment: name from the package ``lanas_jax.experiments``, or a path that ends in ``.py``.

    Raises:
      ExperimentError: there is no such experiment; the message lists the existing ones.
    """
    known = experiments()
    if experiment in known:
        return known[experiment]
    path = Path(experiment)
    if path.suffix == ".py" and path.is_file():
        return path.resolve()
    if path.suffix == ".py":
        raise ExperimentError(f"there is no file {experiment}")
    names = ", ".join(known) or "none"
    raise ExperimentError(
        f"there is no experiment {experiment!r}; choose from {names}, or give the path of such a Python file"
    )


def summary(path: Path) -> str:
    """Returns the first line of an experiment's docstring, without running the file."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def load_experiment(path: Path, *, beside: Path | None = None) -> ModuleType:
    """Runs an experiment's file and returns its module, with `Config` and `build`.

    Args:
      path: path of the experiment file.
      beside: folder from which the file may import, appended to `sys.path`; default: the file's own folder.

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
    sys.modules[name] = module  # dataclasses look up their module while it runs
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ExperimentError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not dataclasses.is_dataclass(getattr(module, "Config", None)):
        raise ExperimentError(f"{path} has no dataclass Config; define one with the experiment's settings")
    if not callable(getattr(module, "build", None)):
        raise ExperimentError(f"{path} has no function build(config); define one that returns an Experiment")
    return module


def missing(module: ModuleType, settings: str, function: str) -> list[str]:
    """Returns which of a settings dataclass and a function an experiment's file does not define.

    Args:
      module: loaded module of the experiment.
      settings: name of the dataclass. One that the file imports from elsewhere does not count.
      function: signature of the function, such as ``final(config, settings, code)``.
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
