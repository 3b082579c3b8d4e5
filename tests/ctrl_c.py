"""Ctrl-C as it is at a terminal, wherever the tests were started.

What a shell starts in the background ignores SIGINT and hands that down, so that neither Python nor the processes it
starts would ever hear of it.
"""

import contextlib
import signal


@contextlib.contextmanager
def ctrl_c():
    """Within it, SIGINT raises `KeyboardInterrupt` here and ends the processes that are started here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
