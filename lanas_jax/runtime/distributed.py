"""Multi-host training, with one process per host: connecting, comparing settings, broadcasting, and stopping together.

Every process runs the same program on the same arrays, sharded over the devices of all processes
(`lanas_jax.trainer.programs`). Only process 0 writes and prints. Decisions that depend on its clock or its disk are
broadcast to the other processes, since a process that takes another branch would leave the others waiting. With a
single process, all functions return immediately.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class DistributedError(Exception):
    """Processes could not connect, or were started with different settings."""


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The processes of a multi-host training. A single process needs none of these settings.

    Args:
      coordinator: address HOST:PORT of process 0, with a free port; needs count and index.
      count: number of processes.
      index: index of this process, from 0.
      automatic: automatic detection of the other settings, on TPU pods and under Slurm and Open MPI.
      heartbeat_seconds: seconds without a heartbeat until a process counts as lost and the others stop.

    Raises:
      ValueError: the settings contradict each other or are out of range.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    automatic: bool = False
    heartbeat_seconds: int = 100

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
        if self.heartbeat_seconds < 1:
            raise ValueError(f"hosts: heartbeat_seconds must be at least 1; got {self.heartbeat_seconds}")

    @property
    def alone(self) -> bool:
        """True if this is the only process."""
        return not self.automatic and self.coordinator is None


def join_hosts(hosts: Hosts) -> None:
    """Connects to the other processes. Must be called before the first array is created.

    Raises:
      DistributedError: the processes cannot connect.
    """
    if hosts.alone:
        return
    try:
        jax.distributed.initialize(
            hosts.coordinator, hosts.count, hosts.index, heartbeat_timeout_seconds=hosts.heartbeat_seconds
        )
    except (RuntimeError, ValueError) as error:
        raise DistributedError(f"the processes of this training could not connect: {error}") from error


def is_first_process() -> bool:
    """Returns whether this is process 0, which writes and prints."""
    return jax.process_index() == 0


def abandon(exit_code: int) -> None:
    """Exits a multi-host process at once, without waiting for other processes, which may be lost.

    A single process returns and can exit normally.
    """
    if jax.process_count() > 1:
        os._exit(exit_code)


def broadcast(value: Any) -> Any:
    """Returns process 0's value, which must be JSON-serializable. All processes must call it at the same point."""
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode() if is_first_process() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    buffer = np.zeros(size, np.uint8)
    buffer[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))))


def by_first(do: Callable[[], None], *expected: type[Exception]) -> None:
    """Calls a function in process 0 while the others wait. If it raises an expected error, all processes raise it.

    Args:
      do: function to call, only in process 0.
      expected: types of the errors to raise in all processes; their constructors take one message.
    """
    raised: Exception | None = None
    if is_first_process():
        try:
            do()
        except expected as error:
            raised = error
    which = [isinstance(raised, kind) for kind in expected]
    found = broadcast(None if raised is None else [which.index(True), str(raised)])
    if raised is not None:
        raise raised
    if found is not None:
        number, text = found
        raise expected[number](text)


def agree(what: str, value: Any) -> None:
    """Checks that all processes have the same value.

    Args:
      what: description of the value, for the error message.
      value: value of this process; must be JSON-serializable.

    Raises:
      DistributedError: some values differ; the message names the processes that differ from process 0.
    """
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    words = multihost_utils.process_allgather(np.frombuffer(digest, np.uint32))
    if others := [str(i) for i, row in enumerate(np.asarray(words)) if (row != words[0]).any()]:
        raise DistributedError(
            f"process {', '.join(others)} of {jax.process_count()} differs from process 0 in {what}: "
            f"start all processes with the same command, on the same files"
        )


class Preemption:
    """The preemption of a training, signalled by SIGTERM; all processes get the same answer.

    Args:
      heard: function that returns whether this process received SIGTERM; used by a single process. With several
        processes, JAX detects SIGTERM and finds the next step that none of them has passed
        (`multihost_utils.reached_preemption_sync_point`).
    """

    def __init__(self, heard: Callable[[], bool] = lambda: False):
        self._heard = heard
        self._asked = 0
        self.here = False

    def reached(self) -> bool:
        """Returns whether to stop now. All processes must call it at the same points. Once True, it stays True."""
        self._asked += 1
        several = jax.process_count() > 1
        self.here |= multihost_utils.reached_preemption_sync_point(self._asked) if several else self._heard()
        return self.here
