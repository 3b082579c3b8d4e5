"""Several processes that train one network together, one on each host: how they meet, agree, and stop together.

Each runs the same program on the same arrays, spread over the devices of all (`lanas_jax.trainer.programs`). Process 0
alone writes and prints; what it decides by its clock or finds on its disk it tells to the others, since a process that
takes another branch leaves all others waiting. With a single process everything here is immediate.
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
    """Processes that do not find each other, or that were not started alike."""


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The processes of a training. None of it is needed where there is one.

    Args:
      coordinator: HOST:PORT of process 0, a free port there; needs count and index.
      count: number of processes.
      index: of this process, from 0.
      automatic: find these out: on TPU pods, and under Slurm and Open MPI.
      heartbeat_seconds: after which a process that is silent is given up, and the others end.

    Raises:
      ValueError: settings that do not go together.
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
        """Whether there is one process."""
        return not self.automatic and self.coordinator is None


def join_hosts(hosts: Hosts) -> None:
    """Meets the other processes. Call it before the first array is made.

    Raises:
      DistributedError: they do not come.
    """
    if hosts.alone:
        return
    try:
        jax.distributed.initialize(
            hosts.coordinator, hosts.count, hosts.index, heartbeat_timeout_seconds=hosts.heartbeat_seconds
        )
    except (RuntimeError, ValueError) as error:
        raise DistributedError(f"the processes of this training do not find each other: {error}") from error


def is_first_process() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def abandon(exit_code: int) -> None:
    """Ends a process of several whose others may be lost; leaving in order would wait for them. Alone, does nothing."""
    if jax.process_count() > 1:
        os._exit(exit_code)


def broadcast(value: Any) -> Any:
    """What process 0 passes: a value that JSON can hold. To be called by all, at the same points."""
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode() if is_first_process() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    buffer = np.zeros(size, np.uint8)
    buffer[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))))


def by_first(do: Callable[[], None], *expected: type[Exception]) -> None:
    """Process 0 does something while the others wait; where it raises what is expected, all of them do.

    Args:
      do: what; only process 0 calls it.
      expected: errors that take one message.
    """
    raised: Exception | None = None
    if is_first_process():
        try:
            do()
        except expected as error:
            raised = error
    names = [kind.__name__ for kind in expected]
    kind_and_text = broadcast(None if raised is None else [_kind(raised, expected), str(raised)])
    if raised is not None:
        raise raised
    if kind_and_text is not None:
        kind, text = kind_and_text
        raise expected[names.index(kind)](text)


def agree(what: str, value: Any) -> None:
    """Refuses processes that were not started alike.

    Args:
      what: is compared, in words.
      value: of this process; JSON can hold it.

    Raises:
      DistributedError: names the processes that have another value than process 0.
    """
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    words = multihost_utils.process_allgather(np.frombuffer(digest, np.uint32))
    if others := [str(i) for i, row in enumerate(np.asarray(words)) if (row != words[0]).any()]:
        raise DistributedError(
            f"process {', '.join(others)} of {jax.process_count()} has {what} other than process 0: "
            f"start all of them with the same command, on the same files"
        )


class Preemption:
    """Whether the machine is about to be taken away, of which SIGTERM tells; the same answer in all processes.

    Args:
      heard: whether this process has heard it; asked where it is the only one. Several are told of it by JAX, which
        finds the next point that none of them has passed (`multihost_utils.reached_preemption_sync_point`).
    """

    def __init__(self, heard: Callable[[], bool] = lambda: False):
        self._heard = heard
        self._asked = 0
        self.here = False

    def reached(self) -> bool:
        """Whether to stop here; to be asked by all processes at the same points. Once it is so, it stays so."""
        self._asked += 1
        several = jax.process_count() > 1
        self.here |= multihost_utils.reached_preemption_sync_point(self._asked) if several else self._heard()
        return self.here


def _kind(raised: Exception, expected: tuple[type[Exception], ...]) -> str:
    return next(kind.__name__ for kind in expected if isinstance(raised, kind))
