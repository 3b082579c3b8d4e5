"""The workers of a search: hired where nodes have room, given orders, missed when they are gone.

A worker is a Ray actor on a node that was chosen for it. It is new until it has introduced itself and built the
experiment, and then free or busy. What happens to workers becomes events; what follows from these for trials is
`dispatch`'s business. Nodes may join and leave at any time: every few seconds it is looked where there is room.
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
from lanas_jax.storage import software

STARTUP_CALLS = ("introduce", "build")  # what makes a new worker a ready one
LOOKING = 2.0  # seconds between two looks for nodes with room
MAX_FAILED_STARTS = 3  # workers of a node, one after the other, that were lost before they were ready: it gets no more
WAITING = 0.25  # seconds to wait for events at a time, so that Ctrl-C is heard


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A call of a worker's method.

    Attributes:
      method: of `Worker`.
      argument: its only argument, or None where it has none.
      since: when it was given, monotonic seconds.
    """

    method: str
    argument: Any
    since: float


@dataclasses.dataclass(eq=False)
class WorkerHandle:
    """A worker as the driver sees it.

    Attributes:
      actor: Ray's handle.
      node: where it is.
      name: host and process; empty before it has introduced itself.
      software: its versions.
      devices: it computes with; 0 before it has introduced itself.
      built: whether it has built the experiment.
      jobs: under way, by the reference of what they will return.
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
    """A worker has done a job."""

    hand: WorkerHandle
    job: Job
    said: Any  # what the method returned; an `Answer` to an `Order` of the same trials where that was ``evaluate``


@dataclasses.dataclass(frozen=True)
class Lost:
    """A worker is gone, or was sent away, and its jobs with it."""

    name: str
    jobs: Sequence[Job]
    why: str


@dataclasses.dataclass(frozen=True)
class Overdue:
    """An order took too long; its worker was ended."""

    name: str
    order: Order
    seconds: float


Event = Done | Lost | Overdue


class Workforce:
    """The workers of one search; a context manager that sends all away.

    Args:
      ray: connected.
      task: what workers evaluate.
      settings: what a worker is, and how many there may be.
      note: is told, a line each, of workers that come and go.
    """

    def __init__(self, ray: Any, task: ClusterTask, settings: ClusterSettings, note: Callable[[str], None]):
        self._ray, self._task, self._settings, self._note = ray, task, settings, note
        self._actor = ray.remote(Worker)
        self._hands: list[WorkerHandle] = []
        self._calls: dict[Any, tuple[WorkerHandle, Job]] = {}  # by reference
        self._refused: dict[str, str] = {}  # nodes whose workers cannot be used, and why
        self._stillborn: Counter[str] = Counter()  # workers in a row, by node, that were lost before they were ready
        self._looked = -LOOKING
        self._noted = ""

    def __enter__(self) -> "Workforce":
        return self

    def __exit__(self, *exception: object) -> None:
        for hand in self._hands:
            self._end(hand)
        self._hands.clear()

    @property
    def ready(self) -> list[WorkerHandle]:
        """Workers that have built the experiment."""
        return [hand for hand in self._hands if hand.built]

    @property
    def free(self) -> list[WorkerHandle]:
        """Those that take a further order, the least busy first."""
        able = [hand for hand in self.ready if len(hand.jobs) < self._settings.calls]
        return sorted(able, key=lambda hand: len(hand.jobs))

    def give(self, hand: WorkerHandle, method: str, argument: Any = None) -> Job:
        """Hands a job to a worker."""
        call = getattr(hand.actor, method).remote
        job = Job(method, argument, time.monotonic())
        reference = call() if argument is None else call(argument)
        hand.jobs[reference] = job
        self._calls[reference] = (hand, job)
        return job

    def all_done(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        """Has workers do jobs, one each at a time, while nothing else is under way; one that is lost is done again.

        Returns:
          What the method returned, in the order of its arguments.

        Raises:
          ClusterError: no worker can be had, or a job was lost with its worker too often.
          Exception: what the method raised.
        """
        waiting, under_way, found = deque(range(len(arguments))), dict[Job, int](), dict[int, Any]()
        tries: Counter[int] = Counter()
        while len(found) < len(arguments):
            idle = [hand for hand in self.ready if not hand.jobs]
            for hand in idle[: len(waiting)]:
                number = waiting.popleft()
                under_way[self.give(hand, method, arguments[number])] = number
                tries[number] += 1
            for event in self.events():
                if isinstance(event, Done):
                    found[under_way.pop(event.job)] = event.said
                elif isinstance(event, Lost):
                    lost = [under_way.pop(job) for job in event.jobs if job in under_way]
                    if any(tries[number] >= self._settings.tries for number in lost):
                        raise ClusterError(f"{method} lost its worker {self._settings.tries} times: {event.why}")
                    waiting.extendleft(lost)
        return [found[number] for number in range(len(arguments))]

    def events(self) -> Iterator[Event]:
        """What has happened; waits a moment where nothing has.

        Raises:
          ClusterError: no worker can be had: the workers of every node that has room were refused.
        """
        self._hire()
        for reference in self._finished():
            yield from self._taken(reference)
        yield from self._overdue()

    def dismiss(self, hand: WorkerHandle, why: str, *, refuse: bool = False) -> Lost:
        """Ends a worker; with `refuse`, its node gets no others."""
        self._hands.remove(hand)
        self._calls = {reference: call for reference, call in self._calls.items() if call[0] is not hand}
        self._end(hand)
        if refuse and hand.node.id not in self._refused:
            self._refused[hand.node.id] = why
            self._note(f"no workers on {hand.node.name}: {why}")
        own = [job for job in hand.jobs.values() if job.method not in STARTUP_CALLS]
        return Lost(hand.name or hand.node.name, own, why)

    def _end(self, hand: WorkerHandle) -> None:
        try:
            self._ray.kill(hand.actor)
        except Exception:  # it is gone, or Ray is
            return

    def _hire(self) -> None:
        """Starts workers where there is room, at most as many as were asked for."""
        if time.monotonic() - self._looked < LOOKING:
            return
        self._looked = time.monotonic()
        found = nodes.alive(self._ray.nodes())
        kind = nodes.device(found, self._settings)
        here = Counter(hand.node.id for hand in self._hands)
        for node in found:
            if node.id in self._refused:
                continue
            needed = nodes.need(node, kind, self._settings)
            for _ in range(nodes.room(node, needed) - here[node.id]):
                if len(self._hands) == self._settings.workers:
                    return
                self._start(node, needed)
        if not self._hands:
            self._say_why(found, kind)

    def _say_why(self, found: Sequence[ClusterNode], kind: str) -> None:
        """No worker can be had now: an error where that will not change, else a line, once."""
        refused = [self._refused[node.id] for node in found if node.id in self._refused]
        if refused:
            raise ClusterError(f"no worker can be used: {'; '.join(dict.fromkeys(refused))}")
        cores = f"{self._settings.cores:g} free cores"
        wanted = {"cpu": cores, "gpu": "a GPU", "tpu": "TPU chips"}[kind]
        text = f"none of {len(found)} nodes has {wanted}: waiting for one that does"
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
        hand = WorkerHandle(actor, node)
        self._hands.append(hand)
        self.give(hand, "introduce")

    def _finished(self) -> list[Any]:
        """References of calls that are over."""
        if not self._calls:
            time.sleep(WAITING)
            return []
        references = list(self._calls)
        done, waiting = self._ray.wait(references, num_returns=1, timeout=WAITING)
        if done and waiting:
            done += self._ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        return list(done)

    def _taken(self, reference: Any) -> Iterator[Event]:
        """What a call that is over means."""
        if reference not in self._calls:  # of a worker that was dismissed meanwhile
            return
        hand, job = self._calls.pop(reference)
        try:
            said = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, NotPreparedError) or job.method not in (*STARTUP_CALLS, "evaluate"):
                raise cause from error
            yield self.dismiss(hand, f"{type(cause).__name__}: {cause}", refuse=True)
            return
        except Exception as error:  # it died, its node is gone, or what it said cannot be read
            if not hand.built:
                self._stillborn[hand.node.id] += 1
            yield self.dismiss(hand, _first_line(error), refuse=self._stillborn[hand.node.id] >= MAX_FAILED_STARTS)
            return
        if (wrong := self._wrong(job, said)) is not None:
            yield self.dismiss(hand, wrong, refuse=True)
            return
        del hand.jobs[reference]
        if job.method in STARTUP_CALLS:
            self._grown(hand, job.method, said)
        else:
            yield Done(hand, job, said)

    def _wrong(self, job: Job, said: Any) -> str | None:
        """Why what a worker said cannot be used, if it cannot."""
        if job.method == "introduce":
            if not isinstance(said, Hello):
                return f"it introduced itself as {said!r:.80}"
            if said.fingerprint != self._task.fingerprint:
                changed = software.differences(said.software) or "the same packages, other source files or settings"
                return f"other code than the driver's: {changed}"
        if job.method == "evaluate" and not _answers(said, job.argument, self._task.fingerprint):
            return f"no answer to what it was asked: {said!r:.80}"
        return None

    def _grown(self, hand: WorkerHandle, method: str, said: Any) -> None:
        """A worker has introduced itself, or is ready."""
        if method == "introduce":
            hand.name, hand.software, hand.devices = said.name, said.software, said.devices
            self.give(hand, "build")
            return
        hand.built = True
        self._stillborn.pop(hand.node.id, None)
        self._note(f"worker {hand.name} is ready, {len(self.ready)} of {len(self._hands)}")

    def _overdue(self) -> Iterator[Event]:
        limit = self._settings.seconds
        if limit is None:
            return
        now = time.monotonic()
        for hand in list(self._hands):
            late = [job for job in hand.jobs.values() if job.method == "evaluate" and now - job.since > limit]
            if not late:
                continue
            lost = self.dismiss(hand, "it was ended for a trial past its time limit")
            for job in late:
                yield Overdue(lost.name, job.argument, now - job.since)
            yield dataclasses.replace(lost, jobs=[job for job in lost.jobs if job not in late])


def _answers(said: Any, order: Order, fingerprint: str) -> bool:
    """Whether a worker gave what it was asked for, by the driver's code."""
    if not isinstance(said, Answer) or (said.fingerprint, said.ids) != (fingerprint, order.ids):
        return False
    whole = len(said.outcomes) == len(order.ids)
    return whole and all(isinstance(one, Raised) or _is_outcome(one) for one in said.outcomes)


def _is_outcome(one: Any) -> bool:
    return isinstance(one, Outcome) and (one.value is None or isinstance(one.value, int | float))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
