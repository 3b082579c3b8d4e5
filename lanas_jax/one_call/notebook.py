"""Live progress of a study in a notebook: one line that is replaced, not a line per trial."""

import html
from typing import Any

from lanas_jax.study.display import StudyDisplay

SECONDS = 0.5  # minimum time between two updates


class NotebookDisplay(StudyDisplay):
    """Shows a study's progress in the output of a notebook's cell."""

    _handle: Any = None
    _shown_at = 0.0

    def print_plain(self, *, always: bool = False) -> None:
        """Replaces the line, at most twice a second; always for the last trial."""
        last = len(self._done) >= self._budget
        if self._handle is not None and not last and self.clock() - self._shown_at < SECONDS:
            return
        from IPython.display import HTML, display  # a notebook has it

        self._shown_at = self.clock()
        line = HTML(f"<pre>{html.escape(self.line().plain)}</pre>")
        if self._handle is None:
            self._handle = display(line, display_id=True)
        else:
            self._handle.update(line)
