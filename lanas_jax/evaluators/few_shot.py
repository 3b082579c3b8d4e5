"""Few-shot evaluation (arXiv 2006.06863): one supernet per region of the space.

Each sub-supernet starts from the weights of the one-shot supernet and is trained further on codes of its region only.
The sub-supernet of the region that contains a code values that code. `lanas_jax.supernet.regions` divides the space.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.data.splits import SearchData
from lanas_jax.evaluators.base import NotPreparedError, Outcome
from lanas_jax.evaluators.one_shot import POOL, OneShot, extract_weights, outcomes_of, train_or_refuse
from lanas_jax.formats.npz import read_npz, write_npz
from lanas_jax.runtime import distributed
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.runtime.global_arrays import addressable
from lanas_jax.runtime.paths import local_path
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.weights import names
from lanas_jax.supernet import code_pool, regions
from lanas_jax.supernet.base import Supernet
from lanas_jax.supernet.regions import Regions, RegionSplit
from lanas_jax.supernet.training import SupernetTraining
from lanas_jax.trainer.programs import Programs
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import BatchStats, Params, Weights

Made = TypeVar("Made")


@dataclasses.dataclass
class PreparedRegions:
    """Products of `FewShot.prepare`.

    Attributes:
      regions: the regions of the space; None before the space is divided.
      weights: weights of each region's sub-supernet; None before all are trained.
    """

    regions: Regions | None = None
    weights: Sequence[Weights] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class FewShot:
    """Values codes with the sub-supernets of their regions.

    Args:
      one_shot: evaluator of the initial supernet, which also defines how subnetworks are valued.
      split: method that divides the space into regions.
      recipe: training recipe of the sub-supernets.
      directory: folder of the sub-supernets, for sharing them among searches; None: ``few_shot`` in the run's folder.
      seed: random seed of the training and of all draws.
    """

    one_shot: OneShot
    split: RegionSplit
    recipe: Recipe
    directory: Path | None = None
    seed: int = 1
    prepared: PreparedRegions = dataclasses.field(default_factory=PreparedRegions, init=False, repr=False)

    @property
    def supernet(self) -> Supernet:
        """The supernet architecture that all sub-supernets share."""
        return self.one_shot.supernet

    @property
    def data(self) -> SearchData:
        """Training and search-validation splits."""
        return self.one_shot.data

    @property
    def regions(self) -> Regions:
        """The regions of the space, available after `prepare`.

        Raises:
          NotPreparedError: `prepare` has not been called.
        """
        return self._required(self.prepared.regions)

    @property
    def weights(self) -> Sequence[Weights]:
        """The weights of each region's sub-supernet, available after `prepare`.

        Raises:
          NotPreparedError: `prepare` has not been called.
        """
        return self._required(self.prepared.weights)

    @property
    def supernet_directory(self) -> Path | None:
        """Folder of the initial supernet; None: in the run's folder."""
        return self.one_shot.directory

    def train(self, directory: Path, note: Callable[[str], None], preemption: Preemption | None = None) -> None:
        """Trains the initial supernet in advance, as `OneShot.train`; `prepare` trains the sub-supernets."""
        self.one_shot.train(directory, note, preemption)

    @in_32_bits
    def prepare(self, directory: Path, note: Callable[[str], None]) -> None:
        """Trains the supernet and the sub-supernets, or reads them.

        Args:
          directory: folder of the run; weights are saved in its folders ``supernet`` and ``few_shot`` unless the
            evaluators name others.
          note: callback that receives progress messages.

        Raises:
          NotPreparedError: see `OneShot.prepare`, or no code was found in a region.
        """
        if self.prepared.weights is not None:
            return
        weights: list[Weights] = []
        programs = None
        for i in range(self.begin(directory, note)):
            trained, programs = self._train(i, directory, note, programs)
            weights.append(self.one_shot.valuation.place(trained))
        self.prepared.weights = weights

    @in_32_bits
    def begin(self, directory: Path, note: Callable[[str], None]) -> int:
        """Trains the supernet and divides the space, or reads both, and returns the number of regions.

        Raises:
          NotPreparedError: see `OneShot.prepare`.
        """
        self.one_shot.prepare(directory, note)
        if self.prepared.regions is None:
            self.prepared.regions = self._divide(self._home(directory))
        return len(self.prepared.regions.names)

    @in_32_bits
    def part(self, i: int, directory: Path, note: Callable[[str], None]) -> None:
        """Trains the sub-supernet of region `i` unless it exists; processes may train different regions concurrently.

        Raises:
          NotPreparedError: see `prepare`.
        """
        self._train(i, directory, note, None)

    @in_32_bits
    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Values each code with the sub-supernet of its region; keys are not used.

        Raises:
          ValueError: a code is not in the space.
          NotPreparedError: `prepare` has not been called.
        """
        del keys
        outcomes: dict[int, Outcome] = {}
        region = self._region(codes)
        for i in np.unique(region).tolist():
            rows = np.flatnonzero(region == i)
            found = outcomes_of(self.one_shot.valuation, self.weights[i], codes[rows])
            outcomes |= dict(zip(rows.tolist(), found, strict=True))
        return [outcomes[row] for row in range(len(codes))]

    @in_32_bits
    def extract(self, code: Int[np.ndarray, " dims"]) -> tuple[Params, BatchStats]:
        """Extracts weights as `OneShot.extract` does, from the sub-supernet of the code's region."""
        weights = self.weights[int(self._region(code[None])[0])]
        return extract_weights(self.one_shot.valuation, weights, code)

    def _region(self, codes: Int[np.ndarray, "n dims"]) -> Int[np.ndarray, " n"]:
        space = self._space
        return self.regions.of(np.asarray(space.canonical(space.check(codes))))

    def _divide(self, home: Path) -> Regions:
        """Returns the regions; saves the samples they are learned from, since values differ between devices."""
        kept = home / "split.npz"
        if not distributed.broadcast(kept.exists()):
            codes, values = regions.sample(self.split, self._space, self._values, self.seed)

            def write() -> None:
                home.mkdir(parents=True, exist_ok=True)
                write_npz(kept, {"codes": codes, "values": values})

            distributed.by_first(write, OSError)
        try:
            found = read_npz(kept, ("codes", "values"))
            return self.split.regions(self._space, found["codes"], found["values"])
        except ValueError as error:
            raise NotPreparedError(str(error)) from error

    def _home(self, directory: Path) -> Path:
        return local_path(self.directory or directory / "few_shot")

    def _train(
        self, i: int, directory: Path, note: Callable[[str], None], programs: Programs | None
    ) -> tuple[Weights, Programs | None]:
        """Trains or reads the sub-supernet of a region; returns it and the programs that trained it."""
        found = self._required(self.prepared.regions)
        note(f"sub-supernet {i + 1} of {len(found.names)} ({found.names[i]})")
        try:
            pool = code_pool.draw_codes(self._space, POOL, self.seed, lambda codes: found.of(codes) == i)
        except code_pool.EmptyRegionError as error:
            raise NotPreparedError(f"{found.names[i]}: {error}") from error
        training = SupernetTraining(
            self.supernet,
            pool,
            self.recipe,
            self.one_shot.augmentation,
            self.seed,
            names(addressable(self.one_shot.trained.weights)),
        )
        devices = self.one_shot.devices
        folder = self._home(directory) / f"region-{i}"
        trained = train_or_refuse(training, self.one_shot.trained_on, folder, note, devices, programs)
        return trained.weights, trained.programs

    def _values(self, codes: Int[np.ndarray, "n dims"]) -> np.ndarray:
        return self.one_shot.valuation(self.one_shot.trained.weights, codes).accuracy

    @property
    def _space(self) -> SearchSpace:
        return self.supernet.space

    def _required(self, made: Made | None) -> Made:
        """Returns a product of `prepare`; raises NotPreparedError before `prepare` has been called."""
        if made is None:
            raise NotPreparedError("the sub-supernets are not trained: call prepare(directory, note) first")
        return made
