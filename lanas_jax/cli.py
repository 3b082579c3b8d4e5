"""The command line ``lanas``: the table of commands, and what errors become.

Errors that a person can mend become one message and exit code 2. A command's module, and with it JAX, is
imported when the command is given, so that help and listings answer at once.
"""

import importlib
import sqlite3
import sys
from collections.abc import Callable, Sequence

from lanas_jax.cluster.connection import ClusterError
from lanas_jax.commands.base import RefusedError
from lanas_jax.storage import config_json
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trial_file import TrialStoreError
from lanas_jax.study import discovery

HELP = """\
lanas finds good neural networks after training few of them (LaNAS, arXiv 1906.06832).

usage: lanas COMMAND ...

  search EXPERIMENT   search, retrain the winner, write a report
  resume RUN          continue a search that was interrupted
  train RUN           train the best network of a search to the end, as published results are trained
  export RUN          write out the weights of that network, and what loads them
  supernet EXPERIMENT train the supernet of a one-shot search beforehand, on one host or on many
  extract RUN         take a network out of the supernet of a one-shot or few-shot search
  plan EXPERIMENT     compile it for a TPU slice that need not be here: does it fit, how many chip-hours?
  rank RUN            train a sample of networks: does the supernet of the search rank them?
  report RUN          write the report of a run again
  trials RUN          list the trials of a run, as a table or as CSV
  tree RUN            what the search has learned: which choices are good, region by region
  describe SPACE      draw the network that a code stands for, or a published one, and count what it costs
  tables              list the benchmark tables; make one from its official files
  compare TABLE       how many samples do searchers need on a benchmark table?

A RUN is the folder that a search wrote. lanas COMMAND --help says more. To begin with:

  lanas search digits
"""


REFUSALS = (
    RefusedError,
    ClusterError,
    discovery.ExperimentError,
    config_json.ConfigError,
    RunError,
    TrialStoreError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: without the program's name; default: those of this process.

    Returns:
      The exit code: 0; 1 where the search could not go on; 2 where the command has to be changed; 130 after Ctrl-C.
    """
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command not in COMMANDS:
        print(f"lanas: there is no command {command!r}. There are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return _function(command)(rest)
    except REFUSALS as error:
        print(f"lanas {command}: {error}", file=sys.stderr)
        return 2
    except sqlite3.OperationalError as error:  # a full disk, a file system that went away
        print(f"lanas {command}: the trials file cannot be used: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # lanas trials RUN | head
        sys.stderr.close()
        return 0


COMMANDS = {  # by name, the module of `lanas_jax.commands` with the function of that name
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
    """The function of a command, whose module is imported only now: most of them import JAX."""
    module = importlib.import_module(f"lanas_jax.commands.{COMMANDS[command]}")
    function: Callable[[Sequence[str]], int] = getattr(module, command)
    return function
