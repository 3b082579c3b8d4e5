"""One program per candidate, compiled ahead of time in threads while other candidates train.

Each candidate's network is built for its code alone, so its program computes nothing that the code does not use, and
XLA optimizes across its layers. This costs seconds to minutes of compilation per candidate, while the program of
`population.py` compiles once, so it pays for long trainings. `cost_model.py` compares the two.

Candidate ``i`` trains on device ``i`` modulo the number of devices. One thread drives all devices: dispatched programs
run asynchronously, so the thread only dispatches the next steps to devices that have finished their last ones. Of
several processes, each compiles and trains the candidates of its own devices, and then all exchange the results.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.candidates.population import (
    CompiledPopulation,
    Placed,
    Population,
    Results,
    columns,
    place,
    unstack_states,
)
from lanas_jax.candidates.step import Buildable, TrainState
from lanas_jax.data.splits import SearchData
from lanas_jax.runtime import distributed
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.runtime.devices import cores
from lanas_jax.runtime.profiling import marked_step
from lanas_jax.training.sgd import TrainConfig

POLL_SECONDS = 0.002  # polling interval while all devices are busy
# Programs for TPUs of trainings with fewer steps are compiled at XLA's optimization level 1. For a CIFAR-10 candidate
# of 16 channels and 8 cells on a TPU v5e, this takes 256 instead of 684 CPU-seconds, and a step an estimated 42 ms
# instead of 17.8: equal in total after 18,000 steps (jax 0.10.2, libtpu 0.0.52, 28 November 2026; not run on a chip).
QUICK_STEPS = 18_000

Row = tuple[np.ndarray, ...]  # accuracy, loss, steps and training loss of one candidate, each of shape [1]
Lane = Generator[Callable[[], bool], None, None]  # yields functions that return True once the lane can continue


class PendingPrograms(NamedTuple):
    """The programs of one code, possibly still compiling."""

    place: int  # index of the device
    compiled: Future[CompiledPopulation] | None  # None for a device of another process


@dataclasses.dataclass(eq=False)
class Candidate:
    """One candidate of a batch.

    Attributes:
      code: architecture, ``int32[dims]``.
      key: PRNG key of the training.
      program: programs of the code.
      state: training state; None before the first step.
      row: results; empty before evaluation.
      waited: seconds that the device waited for the programs.
    """

    code: Int[np.ndarray, " dims"]
    key: Key[Array, " 1"]
    program: PendingPrograms
    state: TrainState | None
    row: Row = ()
    waited: float = 0.0


@dataclasses.dataclass(eq=False)
class Specialised:
    """Trains each candidate with its own program, and holds the programs of the last batch in memory.

    Args:
      network: builder of the network of a code.
      config: training configuration of each candidate.
      data: training and search-validation splits, on the host or on the devices.
      devices: devices to train on; default: all devices of all processes.
      threads: number of programs compiled concurrently; default: one per core.
      steps_per_dispatch: number of training steps per dispatch; Ctrl-C takes effect between dispatches.
      repeats: number of trainings of each candidate, which decides how far XLA optimizes its program.
    """

    network: Buildable
    config: TrainConfig
    data: SearchData | Placed
    devices: Sequence[jax.Device] | None = None
    threads: int | None = None
    steps_per_dispatch: int = 64
    repeats: int = 1
    _programs: dict[bytes, PendingPrograms] = dataclasses.field(default_factory=dict, init=False)

    @functools.cached_property
    def places(self) -> Sequence[Placed | None]:
        """The data on each device; None for a device of another process."""
        devices = list(self.devices) if self.devices is not None else jax.devices()
        here = jax.process_index()
        placed = self.data if isinstance(self.data, Placed) else place(self.data, devices)
        return [placed.on(device) if device.process_index == here else None for device in devices]

    @property
    def total(self) -> int:
        """Number of steps of a whole training."""
        data = self.data.data if isinstance(self.data, Placed) else self.data
        return self.config.steps(len(data.train))

    def compile(self, code: Int[np.ndarray, " dims"], place: int | None = None) -> CompiledPopulation:
        """Compiles the programs of one candidate for one of this process's devices; default: the first one."""
        placed = next(data for data in self.places if data is not None) if place is None else self.places[place]
        if placed is None:
            raise ValueError(f"device {place} belongs to another process")
        network = self.network.for_code(code)
        devices = list(placed.train[0].devices())
        population = Population(network, self.config, devices, 1, steps_per_dispatch=self.steps_per_dispatch)
        options = compile_options(devices[0].platform, self.repeats * self.total)
        # Thousands of candidates would evict all other programs.
        return population.compile(placed, share=False, options=options)

    @in_32_bits
    def train(
        self,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[Array, " n"],
        until: int | None = None,
        states: Sequence[TrainState | None] | None = None,
    ) -> tuple[Results, Sequence[TrainState | None]]:
        """Trains as `CompiledPopulation.train`. Programs are held in memory until the next batch with other codes.

        The state of a candidate on a device of another process is None. It continues there.
        """
        began = time.perf_counter()
        batch = distributed.together(lambda: self._trained(codes, keys, until or self.total, states), Exception)
        mine = {i: [one.waited, *(column.item() for column in one.row)] for i, one in enumerate(batch) if one.row}
        rows = {int(i): row for part in distributed.exchange(mine) for i, row in part.items()}
        columns = zip(*(rows[i] for i in range(len(codes))), strict=True)
        kinds = (np.float32, np.float32, np.float32, np.int32, np.float32)
        waited, accuracy, loss, steps, train_loss = map(np.array, columns, kinds)
        shares = (waited / len(self.places)).astype(np.float32)
        seconds = time.perf_counter() - began - float(shares.sum())
        results = Results(accuracy, loss, steps, train_loss, shares, seconds)
        return results, [one.state for one in batch]

    def run(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Results:
        """Trains any number of candidates to the end and returns their results."""
        return self.train(codes, keys)[0]

    def _trained(
        self,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[Array, " n"],
        until: int,
        states: Sequence[TrainState | None] | None,
    ) -> Sequence[Candidate]:
        """Returns all candidates, of which those on this process's devices are trained and evaluated."""
        pool = ThreadPoolExecutor(self.threads or cores())
        try:
            programs = self._submit(pool, codes)
            starts = states if states is not None else [None] * len(codes)
            batch = [
                Candidate(code, keys[i : i + 1], program, start)
                for i, (code, program, start) in enumerate(zip(codes, programs, starts, strict=True))
            ]
            places = [place for place, data in enumerate(self.places) if data is not None]
            lanes = [[one for one in batch if one.program.place == place] for place in places]
            take_turns([self._lane(lane, until) for lane in lanes])
        except BaseException:
            self._programs.clear()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return batch

    def _submit(self, pool: ThreadPoolExecutor, codes: Int[np.ndarray, "n dims"]) -> Sequence[PendingPrograms]:
        """Returns the programs of all codes; reuses those of the last batch and submits the others."""
        names = [code.tobytes() for code in codes]
        for name in self._programs.keys() - set(names):
            del self._programs[name]
        for i, (name, code) in enumerate(zip(names, codes, strict=True)):
            if name not in self._programs:
                place = i % len(self.places)
                here = self.places[place] is not None
                compiled = pool.submit(self.compile, code, place) if here else None
                self._programs[name] = PendingPrograms(place, compiled)
        return [self._programs[name] for name in names]

    def _lane(self, candidates: Sequence[Candidate], until: int) -> Lane:
        """Trains and evaluates candidates sequentially on one device."""
        for candidate in candidates:
            began = time.perf_counter()
            compiled = candidate.program.compiled
            assert compiled is not None, "lanes have candidates of this process alone"
            yield compiled.done
            programs = compiled.result()
            candidate.waited = time.perf_counter() - began
            starts = None if candidate.state is None else [candidate.state]
            state, placed = programs.begin(candidate.code[None], candidate.key, starts)
            first = 0 if candidate.state is None else int(candidate.state.step)
            advances = programs.advances(state, placed, 1, self.total, until, first)
            for _ in range(first, until, self.steps_per_dispatch):
                with marked_step("candidates"):
                    state = next(advances)
                yield partial(is_done, state.step)
            scores = programs.evaluate(state, placed, *programs.placed.held_out)
            yield partial(is_done, scores.loss)
            candidate.row = columns(state, scores, 1)
            (candidate.state,) = unstack_states(state, 1)


def compile_options(platform: str, steps: int) -> dict[str, int | str]:
    """Returns XLA's options for a program that takes a number of training steps."""
    if platform != "tpu" or steps >= QUICK_STEPS:
        return {}
    return {"optimization_level": 1 if jax.__version_info__ < (0, 11) else "O1"}


def is_done(array: Array) -> bool:
    """Returns True if the dispatched program has computed the array."""
    return array.is_ready()  # type: ignore[attr-defined]


def take_turns(lanes: Sequence[Lane]) -> None:
    """Runs all lanes to the end; advances each lane as far as it can go without waiting."""
    waiting = {lane: lambda: True for lane in lanes}
    while waiting:
        ready = [lane for lane, is_ready in waiting.items() if is_ready()]
        for lane in ready:
            is_ready = next(lane, None)
            if is_ready is None:
                del waiting[lane]
            else:
                waiting[lane] = is_ready
        if not ready:
            time.sleep(POLL_SECONDS)
