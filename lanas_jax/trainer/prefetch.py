"""Batches made ready by a thread of its own, so that devices need not wait for the disk."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

PATIENCE = 5.0  # seconds for a thread to end that may be reading a batch nobody wants any more

Read = TypeVar("Read")
Ready = TypeVar("Ready")


class _End:
    """After the last batch."""


class Ahead(Generic[Read, Ready]):
    """An iterator that is some items ahead of who reads it; a context manager.

    Args:
      source: is read in the thread, from its beginning.
      prepare: what is done to each item there, such as placing it on the devices.
      depth: items that wait, ready; as many take up memory.
    """

    def __init__(self, source: Iterator[Read], prepare: Callable[[Read], Ready], depth: int):
        self.waited = 0.0  # seconds for which nothing was ready
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
        """The next item; an error of the thread is raised here."""
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
        except BaseException as error:  # whoever reads has to hear of it, whatever it is
            self._put(error)

    def _put(self, item: Ready | BaseException | _End) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return
