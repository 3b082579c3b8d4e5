"""Ctrl-C and SIGTERM: the first signal stops as soon as Python can handle it, the second stops immediately.

Python raises `KeyboardInterrupt` only between two bytecode instructions, which a compilation or a long program can
delay. So a listener thread receives the signal, prints a message, and ends the process at the second signal. Python
also raises `KeyboardInterrupt` between any two instructions, even while a library's threads do work that fails if the
interpreter exits meanwhile. `uninterrupted` delays the signal there. Where Python only prints exceptions, as in a
callback of the garbage collector or in ``__del__``, `KeyboardInterrupt` would be lost; it is raised again soon after.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SOON = 0.05  # seconds until a lost `KeyboardInterrupt` is raised again
LONGEST = 0.5  # seconds to wait for the listener's message, which may need a lock that the main thread holds


@dataclasses.dataclass
class Interruption:
    """The signal that stopped the process, if any.

    Attributes:
      signal: number of the first signal; 0 before the first one.
    """

    signal: int = 0

    @property
    def exit_code(self) -> int:
        """The shell's exit code, 128 plus the signal's number: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)


@contextlib.contextmanager
def handle_signals(
    say: Callable[[str], None], signals: Collection[int] = SIGNALS, noted: Collection[int] = ()
) -> Iterator[Interruption]:
    """Context in which the first signal raises `KeyboardInterrupt` and the second ends the process.

    It has no effect outside the main thread, where Python allows no signal handlers.

    Args:
      say: function that prints a line; called from another thread.
      signals: signals to handle; other signals keep their handlers.
      noted: signals that raise nothing when they are the first; the caller polls `Interruption.signal` and stops.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if interruption.signal:  # second signal: Python and the listener thread both exit, whichever is first
            os._exit(128 + number)
        interruption.signal = number
        if number not in noted:
            said.wait(LONGEST)  # or what the caller prints about the end would come first
            raise KeyboardInterrupt

    said = threading.Event()
    repeated: list[int] = []  # signals that this process sends itself; the listener does not count them

    def raise_again(lost: "sys.UnraisableHookArgs") -> None:
        if not (interruption.signal and isinstance(lost.exc_value, KeyboardInterrupt)):
            return hook(lost)
        number, interruption.signal = interruption.signal, 0
        repeated.append(number)
        again = threading.Timer(SOON, signal.pthread_kill, (threading.main_thread().ident, number))
        again.daemon = True
        return again.start()

    hook, sys.unraisablehook = sys.unraisablehook, raise_again
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {number: signal.signal(number, stop) for number in signals}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(reading, say, said, repeated), daemon=True)
    listener.start()
    try:
        yield interruption
    finally:
        sys.unraisablehook = hook
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)  # the listener reads to the end and closes the reading end


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Context that delays the first signal until the block has ended; a second signal is handled immediately.

    It has no effect outside the main thread, where no signals are handled.
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


def _listen(reading: int, say: Callable[[str], None], said: threading.Event, repeated: list[int]) -> None:
    count = 0
    while number := os.read(reading, 1):
        if number[0] not in SIGNALS:
            continue
        if repeated:
            repeated.pop()
            continue
        count += 1
        if count > 1:
            os._exit(128 + number[0])
        say("stopping; interrupt again to stop immediately")
        said.set()
    os.close(reading)
