"""Shared parts of the commands that train on several hosts: how processes connect and how they stop."""

import contextlib
import datetime
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import jax

from lanas_jax.commands.base import is_about_path, parse_early, reason_of
from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import Hosts, Preemption
from lanas_jax.runtime.interruption import SIGNALS, handle_signals
from lanas_jax.storage import folder
from lanas_jax.storage.folder import RunError
from lanas_jax.trainer import loop

Found = TypeVar("Found")
HELP = """\
On several hosts, start the same command on each host: with --hosts.automatic on TPU pods and under Slurm or Open MPI,
otherwise with --hosts.coordinator HOST:PORT --hosts.count N --hosts.index I. All hosts must share the folder."""
STATUS = re.compile("[A-Z_]+: ")  # the prefix of messages from JAX's runtime


def join_from_arguments(command: str, arguments: Sequence[str]) -> None:
    """Connects to the other processes, if the arguments name any; must be called before the first array exists.

    Raises:
      DistributedError: the other processes do not connect.
    """
    distributed.join_hosts(parse_early("hosts", Hosts, Hosts(), command, arguments))


@contextlib.contextmanager
def new_directory(name: str) -> Iterator[Path]:
    """Creates a new folder for a training, as `folder.new_directory` does, and yields its path in all processes.

    Raises:
      RunError: the folder cannot be created.
    """
    with contextlib.ExitStack() as stack:
        made: list[Path] = []

        def make() -> None:
            made.append(stack.enter_context(folder.new_directory(name, datetime.datetime.now())))

        distributed.by_first(make, RunError)
        yield Path(distributed.broadcast(str(made[0]) if made else ""))


def run_preemptible(
    command: str, again: str, note: Callable[[str], None], run: Callable[[Preemption], Found]
) -> Found | int:
    """Runs a training and returns its result; if it stops early, prints why and returns the exit code.

    Args:
      command: name of the command, for error messages.
      again: command line that continues from the last checkpoint.
      note: function that prints a line; called from another thread.
      run: function that trains until it ends or is preempted.
    """

    def stopped(why: str, exit_code: int) -> int:
        print(f"{why}. To continue from the last checkpoint: {again}", file=sys.stderr)
        return exit_code

    # With several processes, JAX handles SIGTERM and broadcasts it to all of them.
    signals = (signal.SIGINT,) if jax.process_count() > 1 else SIGNALS
    with handle_signals(note, signals, noted=(signal.SIGTERM,)) as interruption:
        try:
            return run(Preemption(lambda: interruption.signal == signal.SIGTERM))
        except loop.PreemptedError as error:
            return stopped(str(error), 128 + signal.SIGTERM)
        except KeyboardInterrupt:
            exit_code = stopped("stopped", interruption.exit_code)
            distributed.abandon(exit_code)
            return exit_code
        except loop.NotFiniteError as error:
            print(f"lanas {command}: {error}. Try a lower learning rate, in a new folder", file=sys.stderr)
        except loop.DamagedError as error:
            print(f"lanas {command}: {error}", file=sys.stderr)
        except OSError as error:
            if is_about_path(error):
                raise
            stopped(f"lanas {command}: {reason_of(error)}", 1)  # such as a full disk
            distributed.abandon(1)
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if jax.process_count() == 1 or not _of_runtime(error):
                raise
            reason = str(error).splitlines()[0]
            stopped(f"lanas {command}: a process of this training was lost ({reason})", 1)
            distributed.abandon(1)
    return 1


def _of_runtime(error: Exception) -> bool:
    """Returns whether JAX's runtime raised the error; for a call that runs synchronously, it may be a ValueError."""
    return isinstance(error, jax.errors.JaxRuntimeError) or STATUS.match(str(error)) is not None
