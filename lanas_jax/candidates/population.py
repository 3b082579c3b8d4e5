"""Training many candidates at once: several per device in one program, on all devices.

The code of a candidate is data, so three programs (`start`, `advance`, `evaluate` below) serve a whole search. They are
compiled ahead of time, once, and compilation is timed separately from training. The numbers of a `TrainConfig` are data
as well: populations that differ only in numbers share the programs of this process. The devices form a mesh axis
``candidate`` under `jax.shard_map` and exchange nothing. On one device, candidates run sequentially (`lax.map`:
`lax.switch` then runs only the selected branch) or vmapped (`vmap`: every branch is computed, without control flow,
which pays on accelerators that wait for their host at conditionals, or that one small candidate leaves idle).

Candidates are independent: the result of a candidate depends on its code and key, not on the other candidates, its
position or the number of devices.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from lanas_jax.candidates import step as training
from lanas_jax.candidates.step import CandidateTask, Network, TrainState
from lanas_jax.data.splits import SearchData
from lanas_jax.runtime import compile_cache, distributed
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.runtime.global_arrays import fetch_global, put_global
from lanas_jax.runtime.profiling import marked_step
from lanas_jax.runtime.program_memo import MEMO
from lanas_jax.training.sgd import TrainConfig

AXIS = "candidate"


def forget_programs() -> None:
    """Frees the compiled programs that this process holds in memory for later trainings."""
    MEMO.forget()


class Results(NamedTuple):
    """Results of a population, one row per candidate."""

    accuracy: Float[np.ndarray, " n"]  # on the validation split, in [0, 1]
    loss: Float[np.ndarray, " n"]  # on the validation split
    steps: Int[np.ndarray, " n"]  # number of training steps
    train_loss: Float[np.ndarray, " n"]  # loss of the last training step
    compile_seconds: Float[np.ndarray, " n"]  # time waited for the program of this candidate; 0 for shared programs
    seconds: float  # training and evaluation time of all candidates together


class Made(NamedTuple):
    """Compiled programs and the costs of compiling them."""

    start: Callable[..., TrainState]
    advance: Callable[..., TrainState]
    evaluate: Callable[..., training.Evaluation]
    trace_seconds: float
    compile_seconds: float  # including tracing
    saved_seconds: float  # time saved by a cache of compiled programs on disk


class Placed(NamedTuple):
    """A search's data on the devices of a mesh."""

    train: tuple[Array, Array]  # images and labels, on every device
    held_out: tuple[Array, Array]  # validation images and labels, on every device
    data: SearchData  # on the host

    def on(self, device: jax.Device) -> "Placed":
        """Returns the images and labels that are on one device of this process, without a copy."""
        alone = NamedSharding(mesh_of([device], AXIS), PartitionSpec())

        def here(array: Array) -> Array:
            (share,) = (shard.data for shard in array.addressable_shards if shard.device == device)
            return jax.device_put(share, alone)

        (images, labels), (held_out_images, held_out_labels) = self.train, self.held_out
        return Placed((here(images), here(labels)), (here(held_out_images), here(held_out_labels)), self.data)


def place(data: SearchData, devices: Sequence[jax.Device]) -> Placed:
    """Copies images and labels to each of the devices."""
    everywhere = NamedSharding(mesh_of(devices, AXIS), PartitionSpec())
    train, held_out = (
        tuple(put_global((split.images, split.labels), everywhere)) for split in (data.train, data.validation)
    )
    return Placed(train, held_out, data)


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
    """Layout of candidates on devices.

    Args:
      network: network that takes any code as data.
      config: training configuration of each candidate.
      devices: devices to train on; default: all devices of all processes.
      per_device: candidates per device in one program.
      vmapped: True to train a device's candidates vmapped, False to train them sequentially.
      steps_per_dispatch: number of training steps per dispatch; Ctrl-C takes effect between dispatches.

    Raises:
      ValueError: `per_device` or `steps_per_dispatch` is less than 1.
    """

    network: Network
    config: TrainConfig
    devices: Sequence[jax.Device] | None = None
    per_device: int = 4
    vmapped: bool = False
    steps_per_dispatch: int = 64

    def __post_init__(self) -> None:
        for name in ("per_device", "steps_per_dispatch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    @property
    def mesh(self) -> Mesh:
        """The devices along the axis ``candidate``."""
        return mesh_of(self.devices if self.devices is not None else jax.devices(), AXIS)

    @property
    def width(self) -> int:
        """Number of candidates in one program on all devices."""
        return self.mesh.size * self.per_device

    def each(self, function: Callable[..., Any], shared: int) -> Callable[..., Any]:
        """Maps `function` over candidates: the leading axis of every argument except the last `shared` ones."""

        def on_device(*arguments: Any) -> Any:
            own, data = arguments[: len(arguments) - shared], arguments[len(arguments) - shared :]
            one = lambda own: function(*own, *data)  # noqa: E731
            return jax.vmap(one)(own) if self.vmapped else lax.map(one, own)

        def on_all(*arguments: Any) -> Any:
            specs = (PartitionSpec(AXIS),) * (len(arguments) - shared) + (PartitionSpec(),) * shared
            # Devices exchange nothing, so the varying-axes check has nothing to find.
            return jax.shard_map(
                on_device, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
            )(*arguments)

        return on_all

    @in_32_bits
    def compile(
        self, data: SearchData | Placed, *, share: bool = True, options: Mapping[str, int | str] | None = None
    ) -> "CompiledPopulation":
        """Places the data on the devices and compiles the programs, concurrently if there are enough cores.

        Args:
          data: training and search-validation splits.
          share: True to reuse the programs of an earlier population that differs only in numbers, and to hold the
            programs in memory for later populations.
          options: XLA's options for training and evaluation; default: none.
        """
        placed = data if isinstance(data, Placed) else place(data, list(self.mesh.devices.flat))
        own_options = options or {}

        def make() -> tuple[Made, bool]:
            if share:
                return MEMO.shared(self._key(placed, own_options), lambda: self._made(placed, own_options))
            return self._made(placed, own_options), False

        # Programs on devices of several processes are compiled in all of them, or in none.
        several = self.mesh.is_multi_process
        made, found = distributed.together(make, jax.errors.JaxRuntimeError) if several else make()
        own = NamedSharding(self.mesh, PartitionSpec(AXIS))
        numbers = put_global(self.config, NamedSharding(self.mesh, PartitionSpec()))
        waited, saved = made.compile_seconds, made.saved_seconds
        if found:
            waited, saved = 0.0, waited + saved
        programs = made.start, made.advance, made.evaluate
        return CompiledPopulation(self, *programs, placed, own, numbers, made.trace_seconds, waited, saved)

    def _key(self, placed: Placed, options: Mapping[str, int | str]) -> Hashable:
        """Returns everything the programs depend on: no numbers of the configuration, and only shapes of the data."""
        data = (*placed.train, *placed.held_out)
        layout = (self.mesh, self.per_device, self.vmapped, self.steps_per_dispatch, *sorted(options.items()))
        images = (placed.data.classes, placed.data.scaling, *((x.shape, x.dtype) for x in data))
        return "population", self.network, jax.tree.structure(self.config), layout, images

    def _made(self, placed: Placed, options: Mapping[str, int | str]) -> Made:
        began = time.perf_counter()
        lowered = self.lower(placed)
        traced = time.perf_counter()
        # LLVM spends most of the compilation on the random numbers of `start`, which runs once per candidate.
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        quick = {"xla_backend_optimization_level": 1} if on_cpu else {}
        with ThreadPoolExecutor(len(lowered)) as pool:
            made = pool.map(compile_cache.compile_cached, lowered, (quick, options, options))
            (start, advance, evaluate), saved = zip(*made, strict=True)
        return Made(start, advance, evaluate, traced - began, time.perf_counter() - began, max(saved))

    def lower(self, placed: Placed) -> tuple[jax.stages.Lowered, ...]:
        """Traces the programs `start`, `advance` and `evaluate`; the data may be shapes with shardings."""
        own, everywhere = (NamedSharding(self.mesh, PartitionSpec(*axes)) for axes in ((AXIS,), ()))
        task = CandidateTask(self.network, self.config, placed.data.classes, placed.data.scaling)
        codes = jax.ShapeDtypeStruct((self.width, self.network.space.dims), jnp.int32, sharding=own)
        totals = jax.ShapeDtypeStruct((self.width,), jnp.int32, sharding=own)
        keys = jax.ShapeDtypeStruct((self.width,), jax.random.key(0).dtype, sharding=own)

        def start(code: Array, key: Array) -> TrainState:
            return training.start_candidate(task, code, key)

        steps = self.steps_per_dispatch

        def advance(state: TrainState, *arguments: Any) -> TrainState:
            code, total, until, config, images, labels = arguments
            asked = dataclasses.replace(task, config=config)
            return training.train_candidate(asked, state, code, total, until, images, labels, steps=steps)

        def evaluate(state: TrainState, *arguments: Array) -> training.Evaluation:
            return training.evaluate(task, state, *arguments)

        lowered_start = jax.jit(self.each(start, 0)).lower(codes, keys)
        states = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own), lowered_start.out_info
        )
        # Weakly typed, like Python numbers, so that parameters keep their dtype.
        number = functools.partial(jax.ShapeDtypeStruct, (), sharding=everywhere, weak_type=True)
        numbers = jax.tree.map(lambda leaf: number(leaf.dtype), self.config)
        inputs = (states, codes, totals, totals, numbers, *placed.train)
        return (
            lowered_start,
            jax.jit(self.each(advance, 3), donate_argnums=0).lower(*inputs),
            jax.jit(self.each(evaluate, 2)).lower(states, codes, *placed.held_out),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class CompiledPopulation:
    """The compiled programs of a `Population` and their data, which stays on the devices.

    Attributes:
      population: layout of candidates on devices.
      start: program that maps codes and keys to initial states.
      advance: program that maps states, codes and configuration numbers to states some steps further.
      evaluate: program that maps states and codes to accuracies and losses.
      placed: data on the devices.
      sharding: sharding of candidates over devices.
      numbers: numbers of the configuration, on each device.
      trace_seconds: seconds to trace the programs sequentially in Python, measured by an earlier population if the
        programs are shared.
      compile_seconds: seconds to trace and compile; 0 if an earlier population compiled the programs.
      saved_seconds: additional seconds that tracing and compiling would have taken without programs from a cache on
        disk or from this process.
    """

    population: Population
    start: Callable[..., TrainState]
    advance: Callable[..., TrainState]
    evaluate: Callable[..., training.Evaluation]
    placed: Placed
    sharding: NamedSharding
    numbers: TrainConfig
    trace_seconds: float
    compile_seconds: float
    saved_seconds: float

    def total(self, epochs: int | None = None) -> int:
        """Returns the number of steps in `epochs` epochs; default: the configured epochs."""
        return self.population.config.steps(len(self.placed.data.train), epochs)

    @in_32_bits
    def begin(
        self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"], states: Sequence[TrainState] | None = None
    ) -> tuple[TrainState, Array]:
        """Places up to `width` candidates on the devices, with the given states or with initial states.

        Returns:
          The states and codes of all `width` slots. The first n slots hold the candidates, the others copies.
        """
        rows = np.arange(self.population.width) % len(codes)
        placed_codes = put_global(np.asarray(codes, np.int32)[rows], self.sharding)
        if states is not None:
            placed = together([states[row] for row in rows.tolist()], str(jax.random.key_impl(keys)))
            return put_global(placed, self.sharding), placed_codes
        data = jnp.asarray(np.asarray(jax.random.key_data(keys))[rows])
        placed_keys = put_global(jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys)), self.sharding)
        return self.start(placed_codes, placed_keys), placed_codes

    def advances(
        self, state: TrainState, codes: Array, places: int, total: int, until: int, first: int = 0
    ) -> Iterator[TrainState]:
        """Trains from step `first` up to step `until` of `total`, and yields the states after each dispatch.

        The first `places` slots train; the others take no steps, which costs nothing.
        """
        taken = np.arange(self.population.width) < places
        totals, untils = (np.where(taken, steps, 0).astype(np.int32) for steps in (total, until))
        totals, untils = put_global((totals, untils), self.sharding)
        for _ in range(first, until, self.population.steps_per_dispatch):
            state = self.advance(state, codes, totals, untils, self.numbers, *self.placed.train)
            yield state

    @in_32_bits
    def fit(
        self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"], epochs: int | None = None
    ) -> tuple[TrainState, Array]:
        """Trains up to `width` candidates to the end.

        Args:
          codes: architectures, ``int32[n, dims]``, n at most `width`.
          keys: PRNG keys, ``key[n]``; consumed.
          epochs: number of passes over the training images; default: the configured epochs.

        Returns:
          The states and codes of all `width` slots. The first n slots hold the candidates.
        """
        total = self.total(epochs)
        state, placed = self.begin(codes, keys)
        return self._advanced(state, placed, len(codes), total, total, 0), placed

    @in_32_bits
    def train(
        self,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[Array, " n"],
        until: int | None = None,
        states: Sequence[TrainState] | None = None,
    ) -> tuple[Results, Sequence[TrainState]]:
        """Trains any number of candidates, in batches of `width`, and evaluates them on the validation split.

        Args:
          codes: architectures, ``int32[n, dims]``.
          keys: PRNG keys, ``key[n]``; consumed unless states are given.
          until: last training step; default: the end of the training.
          states: states to continue from; default: initial states.

        Returns:
          The results and the states, on the host.
        """
        ends: list[TrainState] = []
        results = self._train(codes, keys, until, states, lambda state, n: ends.extend(unstack_states(state, n)))
        return results, ends

    @in_32_bits
    def run(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Results:
        """Trains any number of candidates to the end and returns their results."""
        return self._train(codes, keys, None, None, lambda state, n: None)

    def _train(
        self,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[Array, " n"],
        until: int | None,
        states: Sequence[TrainState] | None,
        take: Callable[[TrainState, int], None],
    ) -> Results:
        """Trains as `train`, and passes the states of each batch and the number of its candidates to `take`."""
        began, total, width = time.perf_counter(), self.total(), self.population.width
        parts: list[tuple[np.ndarray, ...]] = []
        for start in range(0, len(codes), width):
            here = slice(start, start + width)
            begins, n = None if states is None else states[here], len(codes[here])

            def batch(here: slice = here, begins: Any = begins, n: int = n) -> tuple[TrainState, training.Evaluation]:
                state, placed = self.begin(codes[here], keys[here], begins)
                first = max((int(one.step) for one in begins or ()), default=0)  # one with a non-finite loss stopped
                state = self._advanced(state, placed, n, total, until or total, first)
                return jax.block_until_ready((state, self.evaluate(state, placed, *self.placed.held_out)))

            # The devices exchange nothing, so a process that runs out of memory leaves no other one waiting here.
            state, scores = distributed.together(batch, jax.errors.JaxRuntimeError)
            parts.append(columns(state, scores, n))
            take(state, n)
        accuracy, loss, steps, train_loss = (np.concatenate(column) for column in zip(*parts, strict=True))
        compiled = np.zeros(len(codes), np.float32)
        return Results(accuracy, loss, steps, train_loss, compiled, time.perf_counter() - began)

    def _advanced(self, state: TrainState, codes: Array, places: int, total: int, until: int, first: int) -> TrainState:
        advances = self.advances(state, codes, places, total, until, first)
        for _ in range(first, until, self.population.steps_per_dispatch):
            with marked_step("candidates"):
                state = next(advances)
                state.step.block_until_ready()  # Ctrl-C takes effect here, not while programs queue up
        return state


def columns(state: TrainState, scores: training.Evaluation, n: int) -> tuple[np.ndarray, ...]:
    """Returns accuracies, losses, steps and training losses of the first n slots."""
    rows = (scores.accuracy, scores.loss, state.step, state.loss)
    return tuple(row[:n] for row in fetch_global(rows))


def unstack_states(states: TrainState, n: int) -> Sequence[TrainState]:
    """Splits the states of the first n slots into one state per candidate, on the host, with keys as raw words."""
    host = fetch_global(states._replace(key=jax.random.key_data(states.key)))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], host) for i in range(n)]


def together(states: Sequence[TrainState], impl: str) -> TrainState:
    """Stacks states that `unstack_states` has split, with keys of the PRNG implementation `impl`."""
    host = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
    return host._replace(key=jax.random.wrap_key_data(host.key, impl=impl))
