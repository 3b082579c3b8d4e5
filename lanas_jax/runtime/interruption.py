"""Ctrl-C and SIGTERM: the first stops as soon as Python gets a word in, the second at once.

Python raises `KeyboardInterrupt` only between two of its own instructions, which a compilation or a long program can
hold off for a while. So a thread of its own hears the signal, says that it was heard, and ends the process at the
second one. And Python raises it between any two of them, also where a library has begun something in threads of its own
that fails if the interpreter ends meanwhile: `uninterrupted` puts it off.
"""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass
class Interruption:
    """What stopped the process, if anything did.

    Attributes:
      signal: the first signal's number; 0 before there is one.
    """

    signal: int = 0

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)


@contextlib.contextmanager
def handle_signals(
    say: Callable[[str], None], signals: Collection[int] = SIGNALS, noted: Collection[int] = ()
) -> Iterator[Interruption]:
    """Within it, the first signal raises `KeyboardInterrupt` and the second ends the process.

    Outside the main thread, where Python allows no handlers, it changes nothing.

    Args:
      say: prints a line; called from another thread.
      signals: which ones; others are left to whoever hears them.
      noted: those that raise nothing when they come first: the caller looks at `Interruption.signal` and stops in time.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if interruption.signal:  # the second: whether Python or the listener hears it first makes no difference
            os._exit(128 + number)
        interruption.signal = number
        if number not in noted:
            raise KeyboardInterrupt

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {number: signal.signal(number, stop) for number in signals}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(reading, say), daemon=True)
    listener.start()
    try:
        yield interruption
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)  # the listener reads to the end and closes its own side


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within it, the first signal has to wait until the block has ended, and a second is acted on at once.

    Outside the main thread, where no signal is acted on, it changes nothing.
    """
    handlers = {int(number): handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    if threading.current_thread() is not threading.main_thread() or not handlers:
        yield
        return
    waiting: list[int] = []

    def put_off(number: int, frame: FrameType | None) -> None:
        if waiting:
            handlers[number](number, frame)
        waiting.append(number)

    for number in handlers:
        signal.signal(number, put_off)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if waiting:
            handlers[waiting[0]](waiting[0], None)


def _listen(reading: int, say: Callable[[str], None]) -> None:
    count = 0
    while number := os.read(reading, 1):
        if number[0] not in SIGNALS:
            continue
        count += 1
        if count > 1:
            os._exit(128 + number[0])
        say("stopping; once more to stop at once")
    os.close(reading)
