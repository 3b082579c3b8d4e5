"""Values by training every candidate from scratch, the evaluation of section 4.1 of arXiv 1906.06832.

The value is the accuracy or the negative loss on the search-validation split after the last step, of one training or as
the mean of several; the test split is never read. A failure of a candidate is an outcome: a non-finite loss is reported
with its step. If a program does not fit into memory, the search continues with half as many trainings per device. If
one per device does not fit either, candidates are retried one by one, so that only candidates that do not fit alone
fail. Ctrl-C is not caught.

With several processes, all of them call `evaluate` with the same codes and keys, and get the same outcomes: candidates
train on the devices of all processes, and what one process measures is broadcast. Candidates that are retried train one
on each device; if one of them does not fit alone, all of the batch fail.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.candidates import cost_model, halving
from lanas_jax.candidates.halving import CandidateTrainer, Halving
from lanas_jax.candidates.population import CompiledPopulation, Results
from lanas_jax.candidates.step import Network
from lanas_jax.candidates.strategies import OUT_OF_MEMORY, Strategies
from lanas_jax.data.splits import SearchData
from lanas_jax.evaluators.base import Outcome, with_costs
from lanas_jax.runtime import distributed
from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.runtime.distributed import DistributedError
from lanas_jax.training.sgd import TrainConfig


@dataclasses.dataclass
class MeasuredStrategy:
    """What the first batches of a search have shown.

    Attributes:
      choice: the strategy expected to finish first; None before a batch was measured.
      per_device: number of candidates per device that may fit into memory; None: as the evaluator asks for.
    """

    choice: cost_model.StrategyChoice | None = None
    per_device: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class FromScratch:
    """Trains candidates on the devices of all processes.

    Args:
      network: network that takes any code as data; with a method `for_code`, also the builder of specialised networks.
      data: training and search-validation splits.
      config: training configuration of each candidate.
      devices: devices to train on; default: all devices of all processes.
      per_device: trainings per device in one program, halved until they fit into memory; ``devices * per_device /
        repeats`` candidates fill it.
      strategy: form in which candidates train (`lanas_jax.candidates.strategies`). ``shared``: one program with control
        flow; ``branchless``: one program without control flow, which trains `per_device` candidates vmapped;
        ``specialised``: one program per candidate; ``auto``: the form with the shortest estimated search time, measured
        at the first batch on the devices (`lanas_jax.candidates.cost_model`).
      candidates: number of candidates in the whole search, used by ``auto``; default: the size of the first batch.
      measure: quantity on the search-validation split that is the value: ``accuracy``, in [0, 1], or ``loss``, the
        negative mean cross entropy in nats, with the accuracy as an outcome ``validation_accuracy``. The loss differs
        between networks that classify the same images correctly, so few validation images tell more networks apart.
      repeats: number of trainings per candidate, whose mean is the value. With several, training ``i`` has the key
        ``fold_in(key, i)`` of the trial's key; a single one has the trial's key.
      halving: early stopping of the worse candidates of a batch, which makes outcomes depend on the batch; None: all
        candidates are trained to the end.
      report: callback that receives the chosen strategy and the reason, and a smaller `per_device`; called in process
        0.

    Raises:
      ValueError: `measure` or `repeats` is not one of those above, early stopping is asked for with a measure other
        than the accuracy of one training, the space counts the costs of networks for images of another shape, or the
        strategy is specialised and the network cannot be built for a single code.
    """

    network: Network
    data: SearchData
    config: TrainConfig
    devices: Sequence[jax.Device] | None = None
    per_device: int = 4
    strategy: Literal["auto", "shared", "branchless", "specialised"] = "auto"
    candidates: int | None = None
    halving: Halving | None = None
    measure: Literal["accuracy", "loss"] = "accuracy"
    repeats: int = 1
    report: Callable[[str], None] = print

    measured: MeasuredStrategy = dataclasses.field(default_factory=MeasuredStrategy, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.measure not in ("accuracy", "loss"):
            raise ValueError(f"measure must be 'accuracy' or 'loss'; got {self.measure!r}")
        if isinstance(self.repeats, bool) or not isinstance(self.repeats, int) or self.repeats < 1:
            raise ValueError(f"repeats must be an integer of at least 1; got {self.repeats!r}")
        if self.halving is not None and (self.measure, self.repeats) != ("accuracy", 1):
            raise ValueError(
                f"halving compares candidates by the accuracy of one training; got measure={self.measure!r} and "
                f"repeats={self.repeats}: leave halving out, or use measure='accuracy' and repeats=1"
            )
        self.network.space.check_images(self.data.image_shape, self.data.classes)
        if self.strategy == "specialised":
            _ = self.strategies.specialised  # rejects a network without this strategy before any training

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the reported outcomes besides the value: the accuracy if it is not the value."""
        return () if self.measure == "accuracy" else ("validation_accuracy",)

    @property
    def value_name(self) -> str:
        """The name of the values, for displays."""
        return "search-validation accuracy" if self.measure == "accuracy" else "negative search-validation loss"

    @functools.cached_property
    def strategies(self) -> Strategies:
        """The available training strategies."""
        return Strategies(self.network, self.config, self.data, self.devices, self.repeats)

    @property
    def compiled(self) -> CompiledPopulation:
        """The programs that train a batch of any codes."""
        choice, count = self.measured.choice, self._count
        if self.strategy == "branchless" or (choice is not None and choice.strategy == "branchless"):
            return self.strategies.branchless(count)
        if choice is None and self.strategy == "auto":
            return self.strategies.unmeasured(count)
        return self.strategies.shared(count)

    @property
    def _count(self) -> int:
        """The number of candidates per device in the next program."""
        choice, count = self.measured.choice, self.measured.per_device or self.per_device
        return min(count, choice.vmapped) if choice is not None and choice.strategy == "branchless" else count

    @in_32_bits
    @nan_is_data
    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Trains the candidates of `codes` and returns their values on the search-validation split.

        Args:
          codes: architectures, ``int32[n, dims]``, any number of them.
          keys: PRNG keys, ``key[n]``, one per trial; consumed.

        Returns:
          One outcome per code, in order. Its steps are those of all its trainings, and it fails if one of them fails.
          Seconds are divided equally within the batch; the compilation of a shared program counts for the batch that
          waited for it.

        Raises:
          ValueError: a code is not in the space.
        """
        codes = self.network.space.check(codes)
        compiled_before = self.strategies.compile_seconds
        outcomes = self._train_fitting(codes, keys)
        seconds = (self.strategies.compile_seconds - compiled_before) / len(codes)
        outcomes = [dataclasses.replace(one, compile_seconds=one.compile_seconds + seconds) for one in outcomes]
        return with_costs(self.network.space, codes, outcomes)

    def _specialised(self, codes: np.ndarray, keys: Key[Array, " n"]) -> bool:
        """Returns whether each candidate has its own program; for ``auto``, measured at the first call."""
        if self.strategy != "auto":
            return self.strategy == "specialised"
        if self.measured.choice is None:
            try:
                choice = self.strategies.choose(
                    self.candidates or len(codes), self._count, codes, keys, repeats=self.repeats
                )
            except FloatingPointError as error:  # a candidate diverged immediately; the next batch is measured
                self._report(f"one program for this batch: the strategies could not be measured ({error})")
                return False
            self._report(f"{choice.title}: {choice.reason}")
            self.measured.choice = choice
        return self.measured.choice.strategy == "specialised"

    def _train_fitting(self, codes: np.ndarray, keys: Key[Array, " n"]) -> list[Outcome]:
        """Trains a batch, with fewer candidates per device if they do not fit into memory, and alone if need be."""
        first = self._count
        while True:
            specialised = False
            try:
                specialised = self._specialised(codes, keys)
                found = self._train(self.strategies.specialised if specialised else self.compiled, codes, keys)
            except (jax.errors.JaxRuntimeError, DistributedError) as error:
                if OUT_OF_MEMORY not in str(error):
                    raise
                if specialised or self._count == 1:
                    break
                self.measured.per_device = self._count // 2
            else:
                if self._count < first and not specialised:
                    self._report(f"{first} trainings per device do not fit into memory; running {self._count}")
                return found
        at_once = len(codes) if jax.process_count() > 1 else 1
        parts = [slice(i, i + at_once) for i in range(0, len(codes), at_once)]
        return [one for part in parts for one in self._train_alone(codes[part], keys[part])]

    def _train(self, trainer: CandidateTrainer, codes: np.ndarray, keys: Key[Array, " n"]) -> list[Outcome]:
        """Trains a batch and returns outcomes without costs."""
        # All first trainings come first, so that programs of different candidates are placed on different devices; all
        # trainings of a candidate run on its device.
        n, copies = len(codes), range(self.repeats)
        if self.repeats > 1:
            fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
            keys = jnp.concatenate([fold(keys, copy) for copy in copies])
        results = halving.train_with_halving(
            trainer,
            self.halving,
            self.config.steps(len(self.data.train)),
            np.tile(codes, (self.repeats, 1)),
            keys,
        )
        reasons = failure_reasons(results)
        values = results.accuracy if self.measure == "accuracy" else -results.loss
        mean = functools.partial(np.mean, dtype=np.float64)
        outcomes = []
        for i in range(n):
            mine = slice(i, None, n)
            failed = [(copy, reason) for copy, reason in zip(copies, reasons[mine], strict=True) if reason]
            reason = failed[0][1] if failed else None
            if reason and self.repeats > 1:
                reason += f" (training {failed[0][0] + 1} of {self.repeats})"
            outcomes.append(
                Outcome(
                    value=None if reason else float(mean(values[mine])),
                    reason=reason,
                    compile_seconds=float(results.compile_seconds[mine].sum()),
                    train_seconds=results.seconds / n,
                    steps=int(results.steps[mine].sum()),
                    outcomes={} if reason else {name: float(mean(results.accuracy[mine])) for name in self.outcomes},
                )
            )
        return outcomes

    def _train_alone(self, codes: np.ndarray, keys: Key[Array, " n"]) -> list[Outcome]:
        """Trains candidates that have a device to themselves and returns their outcomes."""
        try:
            trainer = self.strategies.specialised if self._specialised(codes, keys) else self.strategies.alone
            return self._train(trainer, codes, keys)
        except (jax.errors.JaxRuntimeError, DistributedError) as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            return [Outcome(None, f"out of memory: {str(error).splitlines()[0]}") for _ in codes]

    def _report(self, text: str) -> None:
        if distributed.is_first_process():
            self.report(text)


def failure_reasons(results: Results) -> list[str | None]:
    """Returns the reason why each candidate failed, or None if it has a value. Steps count from 1."""
    reasons: list[str | None] = []
    for train_loss, loss, steps in zip(results.train_loss, results.loss, results.steps, strict=True):
        if not np.isfinite(train_loss):
            reasons.append(f"loss became {_name(train_loss)} at step {steps}")
        elif not np.isfinite(loss):
            reasons.append(f"loss on the validation images is {_name(loss)} after {steps} steps")
        else:
            reasons.append(None)
    return reasons


def _name(loss: np.floating) -> str:
    return "NaN" if np.isnan(loss) else "infinite"
