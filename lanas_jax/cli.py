"""The command line ``lanas``: the table of commands and the mapping from errors to exit codes.

Errors that the user can fix become one message and exit code 2. A command's module, and JAX with it, is
imported only when the command runs, so that help and listings start fast.
"""

import atexit
import contextlib
import gc
import importlib
import io
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from lanas_jax import __version__
from lanas_jax.commands.base import REFUSALS, RefusedError, is_about_path, reason_of
from lanas_jax.runtime.allocator import hold_freed_memory
from lanas_jax.runtime.errors import failed_start, is_from_user, what_it_did
from lanas_jax.runtime.one_host import confine_to_host, slice_hosts

ONE_HOST = "--one-host"  # option of every command, which must take effect before JAX opens the TPU
JOINING = ("search", "resume", "train", "supernet", "extract", "rank")  # commands with the options --hosts.*

HELP = """\
lanas finds good neural networks after training few of them (LaNAS, arXiv 1906.06832).

usage: lanas COMMAND ...

  search EXPERIMENT   search, train the winner, write a report
  resume RUN          continue a search that was interrupted
  train RUN           train the best network of a search in full, as published results are trained
  export RUN          write that network: its weights, or a program for JAX or ONNX, and a script that runs it
  supernet EXPERIMENT train the supernet of a one-shot search in advance, on one host or on many
  extract RUN         extract a network from the supernet of a one-shot or few-shot search
  plan EXPERIMENT     compile an experiment for a TPU slice, without the TPU: memory and chip-hours
  rank RUN            compare how a supernet ranks networks with training from scratch, or with a table
  copy FROM TO        copy the folder of a run to a bucket, or back
  report RUN ...      write the report of a run again, or one report of several runs
  trials RUN          list the trials of a run, as a table or as CSV, or write them as a study of Optuna
  front RUN           list the trials that no other beats in every objective
  tree RUN            show what the search has learned: which choices are good, region by region
  describe SPACE      draw the network of a code, or a published network, and count its cost
  tables              list the benchmark tables, or convert one from its official files
  compare TABLE       count the samples that searchers need on a benchmark table

A RUN is the folder that a search wrote. For the options of a command: lanas COMMAND --help. On a TPU slice of several
hosts, search, resume, train, supernet, extract and rank take --hosts.automatic on all hosts, or --one-host on one of
them. To start:

  lanas search digits
"""


def run_and_exit() -> NoReturn:
    """Entry point of the command ``lanas``: runs it and ends the process with its exit code.

    The process ends after the functions that were registered with `atexit`. The interpreter is not finalized: Python
    older than 3.14 then ends other threads that need it, and a thread in C++ code of XLA or TensorStore aborts the
    process (https://github.com/python/cpython/issues/87135), although everything has been written. If something else
    has imported JAX before, the process ends as usual: JAX's own functions at exit, which disconnect from other
    processes, would come too late.
    """
    exit_code = 1  # of an exception that nothing caught: Python prints it before it calls `leave`

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # full, or closed
                stream.flush()
        os._exit(exit_code)

    if "jax" not in sys.modules:
        hold_freed_memory()
        # Imports and tracing make many objects that live: the defaults look through them again and again.
        gc.set_threshold(50_000, 20, 50)
        atexit.register(leave)  # before all others, so that it is called last
    try:
        exit_code = main()
    except SystemExit as error:  # --help, or options that cannot be parsed
        if error.code is not None and not isinstance(error.code, int):
            raise  # Python prints the code and exits with 1
        exit_code = error.code or 0
    sys.exit(exit_code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: command-line arguments without the program name; default: ``sys.argv[1:]``.

    Returns:
      The exit code: 0 on success, 1 if the search failed, 2 if the command must be changed, 130 after Ctrl-C.
    """
    _open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an ASCII terminal, or a file name that is not UTF-8
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    try:
        try:
            return _run(command, rest)
        finally:
            if not sys.stdout.closed:  # by an experiment
                sys.stdout.flush()  # here, where errors become messages, and not at exit
    except REFUSALS as error:
        return _failed(command, error, 2)
    except sqlite3.OperationalError as error:  # a full disk, an unmounted file system, a file without permission
        if (number := getattr(error, "sqlite_errorcode", None)) == sqlite3.SQLITE_READONLY:
            return _failed(command, "the trials file cannot be written: it is read-only", 2)
        if number == sqlite3.SQLITE_READONLY_DBMOVED:
            return _failed(command, "the trials file was moved or deleted during the search", 1)
        return _failed(command, f"the trials file cannot be used: {error}", 1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # lanas trials RUN | head
        _discard_output()
        return 0
    except OSError as error:  # a full disk, a folder without permission
        _discard_output()
        return _failed(command, reason_of(error), 2 if is_about_path(error) else 1)
    except BaseException as error:  # of an experiment's file, outside of its search
        if not is_from_user(error):
            if failed := failed_start(error):
                return _failed(command, failed, 2)
            raise
        return _failed(command, f"the experiment {what_it_did(error)}", 1)


def _run(command: str, arguments: Sequence[str]) -> int:
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command == "--version":
        print(f"lanas {__version__}")
        return 0
    if command not in COMMANDS:
        print(f"lanas: there is no command {command!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if (exit_code := _choose_hosts(command, arguments)) is not None:
        return exit_code
    return _function(command)([word for word in arguments if word != ONE_HOST])


def _choose_hosts(command: str, arguments: Sequence[str]) -> int | None:
    """Confines JAX to this host unless the command runs on several; returns the exit code of a refusal, or None.

    JAX would wait until it has started on all hosts of a TPU slice.
    """
    joins = any(word.startswith(("--hosts.", "--cluster")) for word in arguments)
    if ONE_HOST in arguments and joins:
        return _failed(command, f"{ONE_HOST} excludes --hosts and --cluster", 2)
    if joins or {"-h", "--help"} & {*arguments}:
        return None
    if ONE_HOST not in arguments:
        if (count := slice_hosts(os.environ)) == 1:
            return None
        if command in JOINING:
            waits = f"this is one of {count} hosts of a TPU slice, and JAX would wait for the others"
            return _failed(command, f"{waits}: give --hosts.automatic on every host, or {ONE_HOST} on one", 2)
    try:
        confine_to_host(os.environ)
    except ValueError as error:
        return _failed(command, f"{ONE_HOST}: {error}", 2)
    return None


def _open_missing_streams() -> None:
    """Redirects the standard streams that are closed, as of ``lanas search ... >&-``, to the null device.

    Files opened later would otherwise get their numbers, and whatever a library prints would be written into them.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _failed(command: str, why: object, exit_code: int) -> int:
    with contextlib.suppress(OSError):  # standard error may be full, too
        print(f"lanas {command}: {why}", file=sys.stderr)
    return exit_code


def _discard_output() -> None:
    """Redirects the remaining output to the null device, since Python would try to write it again at exit."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


COMMANDS = {  # command name -> module of `lanas_jax.commands` that defines the function of that name
    "search": "search",
    "resume": "search",
    "train": "train",
    "export": "export",
    "supernet": "supernet",
    "extract": "extract",
    "plan": "plan",
    "rank": "rank",
    "copy": "copying",
    "report": "runs",
    "trials": "runs",
    "front": "front",
    "tree": "runs",
    "describe": "describe",
    "tables": "tables",
    "compare": "compare",
}


def _function(command: str) -> Callable[[Sequence[str]], int]:
    """Returns the function of a command. Imports its module here, since most of them import JAX."""
    try:
        module = importlib.import_module(f"lanas_jax.commands.{COMMANDS[command]}")
    except ValueError as error:  # JAX checks the variables that it reads when it is imported
        raise RefusedError(f"JAX cannot be imported with this environment: {error}") from error
    function: Callable[[Sequence[str]], int] = getattr(module, command)
    return function


if __name__ == "__main__":  # python -m lanas_jax.cli
    run_and_exit()
