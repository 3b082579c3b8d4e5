"""A study on several hosts as one: process 0 owns the searcher and the trial store, and all processes evaluate.

Process 0 runs the loop of `lanas_jax.study.loop` with the workers `AllHosts`. Before it calls the evaluator or trains
the winner, it sends an order with the arguments, codes and keys included. The other processes `follow`: they receive
the orders and make the same calls, so that all processes run the same programs on all devices in the same order.

The processes answer each order. A call that fails in every process is an ordinary error, such as a trial that failed.
If it fails only in some of them, the others may wait in a program that will never run. Then the search ends, and
resuming continues it.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.evaluators.base import Evaluator, Outcome, Prepared, declared_outcomes
from lanas_jax.evaluators.faults import describe_error
from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import PATIENCE_SECONDS, DistributedError
from lanas_jax.runtime.errors import STOPS
from lanas_jax.study.experiment import Experiment, StudyProgress
from lanas_jax.study.loop import ThisProcess
from lanas_jax.study.replay import SearchLog, hexadecimal, keys_of_words
from lanas_jax.study.run_folder import Run
from lanas_jax.trainer.loop import SilentTraining, TrainingProgress

STOP = "stop"
Found = TypeVar("Found")
Orders = Mapping[str, Callable[..., Any]]  # functions by the name of their order; the arguments are plain data


@dataclasses.dataclass(frozen=True)
class Stop:
    """The end of the orders.

    Attributes:
      exit_code: exit code of process 0.
      reason: reason of an early end; empty if the command has done its work.
      abandon: True if process 0 ends without waiting for the others.
    """

    exit_code: int = 0
    reason: str = ""
    abandon: bool = False


class Lead:
    """Sends the orders of process 0. With a single process, it makes the calls and sends nothing."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def call(self, name: str, arguments: Mapping[str, Any], do: Callable[[], Found]) -> Found:
        """Orders a call from all other processes, makes it in this one, and returns its result here.

        Args:
          name: name of the order.
          arguments: arguments of the call in the other processes; must be JSON-serializable.
          do: function that makes the call in this process.

        Raises:
          DistributedError: the call failed in some processes and not in others.
          Exception: the error of the call, if it failed in all processes.
        """
        if jax.process_count() == 1:
            return do()
        number, raised = next(self._numbers), None
        distributed.send_message(_key("order", number), json.dumps({"name": name, "arguments": arguments}))
        try:
            found = do()
        except STOPS as error:
            raised = error
        own = None if raised is None else describe_error(raised)
        texts = [own, *(self._answer(number, i, own) for i in range(1, jax.process_count()))]
        distributed.send_message(_key("heard", number), "")
        distributed.delete_messages([_key("order", number), _key("answer", number)])
        if raised is None and not any(texts):
            return found
        if raised is not None and all(texts):
            raise raised
        i, text = next((i, text) for i, text in enumerate(texts) if text is not None)
        raise DistributedError(f"process {i} of {len(texts)} failed, and not all others did: {text}") from raised

    def stop(self, stop: Stop) -> None:
        """Ends the orders; waits a while until all other processes know."""
        if jax.process_count() == 1:
            return
        number = next(self._numbers)
        order = {"name": STOP, "arguments": dataclasses.asdict(stop)}
        distributed.send_message(_key("order", number), json.dumps(order))
        for i in range(1, jax.process_count()):
            try:
                distributed.receive_message(_key("answer", number, i), PATIENCE_SECONDS if not stop.abandon else 2.0)
            except TimeoutError:
                return

    def _answer(self, number: int, process: int, own: str | None) -> str | None:
        """Returns the error of another process as text, or None."""
        try:
            found: str | None = json.loads(
                distributed.receive_message(_key("answer", number, process), None if own is None else PATIENCE_SECONDS)
            )
        except TimeoutError:  # it waits in a program that this process did not run
            raise DistributedError(f"process 0 failed, and process {process} did not: {own}") from None
        return found


def follow(orders: Orders) -> Stop:
    """Makes the calls that process 0 orders, until process 0 stops.

    Args:
      orders: functions by the name of their order.

    Raises:
      DistributedError: a call failed here, and process 0 still runs it.
    """
    for number in itertools.count():
        order = json.loads(distributed.receive_message(_key("order", number)))
        arguments = order["arguments"]
        if order["name"] == STOP:
            distributed.send_message(_key("answer", number, jax.process_index()), json.dumps(None))
            return Stop(**arguments)
        text: str | None = None
        try:
            orders[order["name"]](**arguments)
        except STOPS as error:
            text = describe_error(error)
        distributed.send_message(_key("answer", number, jax.process_index()), json.dumps(text))
        if text is not None:
            try:
                distributed.receive_message(_key("heard", number), PATIENCE_SECONDS)
            except TimeoutError:
                raise DistributedError(f"this process failed, and process 0 did not: {text}") from None
    raise AssertionError("process 0 always stops")


class LedEvaluator:
    """An evaluator whose calls all processes make together.

    Args:
      lead: sender of orders.
      name: name of the evaluator in the orders.
      evaluator: evaluator of this process.

    Attributes:
      outcomes: names of the outcomes that the evaluator reports besides its value.
    """

    def __init__(self, lead: Lead, name: str, evaluator: Evaluator):
        self._lead, self._name, self._evaluator = lead, name, evaluator
        self.outcomes = declared_outcomes(evaluator)

    def prepare(self, directory: Path, note: Callable[[str], None]) -> None:
        """Prepares the evaluators of all processes, if they need preparation."""
        evaluator = self._evaluator
        if isinstance(evaluator, Prepared):
            order = {"evaluator": self._name, "directory": str(directory)}
            self._lead.call("prepare", order, lambda: evaluator.prepare(directory, note))

    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Evaluates codes in all processes, and returns the outcomes of this one."""
        order = {"evaluator": self._name, "codes": np.asarray(codes).tolist(), "keys": hexadecimal(keys)}
        return self._lead.call("evaluate", order, lambda: self._evaluator.evaluate(codes, keys))


def evaluating(evaluators: Mapping[str, Evaluator]) -> Orders:
    """Returns the functions that make the calls of `LedEvaluator`, given all evaluators by name."""

    def prepare(evaluator: str, directory: str) -> None:
        found = evaluators[evaluator]
        if isinstance(found, Prepared):
            found.prepare(Path(directory), lambda text: None)

    def evaluate(evaluator: str, codes: list[list[int]], keys: list[str]) -> None:
        evaluators[evaluator].evaluate(np.array(codes, np.int32), keys_of_words(keys))

    return {"prepare": prepare, "evaluate": evaluate}


def studying(experiment: Experiment, here: Run) -> Orders:
    """Returns the functions that make the calls of `AllHosts`."""

    def train_winner(code: list[int]) -> None:
        ThisProcess(experiment).train_winner(np.array(code, np.int32), here, SilentTraining())

    return {**evaluating({experiment.name: experiment.evaluator}), "train_winner": train_winner}


@dataclasses.dataclass(frozen=True)
class AllHosts:
    """Evaluates trials on the devices of all processes; a `lanas_jax.study.loop.Workers` of process 0.

    Attributes:
      experiment: experiment of the study.
      lead: sender of orders.
    """

    experiment: Experiment
    lead: Lead

    def prepare(self, directory: Path, progress: StudyProgress) -> None:
        """See `lanas_jax.study.loop.Workers`."""
        self._led.prepare(directory, progress)

    def search(self, search_log: SearchLog, progress: StudyProgress) -> None:
        """See `lanas_jax.study.loop.Workers`."""
        self._led.search(search_log, progress)

    def train_winner(self, code: Int[np.ndarray, " dims"], here: Run, progress: TrainingProgress) -> None:
        """See `lanas_jax.study.loop.Workers`."""
        this = ThisProcess(self.experiment)
        self.lead.call("train_winner", {"code": code.tolist()}, lambda: this.train_winner(code, here, progress))

    @property
    def _led(self) -> ThisProcess:
        evaluator = LedEvaluator(self.lead, self.experiment.name, self.experiment.evaluator)
        return ThisProcess(dataclasses.replace(self.experiment, evaluator=evaluator))


def _key(*parts: object) -> str:
    return "/".join(map(str, ("lanas", "study", *parts)))
