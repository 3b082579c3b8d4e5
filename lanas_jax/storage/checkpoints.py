"""States on disk: a searcher's after a number of batches, or a training's after a number of steps.

A checkpoint says what it stands for (of a searcher a digest of the told trials in order, of a training a digest of all
that decides its weights) and what its own arrays are (another digest), and one that is missing, partial, damaged or
stands for something else is passed over: to a searcher that is no loss, since the trial store is the truth and a
checkpoint a shortcut. Orbax writes a checkpoint under a temporary name and renames it, and keeps the last two.

Several processes have the same state, on devices of their own, and call everything here together: process 0 writes, all
read, so that the folder has to be the same for all of them.
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
ROOM = 2**20  # bytes of a disk, beside a checkpoint's arrays


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state from disk.

    Attributes:
      state: what was saved.
      number: of batches told or steps taken.
    """

    state: Any
    number: int


class _Manager(ocp.CheckpointManager):
    """Leaves preemption to `distributed.Preemption`: points that orbax counted too would confuse JAX."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints in one folder; a context manager.

    Args:
      directory: where they are, made when missing.
      behind: write while the caller goes on; one that is not yet written is waited for by the next, and at the end.
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
        if kind is None or jax.process_count() == 1:  # else the others, who would be waited for, may be lost
            self._manager.close()

    @property
    @uninterrupted()
    def numbers(self) -> list[int]:
        """Those of the checkpoints there are, damaged ones included, in ascending order; waits for one under way."""
        self._manager.wait_until_finished()
        return sorted(self._manager.all_steps())

    @uninterrupted()
    def discard_after(self, number: int) -> None:
        """Deletes checkpoints of higher numbers, so that they are not kept in the place of those to come."""
        for later in self.numbers:
            if later > number:
                self._manager.delete(later)

    @uninterrupted()
    def save(self, number: int, state: Any, stands_for: str) -> None:
        """Writes a state down, or begins to.

        Args:
          number: of batches told or steps taken.
          state: any pytree of arrays, typed keys included; copied, the caller may let go of it at once.
          stands_for: digest of what led to it.

        Raises:
          OSError: the disk is full, or nearly so; orbax would find out in threads that cannot say it in a line.
        """
        leaves = _leaves(state)
        free, needed = shutil.disk_usage(self._manager.directory).free, 2 * sum(leaf.nbytes for leaf in leaves) + ROOM
        if jax.process_index() == 0 and free < needed:
            raise OSError(f"the disk is full: {free / 2**20:.1f} MiB are free, {needed / 2**20:.1f} are needed")
        about = {
            "stands_for": stands_for,
            "structure": str(jax.tree.structure(state)),
            "arrays": digest(leaves),
            "shapes": [[str(leaf.dtype), list(leaf.shape)] for leaf in leaves],
        }
        arrays = {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}  # orbax refuses arrays of no size
        if number in self._manager.all_steps():  # one that was passed over
            self._manager.delete(number)
        self._manager.save(
            number,
            args=ocp.args.Composite(state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)),
            force=True,
        )

    def restore(self, like: State, stands_for: Mapping[int, str]) -> Restored | None:
        """The newest intact state that stands for what is given.

        Args:
          like: a state of the same structure; its arrays may have other sizes.
          stands_for: by number, the digest that a checkpoint of that number must have.
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
        except Exception:  # damaged files raise what they please
            return None
        return _state(like, leaves) if digest(leaves) == about["arrays"] else None


def _leaves(state: Any) -> list[np.ndarray]:
    """Copies of the arrays of a state, keys as the words they consist of."""
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
    """SHA-256 of arrays in order, their dtypes and shapes included, in hexadecimal."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
