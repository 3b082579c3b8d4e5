"""Traces of a few steps by JAX's profiler, for XProf, TensorBoard and Perfetto.

Engines mark each dispatch of their programs as a step (`marked_step`), which costs about a microsecond while nothing is
recorded. A command records inside `recording`: of each kind of step, the first dispatch is left out, since it includes
work that is done once, and the next ones are traced.
"""

import collections
import contextlib
import functools
import itertools
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import jax

FIRST, LAST = 2, 4  # numbers of the dispatches that are traced, from 1


class Recorder:
    """Traces the dispatches `FIRST` to `LAST` of each kind of step.

    Args:
      directory: folder of the traces, one subfolder per kind of step.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self._counts: collections.Counter[str] = collections.Counter()
        self._traced = ""  # kind of step that is being traced
        self.kinds: list[str] = []  # kinds of steps that were traced, in order

    def begin(self, kind: str) -> None:
        """Starts a trace if this dispatch is the first one to trace."""
        self._counts[kind] += 1
        if self._traced and self._traced != kind:
            self.stop()
        if self._counts[kind] == FIRST:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # calls of Python functions would fill the trace
            jax.profiler.start_trace(self._directory / kind, profiler_options=options)
            self._traced = kind
            self.kinds.append(kind)

    def end(self, kind: str) -> None:
        """Writes the trace if this dispatch was the last one to trace."""
        if self._traced == kind and self._counts[kind] == LAST:
            self.stop()

    def stop(self) -> None:
        """Writes the trace that is being recorded, if there is one."""
        if self._traced:
            self._traced = ""
            jax.profiler.stop_trace()


_RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextlib.contextmanager
def recording(directory: Path | None) -> Iterator[list[str]]:
    """Context in which marked steps are traced.

    Args:
      directory: folder of the traces, created with the first trace; None: nothing is traced.

    Yields:
      The kinds of steps that were traced; grows.
    """
    if directory is None:
        yield []
        return
    recorder = Recorder(directory)
    token = _RECORDER.set(recorder)
    try:
        yield recorder.kinds
    finally:
        _RECORDER.reset(token)
        recorder.stop()


@contextlib.contextmanager
def marked_step(kind: str) -> Iterator[None]:
    """Marks the code that dispatches a program, and usually waits for its results, as a step.

    Args:
      kind: name of the step in the trace, where steps of all kinds are numbered together.
    """
    recorder = _RECORDER.get()
    if recorder is not None:
        recorder.begin(kind)
    with jax.profiler.StepTraceAnnotation(kind, step_num=next(_numbers())):
        yield
    if recorder is not None:
        recorder.end(kind)


@functools.cache
def _numbers() -> Iterator[int]:
    return itertools.count()
