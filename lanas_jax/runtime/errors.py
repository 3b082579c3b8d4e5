"""One-line descriptions of errors of the user's code."""

import os
import sysconfig
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = (_PACKAGE, *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")))

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
    return f"{'called' if isinstance(error, SystemExit) else 'raised'} {explain_error(error)}{in_brackets(error)}"


def in_brackets(error: BaseException) -> str:
    """Returns `place_of` an error as the end of a sentence, such as `` (mine.py, line 3)``; empty if unknown."""
    place = place_of(error)
    return f" ({place})" if place else ""


def is_from_user(error: BaseException) -> bool:
    """Returns whether an error was raised by the user's code, or by a library that this code called."""
    return any(_is_own(frame) for frame in traceback.extract_tb(error.__traceback__))


def place_of(error: BaseException) -> str:
    """Returns the file and line that raised an error, such as ``mine.py, line 3``; empty if unknown.

    If a library raised the error, it is the line of the user's code that called the library. The text of a syntax error
    already contains its place.
    """
    frames = [] if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)
    for frame in reversed([frame for frame in frames if _is_own(frame)] or frames):
        return f"{Path(frame.filename).name}, line {frame.lineno}"
    return ""


def _is_own(frame: traceback.FrameSummary) -> bool:
    """Returns whether a frame is of the user's code, and not of this package, Python or an installed package."""
    file = Path(frame.filename)
    if file.is_relative_to(_PACKAGE / "experiments"):
        return True
    in_library = not file.is_absolute() or any(file.is_relative_to(folder) for folder in _LIBRARIES)
    return not in_library  # a name such as <frozen importlib._bootstrap> is no absolute path
