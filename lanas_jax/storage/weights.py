"""Network weights by name, such as ``params/stem/kernel``: for weight files and for initial weights of trainings."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lanas_jax.runtime.arithmetic import transfers_allowed
from lanas_jax.storage.saving import digest, load_tree, save_tree

Tree = TypeVar("Tree")
AnyArray = Array | np.ndarray


def names(weights: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(weights)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@transfers_allowed
def filled(like: Tree, found: Mapping[str, AnyArray], *, partly: bool = False) -> Tree:
    """Returns the tree with its leaves replaced by copies of named arrays.

    Args:
      like: tree of arrays, or of their shapes and dtypes.
      found: arrays by name.
      partly: True if arrays may be missing; leaves without an array then stay unchanged.

    Raises:
      ValueError: as in `check_weights`.
    """
    check_weights(like, found, partly=partly)
    chosen = [jnp.array(found[name]) if name in found else leaf for name, leaf in names(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), chosen)


def check_weights(like: Any, found: Mapping[str, AnyArray], *, partly: bool = False) -> None:
    """Checks named arrays against a tree; same arguments as `filled`.

    Raises:
      ValueError: an array has an unknown name or the wrong shape or dtype, or is missing; the message names it.
    """
    leaves = names(like)
    expected, there = ({name: (x.shape, str(x.dtype)) for name, x in tree.items()} for tree in (leaves, found))
    needed = there.keys() if partly else expected.keys() | there.keys()
    if wrong := sorted(name for name in needed if expected.get(name) != there.get(name)):
        name = wrong[0]
        raise ValueError(
            f"{name} is {_words(there.get(name), 'absent')}, expected {_words(expected.get(name), 'none')}"
        )


def save_weights(directory: Path, arrays: Mapping[str, AnyArray]) -> None:
    """Writes arrays by name to a new folder with orbax; dots replace slashes, which orbax would treat as folders.

    Raises:
      CheckpointError: as in `lanas_jax.storage.saving.save_tree`.
    """
    save_tree(directory, {name.replace("/", "."): array for name, array in arrays.items()})


def load_weights(directory: Path) -> dict[str, np.ndarray]:
    """Reads arrays by name, as `save_weights` wrote them."""
    return {name.replace(".", "/"): np.asarray(array) for name, array in load_tree(directory).items()}


def digest_by_name(arrays: Mapping[str, AnyArray]) -> str:
    """Returns the SHA-256 of arrays and their names, independent of order, in hexadecimal."""
    ordered = sorted(arrays)
    return hashlib.sha256(
        (" ".join(ordered) + digest(np.asarray(arrays[name]) for name in ordered)).encode()
    ).hexdigest()


def _words(array: tuple[tuple[int, ...], str] | None, nothing: str) -> str:
    return nothing if array is None else f"{array[1]}{list(array[0])}"
