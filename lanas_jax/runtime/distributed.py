"""Several hosts, one process each: broadcasting, comparing settings, failing and stopping together.

Every process runs the same programs in the same order, on arrays sharded over the devices of all processes
(`lanas_jax.runtime.global_arrays`). Only process 0 writes and prints. Decisions that depend on its clock or its disk
are broadcast to the other processes, since a process that takes another branch would leave the others waiting. With a
single process, all functions return immediately. `lanas_jax.runtime.joining` connects the processes.

Messages go through the key-value store of JAX's coordination service, which process 0 runs. They need no program on the
devices, whose collectives wait for a lost process without end. A process that waits for a message polls, so that Ctrl-C
takes effect.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from lanas_jax.runtime.errors import explain_error

POLL_SECONDS = 1.0  # maximum duration of one wait for a message
TIMED_OUT = "DEADLINE_EXCEEDED"  # status code of a wait without a message
PATIENCE_SECONDS = 20.0  # time in which the other processes follow when one of them fails
FAILED = "lanas/failed"  # folder of the announcements of failure
APPEAR_SECONDS = 5.0  # time in which a new file appears on a shared file system
STORED = 512  # number of messages after which old ones are deleted from the coordination service

Found = TypeVar("Found")


class DistributedError(Exception):
    """Processes could not connect, were started with different settings, or did not do the same."""


def is_alone() -> bool:
    """Returns whether there are no other processes, without opening devices unless this process has joined others."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


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
    if is_alone():
        return value
    number = _number()
    if not is_first_process():
        return json.loads(receive_message(_key("broadcast", number)))
    send_message(_key("broadcast", number), json.dumps(value))
    return value


def exchange(value: Any) -> list[Any]:
    """Returns the values of all processes in order. All processes must call it at the same point.

    Args:
      value: value of this process; must be JSON-serializable.
    """
    if is_alone():
        return [value]
    return _exchange(_number(), value)


def send_message(key: str, text: str) -> None:
    """Publishes a message under a key that was not used before; any process can receive it."""
    _client().key_value_set_bytes(key, text.encode())


def receive_message(key: str, seconds: float | None = None) -> str:
    """Returns the message of a key; waits until there is one.

    Args:
      key: key of the message.
      seconds: maximum time to wait; None: no limit.

    Raises:
      TimeoutError: there is no message in that time.
      DistributedError: there is no message, and another process has announced its failure.
    """
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        try:
            found: bytes = _client().blocking_key_value_get_bytes(key, int(1000 * POLL_SECONDS))
            return found.decode()
        except jax.errors.JaxRuntimeError as error:
            if TIMED_OUT not in str(error):
                raise
        if until is not None and time.monotonic() > until:
            raise TimeoutError(f"no message {key} within {seconds:g} s")
        for other, text in _client().key_value_dir_get(FAILED):
            raise DistributedError(f"process {other.rpartition('/')[2]} of {jax.process_count()}: {text}")


def announce_failure(text: str) -> None:
    """Tells the other processes that this one ends with an error, so that none waits for its messages."""
    if not is_alone():
        _client().key_value_set(f"{FAILED}/{jax.process_index()}", text, allow_overwrite=True)


def delete_messages(keys: Sequence[str]) -> None:
    """Deletes messages that all processes have received."""
    for key in keys:
        _client().key_value_delete(key)


def _client() -> Any:
    from orbax.checkpoint import multihost  # where JAX has no public name; imported late, since it takes a second

    return multihost.get_jax_distributed_client()


def _key(*parts: object) -> str:
    return "/".join(map(str, ("lanas", *parts)))


def _exchange(number: int, value: Any) -> list[Any]:
    send_message(_key("exchange", number, jax.process_index()), json.dumps(value))
    return [json.loads(receive_message(_key("exchange", number, i))) for i in range(jax.process_count())]


def _number() -> int:
    """Returns the number of the next message, and sometimes deletes old messages, which all processes have read.

    All processes call the same functions in the same order, so their numbers are the same.
    """
    if (number := next(_numbers())) % STORED == STORED - 1:
        _exchange(number, None)
        if is_first_process():
            delete_messages(
                [_key(kind, old) for kind in ("broadcast", "exchange") for old in range(number - STORED, number)]
            )
        number = next(_numbers())
    return number


@functools.cache
def _numbers() -> Iterator[int]:
    return itertools.count()


def by_first(do: Callable[[], object], *expected: type[Exception]) -> None:
    """Calls a function in process 0 while the others wait. If it raises an expected error, all processes raise it.

    Args:
      do: function to call, only in process 0.
      expected: types of the errors to raise in all processes; their constructors take one message.
    """
    if is_alone():
        do()
        return
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


def together(do: Callable[[], Found], *expected: type[BaseException]) -> Found:
    """Calls a function in every process. If it raises an expected error in one of them, all raise an error.

    Raises:
      DistributedError: the function raised only in other processes; the message names the first one.
    """
    raised: BaseException | None = None
    try:
        found = do()
    except expected as error:
        if is_alone():
            raise
        raised = error
    said = explain_error(raised) if isinstance(raised, SystemExit) else str(raised) or type(raised).__name__
    texts = exchange(None if raised is None else said)
    if raised is not None:
        raise raised
    for i, text in enumerate(texts):
        if text is not None:
            raise DistributedError(f"process {i} of {len(texts)}: {text}")
    return found


def check_shared(directory: Path) -> None:
    """Checks that all processes see the folder of process 0, which is created for the check if it is missing.

    Raises:
      DistributedError: some processes do not see it; the message names them.
      OSError: process 0 cannot write to it; raised in all processes.
    """
    if is_alone():
        return
    mark = directory / broadcast(f".lanas-{os.urandom(8).hex()}")
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]

    def write() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        mark.touch()

    by_first(write, OSError)
    blind = [str(i) for i, seen in enumerate(exchange(_appears(mark))) if not seen]
    if is_first_process():
        mark.unlink()
        with contextlib.suppress(OSError):  # not empty, as another search created it too
            for folder in missing:
                folder.rmdir()
    if blind:
        raise DistributedError(
            f"process {', '.join(blind)} of {jax.process_count()} does not see the files of process 0 in {directory}: "
            f"choose a folder on a file system that all hosts share, at the same path"
        )


def _appears(path: Path) -> bool:
    """Returns whether a file is there within `APPEAR_SECONDS`: a network file system may show it late."""
    until = time.monotonic() + APPEAR_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def agree(what: str, value: Any) -> None:
    """Checks that all processes have the same value.

    Args:
      what: description of the value, for the error message.
      value: value of this process; must be JSON-serializable.

    Raises:
      DistributedError: some values differ; the message names the processes that differ from process 0.
    """
    agree_on({what: value})


def agree_on(values: Mapping[str, Any]) -> None:
    """Checks that all processes have the same values, given by their descriptions; as `agree`, in one exchange."""
    if is_alone():
        return
    digests = {
        what: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest() for what, value in values.items()
    }
    found = exchange(digests)
    others = [str(i) for i, one in enumerate(found) if one != found[0]]
    if others:
        differing = [what for what in digests if any(one.get(what) != found[0].get(what) for one in found)]
        where = " and in ".join(differing) or "its command"
        raise DistributedError(
            f"process {', '.join(others)} of {len(found)} differs from process 0 in {where}: "
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
