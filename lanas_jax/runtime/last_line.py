"""A line on standard error after a process that was ended without a chance to print one.

JAX aborts a process of several, with a stack trace, when it notices that another process is lost. No Python code runs
then. So a shell, which waits for the end of this process, prints the last line that it was given.
"""

import contextlib
import subprocess
from types import TracebackType

# Reads lines until the end of the process that writes them, and prints the last one unless it is empty.
_SCRIPT = """trap '' HUP INT TERM; while IFS= read -r line; do last=$line; done; [ -z "$last" ] || echo "$last" >&2"""


class LastLine:
    """Prints a line if this process is ended by force; a context manager that prints nothing if it is left.

    Args:
      text: line to print, without line breaks.
    """

    def __init__(self, text: str):
        self._text = text
        self._shell: subprocess.Popen[str] | None = None

    def __enter__(self) -> "LastLine":
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.change(self._text)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def change(self, text: str) -> None:
        """Replaces the line."""
        if self._shell is not None and self._shell.stdin is not None:
            with contextlib.suppress(OSError):  # the shell was killed
                print(text, file=self._shell.stdin, flush=True)

    def cancel(self) -> None:
        """Ends the shell without a line."""
        if self._shell is None:
            return
        self.change("")
        shell, self._shell = self._shell, None
        with contextlib.suppress(OSError):
            shell.communicate()
