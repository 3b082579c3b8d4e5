"""Checkpoints of a searcher after a number of events, or of a training after a number of steps.

A checkpoint stores two digests. The first identifies what led to it: for a searcher the asks and tells in order, for a
training everything that decides its weights. The second covers its own arrays. A checkpoint that is missing, partial,
damaged or of another origin is skipped. For a searcher this loses nothing, since its state can be replayed from the
trial store. Orbax writes a checkpoint under a temporary name, renames it, and retains the last two. Each checkpoint is
read back once it is written, so that a training cannot end with weights that cannot be read.

With several processes, each holds the same state on its own devices, and all must call every method together. Process 0
writes and all processes read, so the folder must be shared. The state of a searcher belongs to process 0 alone, which
then waits for no other (`alone`).
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lanas_jax.runtime.arithmetic import transfers_allowed
from lanas_jax.runtime.interruption import uninterrupted
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.saving import digest, load_tree, not_read_back, not_written, plain_path, this_process

State = TypeVar("State")
RETAINED = 2  # number of checkpoints that orbax retains, the last ones
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
      alone: True if only this process has the state, even if there are several.

    Raises:
      RunError: orbax would misread the folder's path, and no other path can be given to it.
    """

    def __init__(self, directory: Path, behind: bool = False, alone: bool = False):
        alone = alone and jax.process_count() > 1
        self._several = not alone and jax.process_count() > 1
        options = ocp.CheckpointManagerOptions(
            max_to_keep=RETAINED,
            enable_async_checkpointing=behind,
            cleanup_tmp_directories=True,
            create=not alone,  # orbax creates no folder for some of several processes
            multiprocessing_options=this_process() if alone else ocp.options.MultiprocessingOptions(),
        )
        self._directory, self._behind = directory.absolute(), behind
        self._unread: tuple[int, dict[str, Any]] | None = None  # a checkpoint that has not been read back yet
        self._link = contextlib.ExitStack()
        path = self._link.enter_context(plain_path(self._directory))
        if path != self._directory and self._several:  # each process would create a different link
            raise RunError(f"several processes cannot save to {directory}: choose a path of letters and digits")
        if path != self._directory or alone:
            self._directory.mkdir(parents=True, exist_ok=True)
        self._manager = _Manager(path, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    @uninterrupted()
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._link:
            try:
                if kind is None:
                    self._read_back()
            finally:
                if kind is None or not self._several:  # with an error, waiting for others could hang
                    self._close(kind is None)

    def _close(self, strict: bool) -> None:
        """Closes the manager; raises errors of background writes only if `strict`, else another one is propagating."""
        lenient = contextlib.nullcontext() if strict else contextlib.suppress(Exception)
        with lenient, _writing(self._directory, self._several):
            self._manager.close()

    @property
    @uninterrupted()
    def numbers(self) -> list[int]:
        """Numbers of all checkpoints, damaged ones included, in ascending order; waits for a write in progress."""
        self._settle()
        return sorted(self._manager.all_steps())

    @uninterrupted()
    def discard_after(self, number: int) -> None:
        """Deletes checkpoints of higher numbers, so that orbax does not retain them instead of new ones."""
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
          CheckpointError: this checkpoint, or the previous one if writing is asynchronous, cannot be written, or
            differs from what was saved when it is read back.
        """
        self._read_back()
        leaves = _leaves(state)
        free, needed = shutil.disk_usage(self._manager.directory).free, 2 * sum(leaf.nbytes for leaf in leaves) + ROOM
        if jax.process_index() == 0 and free < needed:
            raise OSError(f"the disk is full: {free / 2**20:.1f} MiB are free, {needed / 2**20:.1f} MiB are needed")
        about: dict[str, Any] = {
            "stands_for": stands_for,
            "structure": str(jax.tree.structure(state)),
            "arrays": digest(leaves),
            "shapes": [[str(leaf.dtype), list(leaf.shape)] for leaf in leaves],
        }
        arrays = {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}  # orbax refuses empty arrays
        if number in self._manager.all_steps():  # a checkpoint that was skipped
            self._manager.delete(number)
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about))
        with _writing(self._directory / str(number), self._several):
            self._manager.save(number, args=items, force=True)
        self._unread = number, about
        if not self._behind:
            self._read_back()

    def _settle(self) -> None:
        """Waits for a write in progress."""
        with _writing(self._directory, self._several):
            self._manager.wait_until_finished()

    def _read_back(self) -> None:
        """Reads the last written checkpoint back and compares it with what was saved, unless this was already done.

        Raises:
          CheckpointError: it cannot be written or read, or its arrays differ.
        """
        if self._unread is None:
            return
        (number, about), self._unread = self._unread, None
        self._settle()
        if self._several and jax.process_index():
            return  # the first process reads, alone: orbax's manager would exchange messages during a training
        try:
            if self._several:
                leaves = _in_order(about, load_tree(self._directory / str(number) / "state"))
            else:
                leaves = self._load(number)[1]
            intact = digest(leaves) == about["arrays"]
        except Exception as error:  # damaged files raise exceptions of many types
            raise not_read_back(self._directory / str(number)) from error
        if not intact:
            raise not_read_back(self._directory / str(number))

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
        try:
            about, leaves = self._load(number)
            if about["stands_for"] != stands_for or about["structure"] != str(jax.tree.structure(like)):
                return None
        except Exception:  # damaged files raise exceptions of many types
            return None
        return _state(like, leaves) if digest(leaves) == about["arrays"] else None

    def _load(self, number: int) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Returns the description and the arrays of a checkpoint."""
        restore = ocp.args.Composite(state=ocp.args.StandardRestore(), about=ocp.args.JsonRestore())
        found = self._manager.restore(number, args=restore)
        return found.about, _in_order(found.about, found.state)


@contextlib.contextmanager
def _writing(path: Path, several: bool) -> Iterator[None]:
    """Context in which an error, of whatever type orbax raises, becomes a `CheckpointError`.

    With several processes it stays as it is: it may be the loss of one of them, which callers recognize.
    """
    try:
        yield
    except Exception as error:
        if several:
            raise
        raise not_written(path, error) from error


def _in_order(about: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[np.ndarray]:
    """Returns the arrays of a checkpoint in the order of the state; empty ones were not saved."""
    return [
        np.asarray(arrays[str(i)]) if str(i) in arrays else np.zeros(shape, dtype)
        for i, (dtype, shape) in enumerate(about["shapes"])
    ]


@transfers_allowed
def _leaves(state: Any) -> list[np.ndarray]:
    """Returns copies of the arrays of a state, with typed keys as their raw words."""
    return [np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(state)]


@transfers_allowed
def _state(like: State, leaves: list[np.ndarray]) -> State:
    old, structure = jax.tree.flatten(like)
    new = [
        jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(before)) if _is_key(before) else leaf
        for before, leaf in zip(old, map(jnp.asarray, leaves), strict=True)
    ]
    return jax.tree.unflatten(structure, new)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
