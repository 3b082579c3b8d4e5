"""Prefetching of batches in a thread, so that the devices do not wait for the disk."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

PATIENCE = 5.0  # seconds to wait for the thread to end, since it may be reading a batch that is no longer needed

Read = TypeVar("Read")
Ready = TypeVar("Ready")


class _End:
    """Marks the end of the items in the queue."""


class Ahead(Generic[Read, Ready]):
    """An iterator that reads a source ahead of its consumer, in a thread; a context manager.

    Args:
      source: iterator to read in the thread.
      prepare: function applied to each item in the thread, such as placing it on the devices.
      depth: largest number of prepared items that wait in memory.
    """

    def __init__(self, source: Iterator[Read], prepare: Callable[[Read], Ready], depth: int):
        self.waited = 0.0  # seconds for which the consumer waited
        self._ready: queue.Queue[Ready | BaseException | _End] = queue.Queue(depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(source, prepare), daemon=True)

    def __enter__(self) -> "Ahead[Read, Ready]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(PATIENCE)

    def __iter__(self) -> "Ahead[Read, Ready]":
        return self

    def __next__(self) -> Ready:
        """Returns the next item, or raises the exception that the thread raised."""
        began = time.perf_counter()
        found = self._ready.get()
        self.waited += time.perf_counter() - began
        if isinstance(found, _End):
            raise StopIteration
        if isinstance(found, BaseException):
            raise found
        return found

    def _run(self, source: Iterator[Read], prepare: Callable[[Read], Ready]) -> None:
        try:
            for item in source:
                self._put(prepare(item))
                if self._closing.is_set():
                    return
            self._put(_End())
        except BaseException as error:  # the consumer must see every exception, whatever its type
            self._put(error)

    def _put(self, item: Ready | BaseException | _End) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return
