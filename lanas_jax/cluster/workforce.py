"""The workers of a search: starts them on nodes with room, calls them, and notices when they are lost.

A worker is a Ray actor on a chosen node. It is ready once it has introduced itself and built the experiment. Whatever
happens to workers becomes an event; `dispatch` decides what an event means for trials. Nodes may join and leave at any
time, so the nodes are checked for room every few seconds.
"""

import dataclasses
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lanas_jax.cluster import nodes
from lanas_jax.cluster.connection import ClusterError
from lanas_jax.cluster.nodes import ClusterNode
from lanas_jax.cluster.settings import ClusterSettings
from lanas_jax.cluster.task import ClusterTask
from lanas_jax.cluster.worker import Answer, Hello, Order, Raised, Worker
from lanas_jax.evaluators.base import NotPreparedError, Outcome
from lanas_jax.evaluators.faults import BrokenEvaluatorError, EvaluatorExitError
from lanas_jax.storage import software

STARTUP_CALLS = ("introduce", "build")  # the calls that make a new worker ready
LOOKING = 2.0  # seconds between two checks for nodes with room
MAX_FAILED_STARTS = 3  # consecutive workers of a node lost before they were ready, after which it gets none
WAITING = 0.25  # maximum seconds of one wait for events, so that Ctrl-C is handled


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A call of a worker's method.

    Attributes:
      method: name of the method of `Worker`.
      argument: only argument of the method; None if it takes none.
      since: start of the call, monotonic seconds.
    """

    method: str
    argument: Any
    since: float


@dataclasses.dataclass(eq=False)
class WorkerHandle:
    """The driver's view of a worker.

    Attributes:
      actor: Ray actor handle.
      node: node of the worker.
      name: host and process id; empty until the worker has introduced itself.
      software: software versions of the worker.
      devices: number of JAX devices; 0 until the worker has introduced itself.
      built: True once the experiment is built.
      jobs: running calls, by the Ray reference of their result.
    """

    actor: Any
    node: ClusterNode
    name: str = ""
    software: dict[str, str] = dataclasses.field(default_factory=dict)
    devices: int = 0
    built: bool = False
    jobs: dict[Any, Job] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Done:
    """A worker finished a call."""

    handle: WorkerHandle
    job: Job
    said: Any  # result of the method; for ``evaluate`` an `Answer` with the trials of the `Order`


@dataclasses.dataclass(frozen=True)
class Lost:
    """A worker was lost or dismissed, together with its calls."""

    name: str
    jobs: Sequence[Job]
    why: str


@dataclasses.dataclass(frozen=True)
class Overdue:
    """An order exceeded its time limit; its worker was stopped."""

    name: str
    order: Order
    seconds: float


Event = Done | Lost | Overdue


class Workforce:
    """The workers of one search; a context manager that stops all of them at the end.

    Args:
      ray: connected Ray module.
      task: experiment that the workers evaluate.
      settings: resources, limits and maximum number of the workers.
      note: function that prints a line, called when workers join and leave.
    """

    def __init__(self, ray: Any, task: ClusterTask, settings: ClusterSettings, note: Callable[[str], None]):
        self._ray, self._task, self._settings, self._note = ray, task, settings, note
        self._actor = ray.remote(Worker)
        self._handles: list[WorkerHandle] = []
        self._calls: dict[Any, tuple[WorkerHandle, Job]] = {}  # by reference
        self._refused: dict[str, str] = {}  # node -> reason why its workers cannot be used
        self._failed_starts: Counter[str] = Counter()  # consecutive workers lost before they were ready, by node
        self._looked = -LOOKING
        self._noted = ""

    def __enter__(self) -> "Workforce":
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            self._end(handle)
        self._handles.clear()

    @property
    def ready(self) -> list[WorkerHandle]:
        """Workers that have built the experiment."""
        return [handle for handle in self._handles if handle.built]

    @property
    def free(self) -> list[WorkerHandle]:
        """Workers that can take another call, least busy first."""
        able = [handle for handle in self.ready if len(handle.jobs) < self._settings.calls]
        return sorted(able, key=lambda handle: len(handle.jobs))

    def give(self, handle: WorkerHandle, method: str, argument: Any = None) -> Job:
        """Starts a call of a worker's method."""
        call = getattr(handle.actor, method).remote
        job = Job(method, argument, time.monotonic())
        reference = call() if argument is None else call(argument)
        handle.jobs[reference] = job
        self._calls[reference] = (handle, job)
        return job

    def all_done(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        """Calls a method once per argument on idle workers, one call per worker at a time; repeats lost calls.

        Returns:
          The results of the method, in the order of the arguments.

        Raises:
          ClusterError: no worker is available, or a call lost its worker too often.
          Exception: the exception of the method.
        """
        waiting, under_way, found = deque(range(len(arguments))), dict[Job, int](), dict[int, Any]()
        tries: Counter[int] = Counter()
        while len(found) < len(arguments):
            idle = [handle for handle in self.ready if not handle.jobs]
            for handle in idle[: len(waiting)]:
                number = waiting.popleft()
                under_way[self.give(handle, method, arguments[number])] = number
                tries[number] += 1
            for event in self.events():
                if isinstance(event, Done):
                    found[under_way.pop(event.job)] = event.said
                elif isinstance(event, Lost):
                    lost = [under_way.pop(job) for job in event.jobs if job in under_way]
                    if any(tries[number] >= self._settings.tries for number in lost):
                        raise ClusterError(
                            f"{method} lost its worker {self._settings.tries} times, the last time: {event.why}"
                        )
                    waiting.extendleft(lost)
        return [found[number] for number in range(len(arguments))]

    def events(self) -> Iterator[Event]:
        """Yields new events; waits briefly if there are none.

        Raises:
          ClusterError: no worker is available, because the workers of every node with room were refused.
        """
        self._hire()
        for reference in self._finished():
            yield from self._taken(reference)
        yield from self._overdue()

    def dismiss(self, handle: WorkerHandle, why: str, *, refuse: bool = False) -> Lost:
        """Stops a worker; with `refuse`, its node gets no more workers."""
        self._handles.remove(handle)
        self._calls = {reference: call for reference, call in self._calls.items() if call[0] is not handle}
        self._end(handle)
        if refuse and handle.node.id not in self._refused:
            self._refused[handle.node.id] = why
            self._note(f"no workers on {handle.node.name}: {why}")
        own = [job for job in handle.jobs.values() if job.method not in STARTUP_CALLS]
        return Lost(handle.name or handle.node.name, own, why)

    def _end(self, handle: WorkerHandle) -> None:
        try:
            self._ray.kill(handle.actor)
        except Exception:  # the actor or Ray is already gone
            return

    def _hire(self) -> None:
        """Starts workers on nodes with room, up to the maximum number."""
        if time.monotonic() - self._looked < LOOKING:
            return
        self._looked = time.monotonic()
        found = nodes.alive(self._ray.nodes())
        kind = nodes.device(found, self._settings)
        here = Counter(handle.node.id for handle in self._handles)
        for node in found:
            if node.id in self._refused:
                continue
            needed = nodes.need(node, kind, self._settings)
            for _ in range(nodes.room(node, needed) - here[node.id]):
                if len(self._handles) == self._settings.workers:
                    return
                self._start(node, needed)
        if not self._handles:
            self._say_why(found, kind)

    def _say_why(self, found: Sequence[ClusterNode], kind: str) -> None:
        """Handles the absence of workers: raises if nodes were refused, otherwise prints a message once."""
        refused = [self._refused[node.id] for node in found if node.id in self._refused]
        if refused:
            raise ClusterError(f"no worker can be used: {'; '.join(dict.fromkeys(refused))}")
        cores = f"{self._settings.cores:g} free cores"
        wanted = {"cpu": cores, "gpu": "a GPU", "tpu": "TPU chips"}[kind]
        text = f"none of {len(found)} nodes has {wanted}; waiting for one that does"
        if text != self._noted:
            self._note(text)
        self._noted = text

    def _start(self, node: ClusterNode, needed: dict[str, float]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        accelerators = {name: amount for name, amount in needed.items() if name not in ("CPU", "GPU")}
        actor = self._actor.options(
            num_cpus=needed.get("CPU", 0.0),
            num_gpus=needed.get("GPU", 0.0),
            resources=accelerators,
            max_restarts=0,
            max_concurrency=self._settings.calls,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        ).remote(self._task, self._settings.cores)
        handle = WorkerHandle(actor, node)
        self._handles.append(handle)
        self.give(handle, "introduce")

    def _finished(self) -> list[Any]:
        """Returns the references of finished calls."""
        if not self._calls:
            time.sleep(WAITING)
            return []
        references = list(self._calls)
        done, waiting = self._ray.wait(references, num_returns=1, timeout=WAITING)
        if done and waiting:
            done += self._ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        return list(done)

    def _taken(self, reference: Any) -> Iterator[Event]:
        """Yields the events that follow from a finished call."""
        if reference not in self._calls:  # its worker was dismissed meanwhile
            return
        handle, job = self._calls.pop(reference)
        try:
            said = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            stops = NotPreparedError | BrokenEvaluatorError | EvaluatorExitError
            if isinstance(cause, stops) or job.method not in (
                *STARTUP_CALLS,
                "evaluate",
            ):
                raise cause from error
            yield self.dismiss(handle, f"{type(cause).__name__}: {cause}", refuse=True)
            return
        except Exception as error:  # the worker died, its node is gone, or its answer cannot be unpickled
            if not handle.built:
                self._failed_starts[handle.node.id] += 1
            yield self.dismiss(
                handle, _first_line(error), refuse=self._failed_starts[handle.node.id] >= MAX_FAILED_STARTS
            )
            return
        if (wrong := self._wrong(job, said)) is not None:
            yield self.dismiss(handle, wrong, refuse=True)
            return
        del handle.jobs[reference]
        if job.method in STARTUP_CALLS:
            self._grown(handle, job.method, said)
        else:
            yield Done(handle, job, said)

    def _wrong(self, job: Job, said: Any) -> str | None:
        """Returns why the result of a call cannot be used; None if it can."""
        if job.method == "introduce":
            if not isinstance(said, Hello):
                return f"unexpected answer to introduce: {said!r:.80}"
            if said.fingerprint != self._task.fingerprint:
                changed = software.differences(said.software) or "same packages, different source files or settings"
                return f"its code differs from the driver's: {changed}"
        if job.method == "evaluate" and not _answers(said, job.argument, self._task.fingerprint):
            return f"unexpected answer to evaluate: {said!r:.80}"
        return None

    def _grown(self, handle: WorkerHandle, method: str, said: Any) -> None:
        """Updates a worker that has introduced itself or built the experiment."""
        if method == "introduce":
            handle.name, handle.software, handle.devices = said.name, said.software, said.devices
            self.give(handle, "build")
            return
        handle.built = True
        self._failed_starts.pop(handle.node.id, None)
        self._note(f"worker {handle.name} is ready, {len(self.ready)} of {len(self._handles)}")

    def _overdue(self) -> Iterator[Event]:
        limit = self._settings.seconds
        if limit is None:
            return
        now = time.monotonic()
        for handle in list(self._handles):
            late = [job for job in handle.jobs.values() if job.method == "evaluate" and now - job.since > limit]
            if not late:
                continue
            lost = self.dismiss(handle, "stopped because a trial exceeded its time limit")
            for job in late:
                yield Overdue(lost.name, job.argument, now - job.since)
            yield dataclasses.replace(lost, jobs=[job for job in lost.jobs if job not in late])


def _answers(said: Any, order: Order, fingerprint: str) -> bool:
    """Returns whether a worker's result answers the order and comes from the driver's code."""
    if not isinstance(said, Answer) or (said.fingerprint, said.ids) != (fingerprint, order.ids):
        return False
    whole = len(said.outcomes) == len(order.ids)
    return whole and all(isinstance(one, Raised) or _is_outcome(one) for one in said.outcomes)


def _is_outcome(one: Any) -> bool:
    return isinstance(one, Outcome) and (one.value is None or isinstance(one.value, int | float))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
