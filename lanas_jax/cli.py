"""The command line ``lanas``: the table of commands and the mapping from errors to exit codes.

Errors that the user can fix become one message and exit code 2. A command's module, and JAX with it, is
imported only when the command runs, so that help and listings start fast.
"""

import importlib
import sqlite3
import sys
from collections.abc import Callable, Sequence

from lanas_jax.commands.base import REFUSALS

HELP = """\
lanas finds good neural networks after training few of them (LaNAS, arXiv 1906.06832).

usage: lanas COMMAND ...

  search EXPERIMENT   search, retrain the winner, write a report
  resume RUN          continue a search that was interrupted
  train RUN           train the best network of a search in full, as published results are trained
  export RUN          write the weights of that network and a script that loads them
  supernet EXPERIMENT train the supernet of a one-shot search in advance, on one host or on many
  extract RUN         extract a network from the supernet of a one-shot or few-shot search
  plan EXPERIMENT     compile an experiment for a TPU slice, without the TPU: memory and chip-hours
  rank RUN            train a sample of networks from scratch: does the supernet rank them correctly?
  report RUN          write the report of a run again
  trials RUN          list the trials of a run, as a table or as CSV
  tree RUN            show what the search has learned: which choices are good, region by region
  describe SPACE      draw the network of a code, or a published network, and count its cost
  tables              list the benchmark tables, or convert one from its official files
  compare TABLE       count the samples that searchers need on a benchmark table

A RUN is the folder that a search wrote. For the options of a command: lanas COMMAND --help. To start:

  lanas search digits
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: command-line arguments without the program name; default: ``sys.argv[1:]``.

    Returns:
      The exit code: 0 on success, 1 if the search failed, 2 if the command must be changed, 130 after Ctrl-C.
    """
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command not in COMMANDS:
        print(f"lanas: there is no command {command!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return _function(command)(rest)
    except REFUSALS as error:
        print(f"lanas {command}: {error}", file=sys.stderr)
        return 2
    except sqlite3.OperationalError as error:  # a full disk or an unmounted file system
        print(f"lanas {command}: the trials file cannot be used: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # lanas trials RUN | head
        sys.stderr.close()
        return 0


COMMANDS = {  # command name -> module of `lanas_jax.commands` that defines the function of that name
    "search": "search",
    "resume": "search",
    "train": "train",
    "export": "export",
    "supernet": "supernet",
    "extract": "extract",
    "plan": "plan",
    "rank": "rank",
    "report": "runs",
    "trials": "runs",
    "tree": "runs",
    "describe": "describe",
    "tables": "tables",
    "compare": "compare",
}


def _function(command: str) -> Callable[[Sequence[str]], int]:
    """Returns the function of a command. Imports its module here, since most of them import JAX."""
    module = importlib.import_module(f"lanas_jax.commands.{COMMANDS[command]}")
    function: Callable[[Sequence[str]], int] = getattr(module, command)
    return function


if __name__ == "__main__":  # python -m lanas_jax.cli
    sys.exit(main())
