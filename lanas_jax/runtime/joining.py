"""How the processes of several hosts connect: their settings on the command line, and the start of JAX's coordination.

`lanas_jax.runtime.distributed` has the messages between connected processes.
"""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import jax

from lanas_jax.runtime.distributed import POLL_SECONDS, DistributedError


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The processes of a multi-host training. A single process needs none of these settings.

    Args:
      coordinator: address HOST:PORT of process 0, with a free port; needs count and index.
      count: number of processes.
      index: index of this process, from 0.
      automatic: automatic detection of the other settings, on TPU pods and under Slurm and Open MPI.
      heartbeat_seconds: seconds without a heartbeat until a process counts as lost and the others stop.
      join_seconds: seconds to wait at the start until all processes have connected.

    Raises:
      ValueError: the settings contradict each other or are out of range.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    automatic: bool = False
    heartbeat_seconds: int = 50
    join_seconds: int = 50

    def __post_init__(self) -> None:
        given = [name for name in ("coordinator", "count", "index") if getattr(self, name) is not None]
        if given and (self.automatic or len(given) < 3):
            raise ValueError(
                f"hosts: give coordinator, count and index together, or automatic alone; got {', '.join(given)}"
                + (" and automatic" if self.automatic else "")
            )
        if self.coordinator is not None and not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"hosts: coordinator must be HOST:PORT; got {self.coordinator!r}")
        if self.count is not None and self.index is not None and not 0 <= self.index < self.count:
            raise ValueError(f"hosts: index must be 0 to count - 1, {self.count - 1}; got {self.index}")
        for name in ("heartbeat_seconds", "join_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"hosts: {name} must be at least 1; got {getattr(self, name)}")

    @property
    def alone(self) -> bool:
        """True if this is the only process."""
        return not self.automatic and self.coordinator is None

    @property
    def options(self) -> Sequence[str]:
        """The words of a command line that give these settings."""
        words = ["--hosts.automatic"] if self.automatic else []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "automatic" and value != field.default:
                words += [f"--hosts.{field.name.replace('_', '-')}", str(value)]
        return words


def join_hosts(hosts: Hosts, give_up: Callable[[str], None]) -> None:
    """Connects to the other processes. Must be called before the first array is created.

    Args:
      hosts: settings of this process.
      give_up: function that reports why the processes did not connect in time and ends this process at once; called
        from another thread, since JAX itself would abort the process with a stack trace.

    Raises:
      DistributedError: the processes cannot connect.
    """
    if hosts.alone:
        return
    if hosts.coordinator is not None and hosts.index:
        _wait_for_coordinator(hosts.coordinator, hosts.join_seconds)
    others = "all processes" if hosts.count is None else f"all {hosts.count} processes"
    late = (
        f"{others} did not connect within {hosts.join_seconds} s: start the same command on every host, or wait "
        f"longer with --hosts.join-seconds"
    )
    try:
        with _limited(hosts.join_seconds, lambda: give_up(late)):
            jax.distributed.initialize(
                hosts.coordinator,
                hosts.count,
                hosts.index,
                initialization_timeout=2 * hosts.join_seconds + 60,  # `late` comes first
                heartbeat_timeout_seconds=hosts.heartbeat_seconds,
                shutdown_timeout_seconds=hosts.heartbeat_seconds,
            )
    except (RuntimeError, ValueError) as error:
        raise DistributedError(f"the processes could not connect: {error}") from error


def open_devices(seconds: int, give_up: Callable[[str], None]) -> None:
    """Opens the devices of a process that joins no other; must be called before the first array is created.

    On a TPU slice of several hosts, JAX waits until it has started on all of them.

    Args:
      seconds: maximum time to wait.
      give_up: function that reports why the devices did not open in time and ends this process at once; called from
        another thread.
    """
    late = (
        f"JAX did not open its devices within {seconds} s: on a TPU slice of several hosts, give --hosts.automatic on "
        f"every host, or --one-host on one; otherwise, wait longer with --hosts.join-seconds"
    )
    with _limited(seconds, lambda: give_up(late)):
        jax.devices()


@contextlib.contextmanager
def _limited(seconds: float, late: Callable[[], None]) -> Iterator[None]:
    """Calls a function in another thread if the block takes longer than some seconds."""
    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _wait_for_coordinator(address: str, seconds: float) -> None:
    """Waits until process 0 listens at its address.

    Raises:
      DistributedError: nothing listens there in time.
    """
    host, _, port = address.rpartition(":")
    until = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=POLL_SECONDS):
                return
        except OSError as error:
            if time.monotonic() > until:
                raise DistributedError(
                    f"process 0 does not answer at {address} ({error}): start it with the same command, and check "
                    f"address and firewall"
                ) from error
        time.sleep(0.1)
