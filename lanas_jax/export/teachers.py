"""Teachers from outside a run: an exported network, saved logits, or any Flax module.

Experiments offer them as a setting of their winner training (`Final.teacher`); `lanas_jax.trainer.teacher` has the
teachers themselves.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from lanas_jax.export.load import read_network, read_weights
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage import weights as by_name
from lanas_jax.trainer.task import Teacher
from lanas_jax.trainer.teacher import ModuleTeacher, NetworkTeacher, read_logits

FORMS = "a folder of lanas extract or lanas export, an .npz file of logits, or MODULE:ATTRIBUTE of a Flax module"


def read_teacher(source: str, weights: Path | None = None) -> Teacher:
    """Returns the teacher of that name.

    Args:
      source: folder that ``lanas extract`` or ``lanas export`` wrote, of any experiment; ``.npz`` file with the array
        ``logits`` of the training images (`lanas_jax.trainer.teacher.read_logits`); or ``module:attribute``, an NNX
        module from scaled images ``[n, height, width, channels]`` to logits ``[n, classes]``, or a function without
        arguments that returns one. The module is imported by name, also from the working folder.
      weights: folder with the weights of an NNX module, by name, in ``weights.safetensors`` or the orbax folder
        ``weights``; None for those that the module has.

    Raises:
      ValueError: the source is none of these, the module cannot be imported, the attribute is missing or not a module,
        or the weights do not fit it.
      RunError, ExperimentError, ConfigError, FileError, MissingPackageError: the folder or file cannot be read.
    """
    path = local_path(source)
    if path.suffix == ".npz" or path.is_dir():
        if weights is not None:
            raise ValueError(f"the teacher {source} has weights of its own; leave out those of {weights}")
        if path.suffix == ".npz":
            return read_logits(path)
        _, network = read_network(path.absolute())
        return NetworkTeacher(network, read_weights(path))
    name, colon, attribute = source.partition(":")
    if not (colon and name and attribute):
        raise ValueError(f"the teacher must be {FORMS}; got {source}, which is not a folder")
    module = _module(name, attribute)
    return ModuleTeacher(module) if weights is None else ModuleTeacher(module, _read_variables(module, weights))


def _module(name: str, attribute: str) -> nnx.Module:
    sys.path.insert(0, "")  # a file in the working folder, as for python -c
    try:
        found: Any = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the teacher {name}:{attribute} cannot be imported: {error}") from error
    finally:
        sys.path.remove("")
    made = found if isinstance(found, nnx.Module) or not callable(found) else found()
    if not isinstance(made, nnx.Module):
        raise ValueError(f"the teacher {name}:{attribute} must be a flax.nnx.Module; got {type(made).__name__}")
    return made


def _read_variables(module: nnx.Module, directory: Path) -> Any:
    """Returns the variables of a module, filled with weights by name."""
    variables = nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState)))
    arrays: dict[str, np.ndarray] = read_weights(directory)
    try:
        by_name.check_weights(variables, arrays)
    except ValueError as error:
        raise ValueError(f"the teacher's {error}") from error
    return by_name.filled(variables, arrays)
