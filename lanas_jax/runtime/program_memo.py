"""The programs compiled last in this process, for trainings that differ in numbers alone.

Learning rates and the like are inputs of a program, so a training with other ones may run a program that an earlier
training compiled. A few are held at a time, those used last: each takes memory.
"""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax

HELD = 8

Programs = TypeVar("Programs")


class ProgramMemo:
    """Programs by what they were made for; those used last, up to a number.

    Args:
      held: the largest number of entries.
    """

    def __init__(self, held: int):
        self._held = held
        self._entries: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._entries)

    def shared(self, key: Hashable, make: Callable[[], Programs]) -> tuple[Programs, bool]:
        """Returns the programs of a key, and whether they were made before.

        Args:
          key: everything that the programs depend on. One that cannot be hashed is never found again.
          make: makes them. Nothing of what it refers to should be large, since jitted functions hold on to it.
        """
        try:
            hash(key)
        except TypeError:
            return make(), False
        key = (key, _settings())
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key], True
        made = make()
        with self._lock:
            self._entries[key] = made
            while len(self._entries) > self._held:
                self._entries.popitem(last=False)
        return made, False

    def forget(self) -> None:
        """Lets go of all programs."""
        with self._lock:
            self._entries.clear()


MEMO = ProgramMemo(HELD)


def _settings() -> tuple[Any, ...]:
    """JAX's settings that change what is compiled."""
    config: Any = jax.config
    return (
        config.jax_enable_x64,
        config.jax_default_matmul_precision,
        config.jax_debug_nans,
        config.jax_default_prng_impl,
        config.jax_threefry_partitionable,
    )
