"""Shared parts of the commands that run on several hosts: how processes connect, what they compare, how they stop."""

import contextlib
import datetime
import hashlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import jax

from lanas_jax.cluster.task import code_digest
from lanas_jax.commands.base import REFUSALS, RefusedError, is_about_path, parse_early, reason_of
from lanas_jax.runtime import distributed, joining, one_host
from lanas_jax.runtime.distributed import DistributedError, Preemption
from lanas_jax.runtime.errors import STOPS, explain_error
from lanas_jax.runtime.interruption import SIGNALS, handle_signals
from lanas_jax.runtime.joining import Hosts
from lanas_jax.runtime.last_line import LastLine
from lanas_jax.storage import folder, software
from lanas_jax.storage.folder import RunError
from lanas_jax.study import discovery, run_folder
from lanas_jax.study.all_hosts import Lead, Orders, Stop, follow
from lanas_jax.study.run_folder import Run
from lanas_jax.trainer import loop

Found = TypeVar("Found")
HELP = """\
On several hosts, start the same command on each host: with --hosts.automatic on TPU pods and under Slurm or Open MPI,
otherwise with --hosts.coordinator HOST:PORT --hosts.count N --hosts.index I. All hosts must share the folder."""
STATUS = re.compile("[A-Z_]+: ")  # the prefix of messages from JAX's runtime


class Party:
    """This process among the processes of a command.

    Args:
      command: name of the command, for messages.
      hosts: settings of this process.
      line: line for an end by force; None for a process alone.
    """

    def __init__(self, command: str, hosts: Hosts, line: LastLine | None = None):
        self.command, self.hosts, self._line = command, hosts, line
        self.continuing = ""  # the last result of `again`

    @property
    def several(self) -> bool:
        """True if there are other processes."""
        return not self.hosts.alone and jax.process_count() > 1

    def again(self, words: Sequence[str], start: str = "") -> str:
        """Returns how to continue, and prints it if this process is ended by force, as the loss of another one does.

        Args:
          words: command line that continues, without the options of several hosts.
          start: point at which it continues, such as ``from the last checkpoint``.
        """
        options = self.hosts.options if self.several else ()
        where = " (on every host)" if self.several else ""
        text = f"To continue{start and f' {start}'}: {shlex.join([*words, *options])}{where}"
        if self._line is not None:
            self._line.change(f"lanas {self.command}: a process was lost. {text}")
        self.continuing = text
        return text

    def loss_of(self, error: BaseException) -> str:
        """Returns an error as the loss of another process, if JAX's runtime says that; otherwise an empty text."""
        if not (self.several and of_runtime(error)):
            return ""
        return f"lanas {self.command}: a process was lost ({str(error).splitlines()[0]})"

    def abandon(self, exit_code: int) -> None:
        """Ends this process at once if there are others, which may be lost; a single process returns."""
        if self.several:
            if self._line is not None:
                self._line.cancel()
            sys.stdout.flush()
            distributed.abandon(exit_code)


@contextlib.contextmanager
def joined(command: str, arguments: Sequence[str]) -> Iterator[Party]:
    """Connects to the other processes that the arguments name, if any; must be entered before the first array exists.

    Raises:
      RefusedError: the processes cannot connect, or one of them reported an error and ended.
      SystemExit: the settings contradict each other.
    """
    hosts = parse_early("hosts", Hosts, Hosts(), command, arguments)

    def give_up(text: str, line: LastLine | None = None) -> None:
        if line is not None:
            line.cancel()
        print(f"lanas {command}: {text}", file=sys.stderr, flush=True)
        os._exit(2)

    if hosts.alone:
        on_cluster = any(word.startswith("--cluster") for word in arguments)  # whose workers open the chips
        if one_host.local_chips() and not on_cluster:
            joining.open_devices(hosts.join_seconds, give_up)
        yield Party(command, hosts)
        return
    with LastLine(f"lanas {command}: the processes did not connect") as line:
        party = Party(command, hosts, line)
        try:
            joining.join_hosts(hosts, lambda text: give_up(text, line))
            party.again(["lanas", command, *without_hosts(arguments)])
            with _announced():
                yield party
        except DistributedError as error:
            raise RefusedError(str(error)) from error
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not (lost := party.loss_of(error)):
                raise
            print(f"{lost}. {party.continuing}", file=sys.stderr)
            party.abandon(1)


@contextlib.contextmanager
def _announced() -> Iterator[None]:
    """Tells the other processes about an error, which they may not have."""
    try:
        yield
    except STOPS as error:
        if not (isinstance(error, SystemExit) and not error.code) and not of_runtime(error):
            distributed.announce_failure(explain_error(error) if isinstance(error, SystemExit) else str(error))
        raise


def without_hosts(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a command without ``--hosts.*``, whose values differ from process to process."""
    words = list(arguments)
    for i in reversed(range(len(words))):
        if words[i].startswith("--hosts."):
            valued = "=" not in words[i] and "automatic" not in words[i]
            del words[i : i + 1 + valued]
    return words


def check_same(module: ModuleType | None, what: Mapping[str, Any]) -> None:
    """Checks that all processes would do the same.

    Args:
      module: experiment's file, loaded; None if there is none.
      what: further values to compare, by their descriptions; must be JSON-serializable.

    Raises:
      DistributedError: they would not; the message names what differs and in which process.
    """
    if distributed.is_alone():
        return
    text = None if module is None else hashlib.sha256(discovery.text_of(module)).hexdigest()
    distributed.agree_on(
        {
            **what,
            "the experiment's file": text,
            "lanas_jax's source": code_digest(),
            "software versions": software.versions(),
            "devices": [jax.local_device_count(), jax.devices()[0].device_kind],
        }
    )


def open_run(directory: Path) -> Run:
    """Opens the run in a folder in all processes.

    Raises:
      DistributedError: the processes name different folders, or do not share the folder.
      RunError: there is no run in the folder.
    """
    distributed.agree("the run folder", str(directory))
    distributed.by_first(lambda: run_folder.open_run(directory), *REFUSALS)
    distributed.check_shared(directory)
    return distributed.together(lambda: run_folder.open_run(directory), *REFUSALS)


def led(party: Party, orders: Orders, run: Callable[[Lead], int]) -> int:
    """Runs a command in process 0, while the other processes follow its orders; returns the exit code.

    Args:
      party: this process among those of the command.
      orders: functions that make the ordered calls in the other processes.
      run: the command; returns its exit code.
    """
    if not distributed.is_first_process():
        return _follow(party, orders)
    lead = Lead()
    try:
        exit_code = run(lead)
    except BaseException as error:  # refused: the caller prints the message
        lead.stop(Stop(2, f"process 0 stopped: {error}"))
        raise
    lead.stop(Stop(exit_code, "process 0 stopped early" if exit_code else "", abandon=exit_code != 0))
    if exit_code:
        party.abandon(exit_code)
    return exit_code


def _follow(party: Party, orders: Orders) -> int:
    with handle_signals(lambda text: print(text, file=sys.stderr)) as interruption:
        try:
            stop = follow(orders)
        except KeyboardInterrupt:
            print(f"stopped. {party.continuing}", file=sys.stderr)
            party.abandon(interruption.exit_code)
        except DistributedError as error:
            print(f"lanas {party.command}: {error}. {party.continuing}", file=sys.stderr)
            party.abandon(1)
    if stop.reason:
        advice = f". {party.continuing}" if stop.abandon else ""
        print(f"lanas {party.command}: {stop.reason}{advice}", file=sys.stderr)
    if stop.abandon:
        party.abandon(stop.exit_code)
    return stop.exit_code


@contextlib.contextmanager
def new_directory(name: str) -> Iterator[Path]:
    """Creates a new folder, as `folder.new_directory` does, and yields its path in all processes.

    With several processes, whose working folders may differ, the path is absolute.

    Raises:
      RunError: the folder cannot be created.
    """
    with contextlib.ExitStack() as stack:
        made: list[Path] = []

        def make() -> None:
            made.append(stack.enter_context(folder.new_directory(name, datetime.datetime.now())))

        distributed.by_first(make, RunError)
        if distributed.is_alone():
            yield made[0]
        else:
            yield Path(distributed.broadcast(str(made[0].absolute()) if made else ""))


def run_preemptible(
    party: Party, words: Sequence[str], note: Callable[[str], None], run: Callable[[Preemption], Found]
) -> Found | int:
    """Runs a training and returns its result; if it stops early, prints why and returns the exit code.

    Args:
      party: this process among those of the command.
      words: command line that continues from the last checkpoint, without the options of several hosts.
      note: function that prints a line; called from another thread.
      run: function that trains until it ends or is preempted.
    """
    command, again = party.command, party.again(words, "from the last checkpoint")

    def stopped(why: str, exit_code: int) -> int:
        print(f"{why}. {again}", file=sys.stderr)
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
            party.abandon(exit_code)
            return exit_code
        except loop.NotFiniteError as error:
            print(f"lanas {command}: {error}. Try a lower learning rate, in a new folder", file=sys.stderr)
        except loop.DamagedError as error:
            print(f"lanas {command}: {error}", file=sys.stderr)
        except OSError as error:
            if is_about_path(error):
                raise
            stopped(f"lanas {command}: {reason_of(error)}", 1)  # such as a full disk
            party.abandon(1)
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not (lost := party.loss_of(error)):
                raise
            stopped(lost, 1)
            party.abandon(1)
    return 1


def of_runtime(error: BaseException) -> bool:
    """Returns whether JAX's runtime raised the error; for a call that runs synchronously, it may be a ValueError."""
    return isinstance(error, jax.errors.JaxRuntimeError) or STATUS.match(str(error)) is not None
