"""One-line descriptions of errors of the user's code."""

import asyncio
import inspect
import os
import sys
import sysconfig
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES: tuple[str | Path, ...] = (_PACKAGE, *map(sysconfig.get_path, _INSTALLED))
# What the user's code may raise. KeyboardInterrupt stops the command.
STOPS = (Exception, SystemExit, GeneratorExit, asyncio.CancelledError)


def explain_error(error: BaseException) -> str:
    """Returns an error as text, such as ``ValueError: no images``; for a missing file, with the folder searched."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else repr(error.code)})"
    name = getattr(error, "filename", None)
    relative = isinstance(error, FileNotFoundError) and isinstance(name, str | os.PathLike) and not os.path.isabs(name)
    return f"{type(error).__name__}: {_text_of(error)}" + (f" (looked for in {Path.cwd()})" if relative else "")


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's class may raise anything
        return "(its text cannot be read)"


def is_coroutine(returned: object) -> bool:
    """Returns whether a call of the user's function returned a coroutine, as ``async def`` does, and closes it.

    Python would print a warning about a coroutine that is deleted before it has run.
    """
    if inspect.iscoroutine(returned):
        returned.close()
        return True
    return inspect.isasyncgen(returned)


def what_it_did(error: BaseException) -> str:
    """Returns the end of a sentence that describes what the user's code did: raised an error or called ``sys.exit``."""
    did = "called" if isinstance(error, SystemExit) else "raised"
    return failed_start(error) or f"{did} {explain_error(error)}{in_brackets(error)}"


def failed_start(error: BaseException) -> str:
    """Returns the end of a sentence about JAX, if the error means that JAX has no device to run on; otherwise nothing.

    For a platform whose plugin is not installed, JAX raises an `AssertionError` without a text.
    """
    if "Unable to initialize backend" in (text := _text_of(error)):
        why = text
    elif isinstance(error, AssertionError) and not text and not _has_devices():
        why = "there is no such device, or its plugin is not installed"
    else:
        return ""
    platforms = os.environ.get("JAX_PLATFORMS")
    return f"could not start JAX{f' with JAX_PLATFORMS={platforms}' if platforms else ''}: {why}"


def _has_devices() -> bool:
    """Returns False if JAX has been imported and cannot start."""
    try:
        return "jax" not in sys.modules or bool(sys.modules["jax"].devices())
    except (AssertionError, RuntimeError):
        return False


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
    return not in_library  # a name such as <frozen importlib._bootstrap> is not an absolute path
