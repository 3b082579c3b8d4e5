"""One-line descriptions of errors of the user's code."""

import os
import traceback
from pathlib import Path

STOPS = (Exception, SystemExit)  # what the user's code may raise; KeyboardInterrupt stops the command


def explain_error(error: BaseException) -> str:
    """Returns an error as text, such as ``ValueError: no images``; for a missing file, with the folder searched."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else repr(error.code)})"
    name = getattr(error, "filename", None)
    relative = isinstance(error, FileNotFoundError) and isinstance(name, str | os.PathLike) and not os.path.isabs(name)
    return f"{type(error).__name__}: {error}" + (f" (looked for in {Path.cwd()})" if relative else "")


def what_it_did(error: BaseException) -> str:
    """Returns the end of a sentence that describes what the user's code did: raised an error or called ``sys.exit``."""
    return f"{'called' if isinstance(error, SystemExit) else 'raised'} {explain_error(error)}"


def place_of(error: BaseException) -> str:
    """Returns the file and line that raised an error, such as ``mine.py, line 3``; empty if unknown."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
