"""An in-memory cache of compiled programs, for trainings that differ only in numbers.

Learning rates and similar numbers are inputs of a program, so a training can run a program that an earlier training
with other numbers compiled. Only the most recently used programs are held, since each takes memory.
"""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax

HELD = 8

Programs = TypeVar("Programs")


class ProgramMemo:
    """A least-recently-used cache of compiled programs.

    Args:
      held: largest number of entries.
    """

    def __init__(self, held: int):
        self._held = held
        self._entries: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._entries)

    def shared(self, key: Hashable, make: Callable[[], Programs]) -> tuple[Programs, bool]:
        """Returns the programs of a key, and whether they came from the cache.

        Args:
          key: everything that the programs depend on. Programs with an unhashable key are not cached.
          make: function that creates the programs. It should not refer to large objects, since jitted functions hold
            references to them.
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
        """Removes all programs."""
        with self._lock:
            self._entries.clear()


MEMO = ProgramMemo(HELD)


def _settings() -> tuple[Any, ...]:
    """Returns the JAX settings that affect compiled programs."""
    config: Any = jax.config
    return (
        config.jax_enable_x64,
        config.jax_default_matmul_precision,
        config.jax_debug_nans,
        config.jax_default_prng_impl,
        config.jax_threefry_partitionable,
    )
