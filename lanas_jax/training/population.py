"""Training many candidates at once: several per device in one program, devices side by side.

A candidate's code is data, so three programs (`start`, `advance`, `evaluate` below) serve a whole search. They are
compiled ahead of time, once, and the seconds that takes are kept apart from the seconds of training. Devices stand side
by side on a mesh axis ``candidate`` under `jax.shard_map` and exchange nothing; on one device, candidates follow one
another (`lax.map`: `lax.switch` then runs only the branch a code picks) or go abreast (`vmap`: every branch is
computed, which pays where one small candidate leaves an accelerator idle).

Each candidate's arithmetic is its own: its result depends on its code and key, not on its neighbours, its place or the
number of devices.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from lanas_jax.data.splits import SearchData, Split
from lanas_jax.hardware import cores
from lanas_jax.training import step as training
from lanas_jax.training.step import Network, TrainConfig, TrainState

AXIS = "candidate"


def one_device_per_core() -> None:
    """Lets JAX see every CPU core as a device of its own, so that candidates train side by side.

    Call it before the first array is made; later, or where the number was chosen already, it changes nothing. Where
    there is a GPU or TPU it does no harm: candidates go to those.
    """
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if by_flag or jax.config.jax_num_cpu_devices != -1:  # type: ignore[attr-defined]
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:  # the backend is up already: go on with the devices it has
        return


class Results(NamedTuple):
    """What a population came to, one row per candidate."""

    accuracy: Float[np.ndarray, " n"]  # on the validation split, in [0, 1]
    loss: Float[np.ndarray, " n"]  # on the validation split
    steps: Int[np.ndarray, " n"]  # taken
    train_loss: Float[np.ndarray, " n"]  # of the last step taken
    seconds: float  # of training and evaluation, all candidates together


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
    """How candidates are laid out on devices.

    Args:
      network: one network for every code.
      config: how each candidate is trained.
      devices: where; default: all devices of this process.
      per_device: candidates in one program on each device.
      abreast: `vmap` over a device's candidates instead of one after the other.
      steps_per_dispatch: steps between two moments at which Ctrl-C is heard.

    Raises:
      ValueError: no candidate or no step per dispatch.
    """

    network: Network
    config: TrainConfig
    devices: Sequence[jax.Device] | None = None
    per_device: int = 4
    abreast: bool = False
    steps_per_dispatch: int = 64

    def __post_init__(self) -> None:
        for name in ("per_device", "steps_per_dispatch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    @property
    def mesh(self) -> Mesh:
        """The devices along the axis ``candidate``."""
        devices = list(self.devices) if self.devices is not None else jax.local_devices()
        return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)

    @property
    def width(self) -> int:
        """Candidates in one program, all devices together."""
        return self.mesh.size * self.per_device

    def each(self, function: Callable[..., Any], shared: int) -> Callable[..., Any]:
        """`function` of one candidate, for all: leading axis on every argument but the last `shared` ones."""

        def on_device(*arguments: Any) -> Any:
            own, data = arguments[: len(arguments) - shared], arguments[len(arguments) - shared :]
            one = lambda own: function(*own, *data)  # noqa: E731
            return jax.vmap(one)(own) if self.abreast else lax.map(one, own)

        def on_all(*arguments: Any) -> Any:
            specs = (PartitionSpec(AXIS),) * (len(arguments) - shared) + (PartitionSpec(),) * shared
            # Nothing is exchanged between devices, so there is nothing for the varying-axes check to find.
            return jax.shard_map(
                on_device, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
            )(*arguments)

        return on_all

    def compile(self, data: SearchData) -> "CompiledPopulation":
        """Puts the data on the devices and compiles the programs, at the same time where there are cores for it."""
        began = time.perf_counter()
        mesh, config, network = self.mesh, self.config, self.network
        own, replicated = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())
        codes = jax.ShapeDtypeStruct((self.width, network.space.dims), jnp.int32, sharding=own)
        totals = jax.ShapeDtypeStruct((self.width,), jnp.int32, sharding=own)
        keys = jax.device_put(jax.random.split(jax.random.key(0), self.width), own)
        train = tuple(jax.device_put((data.train.images, data.train.labels), replicated))
        held_out = tuple(jax.device_put((data.validation.images, data.validation.labels), replicated))

        def start(code: Array, key: Array) -> TrainState:
            return training.start(network, config, code, key)

        def advance(state: TrainState, code: Array, total: Array, images: Array, labels: Array) -> TrainState:
            return training.train(network, config, state, code, total, images, labels, steps=self.steps_per_dispatch)

        def evaluate(state: TrainState, code: Array, images: Array, labels: Array) -> training.Evaluation:
            return training.evaluate(network, config, state, code, images, labels)

        lowered_start = jax.jit(self.each(start, 0)).lower(codes, keys)
        states = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own), lowered_start.out_info
        )
        lowered = (
            lowered_start,
            jax.jit(self.each(advance, 2), donate_argnums=0).lower(states, codes, totals, *train),
            jax.jit(self.each(evaluate, 2)).lower(states, codes, *held_out),
        )
        # LLVM takes most of the compilation to optimise the random numbers of `start`, which runs once per candidate.
        quick = {"xla_backend_optimization_level": 1} if mesh.devices.flat[0].platform == "cpu" else {}
        with ThreadPoolExecutor(len(lowered)) as pool:
            start_all, advance_all, evaluate_all = pool.map(
                lambda program, options: program.compile(options), lowered, (quick, {}, {})
            )
        seconds = time.perf_counter() - began
        return CompiledPopulation(self, start_all, advance_all, evaluate_all, train, held_out, own, seconds)


@dataclasses.dataclass(frozen=True, eq=False)
class CompiledPopulation:
    """The programs of a `Population` and the data they read, which stays on the devices.

    Attributes:
      population: the layout.
      start: codes and keys to states.
      advance: states and codes to states, some steps further.
      evaluate: states and codes to accuracies and losses.
      train: images and labels, on every device.
      held_out: the same for validation.
      sharding: how candidates are spread.
      compile_seconds: what tracing and compiling took.
    """

    population: Population
    start: Callable[..., TrainState]
    advance: Callable[..., TrainState]
    evaluate: Callable[..., training.Evaluation]
    train: tuple[Array, Array]
    held_out: tuple[Array, Array]
    sharding: NamedSharding
    compile_seconds: float

    def fit(
        self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"], epochs: int | None = None
    ) -> tuple[TrainState, Array]:
        """Trains up to `width` candidates; a short batch is padded with candidates of no steps, which cost nothing.

        Args:
          codes: ``int32[n, dims]``, n at most `width`.
          keys: ``key[n]``, consumed.
          epochs: passes over the training images; default: the configured ones.

        Returns:
          The states and codes of all `width` places, the first n of which are the candidates.
        """
        width = self.population.width
        rows = np.arange(width) % len(codes)
        total = self.population.config.steps(len(self.train[1]), epochs)
        totals = np.where(np.arange(width) < len(codes), total, 0).astype(np.int32)
        placed_codes, placed_totals = jax.device_put((codes[rows], totals), self.sharding)
        data = jnp.asarray(np.asarray(jax.random.key_data(keys))[rows])
        placed_keys = jax.device_put(jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys)), self.sharding)
        state = self.start(placed_codes, placed_keys)
        for _ in range(0, total, self.population.steps_per_dispatch):
            state = self.advance(state, placed_codes, placed_totals, *self.train)
            state.step.block_until_ready()  # Python hears Ctrl-C here, not while programs queue up
        return state, placed_codes

    def run(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Results:
        """Trains any number of candidates and evaluates them on the validation split, in batches of `width`."""
        began = time.perf_counter()
        parts = []
        for first in range(0, len(codes), self.population.width):
            here = slice(first, first + self.population.width)
            state, placed = self.fit(codes[here], keys[here])
            scores = self.evaluate(state, placed, *self.held_out)
            rows = (scores.accuracy, scores.loss, state.step, state.loss)
            parts.append([np.asarray(row)[: len(codes[here])] for row in rows])
        accuracy, loss, steps, train_loss = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Results(accuracy, loss, steps, train_loss, time.perf_counter() - began)

    def on(self, split: Split, state: TrainState, codes: Array) -> training.Evaluation:
        """Accuracies and losses on another split of as many images as validation has, by the same program."""
        replicated = NamedSharding(self.sharding.mesh, PartitionSpec())
        return self.evaluate(state, codes, *jax.device_put((split.images, split.labels), replicated))
