"""Checkpoints of a searcher after a number of events, or of a training after a number of steps.

A checkpoint stores two digests. The first identifies what led to it: for a searcher the asks and tells in order, for a
training everything that decides its weights. The second covers its own arrays. A checkpoint that is missing, partial,
damaged or of another origin is skipped. For a searcher this loses nothing, since its state can be replayed from the
trial store. Orbax writes a checkpoint under a temporary name, renames it, and keeps the last two.

With several processes, each holds the same state on its own devices, and all must call every method together. Process 0
writes and all processes read, so the folder must be shared.
"""

import dataclasses
import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lanas_jax.runtime.interruption import uninterrupted

State = TypeVar("State")
KEPT = 2
ROOM = 2**20  # bytes of disk space required in addition to a checkpoint's arrays


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state restored from disk.

    Attributes:
      state: saved state.
      number: number of the checkpoint, in events or steps.
    """

    state: Any
    number: int


class _Manager(ocp.CheckpointManager):
    """Ignores preemption, which `distributed.Preemption` handles; JAX's sync points must not be counted twice."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints in one folder; a context manager.

    Args:
      directory: folder of the checkpoints, created if missing.
      behind: asynchronous writing. If True, `save` returns before the checkpoint is written; the next `save` and the
        end of the context wait for it.
    """

    def __init__(self, directory: Path, behind: bool = False):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=behind, cleanup_tmp_directories=True
        )
        self._manager = _Manager(directory.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    @uninterrupted()
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or jax.process_count() == 1:  # with an error, waiting for other processes could hang
            self._manager.close()

    @property
    @uninterrupted()
    def numbers(self) -> list[int]:
        """Numbers of all checkpoints, damaged ones included, in ascending order; waits for a write in progress."""
        self._manager.wait_until_finished()
        return sorted(self._manager.all_steps())

    @uninterrupted()
    def discard_after(self, number: int) -> None:
        """Deletes checkpoints of higher numbers, so that orbax does not keep them instead of new ones."""
        for later in self.numbers:
            if later > number:
                self._manager.delete(later)

    @uninterrupted()
    def save(self, number: int, state: Any, stands_for: str) -> None:
        """Saves a state, or starts to if writing is asynchronous.

        Args:
          number: number of the checkpoint, in events or steps.
          state: pytree of arrays, typed keys included. It is copied, so the caller may delete or donate it at once.
          stands_for: digest of what led to the state.

        Raises:
          OSError: the disk is full or nearly full. Checked here because orbax would fail in a background thread, with a
            long traceback.
        """
        leaves = _leaves(state)
        free, needed = shutil.disk_usage(self._manager.directory).free, 2 * sum(leaf.nbytes for leaf in leaves) + ROOM
        if jax.process_index() == 0 and free < needed:
            raise OSError(f"the disk is full: {free / 2**20:.1f} MiB are free, {needed / 2**20:.1f} MiB are needed")
        about = {
            "stands_for": stands_for,
            "structure": str(jax.tree.structure(state)),
            "arrays": digest(leaves),
            "shapes": [[str(leaf.dtype), list(leaf.shape)] for leaf in leaves],
        }
        arrays = {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}  # orbax refuses empty arrays
        if number in self._manager.all_steps():  # a checkpoint that was skipped
            self._manager.delete(number)
        self._manager.save(
            number,
            args=ocp.args.Composite(state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)),
            force=True,
        )

    def restore(self, like: State, stands_for: Mapping[int, str]) -> Restored | None:
        """Returns the newest intact state with a matching digest, or None.

        Args:
          like: state of the same structure; its arrays may have other sizes.
          stands_for: expected digest for each checkpoint number.
        """
        for number in reversed(self.numbers):
            if number in stands_for and (state := self._read(number, like, stands_for[number])) is not None:
                return Restored(state, number)
        return None

    @uninterrupted()
    def _read(self, number: int, like: State, stands_for: str) -> State | None:
        restore = ocp.args.Composite(state=ocp.args.StandardRestore(), about=ocp.args.JsonRestore())
        try:
            found = self._manager.restore(number, args=restore)
            about, arrays = found.about, found.state
            if about["stands_for"] != stands_for or about["structure"] != str(jax.tree.structure(like)):
                return None
            leaves = [
                np.asarray(arrays[str(i)]) if str(i) in arrays else np.zeros(shape, dtype)
                for i, (dtype, shape) in enumerate(about["shapes"])
            ]
        except Exception:  # damaged files raise exceptions of many types
            return None
        return _state(like, leaves) if digest(leaves) == about["arrays"] else None


def _leaves(state: Any) -> list[np.ndarray]:
    """Returns copies of the arrays of a state, with typed keys as their raw words."""
    return [np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(state)]


def _state(like: State, leaves: list[np.ndarray]) -> State:
    old, structure = jax.tree.flatten(like)
    new = [
        jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(before)) if _is_key(before) else leaf
        for before, leaf in zip(old, map(jnp.asarray, leaves), strict=True)
    ]
    return jax.tree.unflatten(structure, new)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Returns the SHA-256 of arrays in order, with their dtypes and shapes, in hexadecimal."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
