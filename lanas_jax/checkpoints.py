"""The searcher's state on disk, so that a killed run need not replay all its trials.

A checkpoint is a shortcut, never the truth: the trial store is. So a checkpoint says which told trials it stands for (a
digest of them in order) and what its own arrays are (another digest), and one that is missing, partial, damaged or of
other trials is passed over. Orbax writes a checkpoint under a temporary name and renames it, and keeps the last two.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

State = TypeVar("State")
KEPT = 2


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state from disk.

    Attributes:
      state: the searcher's state.
      batches: told batches that it stands for.
    """

    state: Any
    batches: int


class Checkpoints:
    """The checkpoints of one run; a context manager.

    Args:
      directory: where they are, made when missing.
    """

    def __init__(self, directory: Path):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def save(self, batches: int, state: Any, trials: str) -> None:
        """Writes a state down.

        Args:
          batches: told batches that it stands for.
          state: any pytree of arrays, typed keys included.
          trials: digest of those batches' trials.
        """
        leaves = _leaves(state)
        about = {
            "trials": trials,
            "structure": str(jax.tree.structure(state)),
            "arrays": _digest(leaves),
            "shapes": [[str(leaf.dtype), list(leaf.shape)] for leaf in leaves],
        }
        arrays = {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}  # orbax refuses arrays of no size
        if batches in self._manager.all_steps():  # one that was passed over
            self._manager.delete(batches)
        self._manager.save(
            batches,
            args=ocp.args.Composite(state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)),
            force=True,
        )

    def restore(self, like: State, trials: dict[int, str]) -> Restored | None:
        """The newest intact state that stands for recorded trials.

        Args:
          like: a state of the same searcher; its arrays may have other sizes.
          trials: by number of told batches, the digest of those batches' trials.
        """
        for batches in sorted(self._manager.all_steps(), reverse=True):
            if batches in trials and (state := self._read(batches, like, trials[batches])) is not None:
                return Restored(state, batches)
        return None

    def _read(self, batches: int, like: State, trials: str) -> State | None:
        restore = ocp.args.Composite(state=ocp.args.StandardRestore(), about=ocp.args.JsonRestore())
        try:
            found = self._manager.restore(batches, args=restore)
            about, arrays = found.about, found.state
            if about["trials"] != trials or about["structure"] != str(jax.tree.structure(like)):
                return None
            leaves = [
                np.asarray(arrays[str(i)]) if str(i) in arrays else np.zeros(shape, dtype)
                for i, (dtype, shape) in enumerate(about["shapes"])
            ]
        except Exception:  # damaged files raise what they please, and the trial store has it all
            return None
        return _state(like, leaves) if _digest(leaves) == about["arrays"] else None


def _leaves(state: Any) -> list[np.ndarray]:
    """The arrays of a state, keys as the words they consist of."""
    return [np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(state)]


def _state(like: State, leaves: list[np.ndarray]) -> State:
    old, structure = jax.tree.flatten(like)
    new = [
        jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(before)) if _is_key(before) else leaf
        for before, leaf in zip(old, map(jnp.asarray, leaves), strict=True)
    ]
    return jax.tree.unflatten(structure, new)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(leaves: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
