"""Saving of arrays with orbax in folders of any name. Nothing counts as saved before it has been read back.

Orbax interprets the path of a checkpoint as a glob pattern in some places and as a cloud address in others: in a folder
``runs[2]`` it writes a checkpoint without arrays and only warns; in ``a*b`` it may merge the files of ``axb``. This
module therefore gives orbax a path without such characters, if necessary through a symbolic link.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lanas_jax.runtime.interruption import uninterrupted
from lanas_jax.storage.folder import RunError

_MISREAD = re.compile(r"[*?\[\]\\\ud800-\udfff]|^/(gs|s3|az|hf)(/|$)|:(/|$)")


class CheckpointError(OSError):
    """Raised if arrays cannot be saved, or if what was saved cannot be read back."""


@contextlib.contextmanager
def plain_path(directory: Path) -> Iterator[Path]:
    """Yields an absolute path of a folder, which need not exist, that orbax does not misread.

    Raises:
      RunError: there is no such path, because orbax would misread that of the temporary folder too.
    """
    directory = directory.absolute()
    if (misread := _MISREAD.search(str(directory))) is None:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="lanas-") as folder:
        link = Path(folder) / "folder"
        if _MISREAD.search(str(link)):
            raise RunError(f"cannot save to {directory}: choose a path without {misread[0]!r}, or set TMPDIR to one")
        link.symlink_to(directory, target_is_directory=True)
        yield link


@uninterrupted()
def save_tree(directory: Path, tree: Any, *, force: bool = False) -> None:
    """Writes a tree of arrays to a new folder with orbax. The folder appears once its content has been read back.

    Args:
      directory: folder to create; its parent exists.
      tree: nested dictionaries of arrays.
      force: permission to replace an existing folder.

    Raises:
      CheckpointError: the arrays cannot be written, or are not the same when they are read back.
    """
    tree = jax.tree.map(np.asarray, tree)
    if directory.exists() and not force:
        raise CheckpointError(f"{directory} already exists")
    with tempfile.TemporaryDirectory(prefix=f"{directory.name[:40]}-", dir=directory.parent) as partial:
        written = Path(partial) / "arrays"
        try:
            with plain_path(Path(partial)) as path, _checkpointer() as checkpointer:
                checkpointer.save(path / written.name, tree)
        except Exception as error:  # orbax raises exceptions of many types
            raise not_written(directory, error) from error
        try:
            found = load_tree(written)
        except Exception as error:
            raise not_read_back(directory) from error
        if digest(jax.tree.leaves(found)) != digest(jax.tree.leaves(tree)):
            raise not_read_back(directory)
        if directory.exists():
            shutil.rmtree(directory)
        os.replace(written, directory)


def load_tree(directory: Path) -> Any:
    """Reads a tree of arrays, as `save_tree` wrote it."""
    with plain_path(directory) as path, _checkpointer() as checkpointer:
        return checkpointer.restore(path)


def _checkpointer() -> ocp.StandardCheckpointer:
    """Returns a checkpointer that waits for no other process."""
    return ocp.StandardCheckpointer(multiprocessing_options=this_process())


def this_process() -> ocp.options.MultiprocessingOptions:
    """Returns orbax's options for this process alone, of however many."""
    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )


def not_written(directory: Path, error: Exception) -> CheckpointError:
    """Returns the error for arrays that could not be written."""
    return CheckpointError(f"{directory} cannot be written: {str(error).partition(chr(10))[0] or type(error).__name__}")


def not_read_back(directory: Path) -> CheckpointError:
    """Returns the error for arrays that were written but cannot be read back unchanged."""
    return CheckpointError(
        f"{directory} was written, but does not hold what was saved when it is read back: check the disk"
    )


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Returns the SHA-256 of arrays in order, with their dtypes and shapes, in hexadecimal."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
