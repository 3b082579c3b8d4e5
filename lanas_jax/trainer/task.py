"""The definition of a training: a network of one code, its dataset, its recipe and its augmentation.

An experiment's ``final(config, settings, code)`` returns a `FinalTraining`. The dataset is only read when it is needed,
so weights can be exported and loaded on a machine that does not have it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from lanas_jax.data.splits import Dataset, SearchData, Split
from lanas_jax.data.streams import EvaluationStream, StreamedDataset, TrainingStream
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.saving import digest
from lanas_jax.storage.weights import AnyArray
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.training.augmentation import Augmentation

Params: TypeAlias = PyTree[Array]
BatchStats: TypeAlias = PyTree[Array]


class Weights(NamedTuple):
    """The parameters and batch statistics of a network."""

    params: Params
    batch_stats: BatchStats


@runtime_checkable
class FinalNetwork(Protocol):
    """A network of a single code, with the features that only long trainings use: auxiliary head and dropped paths.

    Parameters are float32, even if the network computes in another dtype. Parameters and batch statistics are nested
    dictionaries of arrays, a structure that weight files can hold.
    """

    @property
    def space(self) -> SearchSpace:
        """The search space of the network's code, at this network's size."""
        ...

    def init(self, key: PRNGKeyArray) -> tuple[Params, BatchStats]:
        """Returns newly initialized parameters and batch statistics. The key is consumed."""
        ...

    def apply(
        self,
        params: Params,
        batch_stats: BatchStats,
        images: Float[Array, "n height width channels"],
        *,
        train: bool,
        key: PRNGKeyArray,
        drop_path: Float[Array, ""],
    ) -> tuple[Float[Array, "n classes"], Float[Array, "n classes"] | None, BatchStats]:
        """Returns the logits, the auxiliary head's logits or None, and the updated batch statistics.

        Args:
          params: parameters from `init` or from a later step.
          batch_stats: batch statistics from `init` or from a later step.
          images: batch of images.
          train: training mode: normalization by the batch's own statistics, auxiliary head, dropped paths.
          key: PRNG key of the dropped paths.
          drop_path: probability of dropping a path.
        """
        ...


@runtime_checkable
class ReturnsFeatures(Protocol):
    """A `FinalNetwork` that returns feature maps, as a backbone of detection or segmentation."""

    def features(
        self, params: Params, batch_stats: BatchStats, images: Float[Array, "n height width channels"]
    ) -> tuple[Float[Array, "n rows columns features"], ...]:
        """Returns the last feature map of each resolution, from fine to coarse, in evaluation mode.

        The result can be differentiated with respect to the parameters. No training image needs to have this size.

        Args:
          params: parameters of the network.
          batch_stats: batch statistics of the network.
          images: batch of images of any height and width, scaled as for `apply`.
        """
        ...


@runtime_checkable
class ReadsAuxiliaryInputs(Protocol):
    """A `FinalNetwork` with auxiliary inputs: arrays that are arguments of its compiled program, not constants.

    Two networks share a program if they compare equal once both have the same `data`. Ideally, equality ignores `data`.
    """

    @property
    def data(self) -> PyTree[AnyArray]:
        """The auxiliary inputs."""
        ...

    def with_data(self, data: PyTree[AnyArray]) -> FinalNetwork:
        """Returns the network with other auxiliary inputs, which may be traced."""
        ...


def data_of(network: FinalNetwork) -> PyTree[AnyArray]:
    """Returns the auxiliary inputs of a network, or an empty tuple."""
    return network.data if isinstance(network, ReadsAuxiliaryInputs) else ()


def with_data(network: FinalNetwork, data: PyTree[AnyArray]) -> FinalNetwork:
    """Returns the network with the given auxiliary inputs."""
    return network.with_data(data) if isinstance(network, ReadsAuxiliaryInputs) else network


@runtime_checkable
class DrawsCodes(Protocol):
    """A `FinalNetwork` whose key draws the subnetworks to run, so that all devices must have the same key."""

    @property
    def draws_codes(self) -> bool:
        """True."""
        ...


@runtime_checkable
class SelfTaught(Protocol):
    """A `FinalNetwork` of several networks that teach each other; it computes its own loss and gradient."""

    def gradient(
        self,
        weights: Weights,
        images: Float[Array, "n height width channels"],
        targets: Float[Array, "n classes"],
        key: PRNGKeyArray,
        noise: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], BatchStats, Params]:
        """Returns the loss, the updated batch statistics, and the gradient with respect to the parameters.

        Args:
          weights: current parameters and batch statistics.
          images: batch of images, shared by all networks.
          targets: label-smoothed target distributions.
          key: PRNG key of what all devices share, such as the codes of the step; consumed.
          noise: PRNG key of what each group of devices draws for its own images, such as dropped units; consumed.
        """
        ...


class StepPass(NamedTuple):
    """One pass of a step, chosen by the host.

    Attributes:
      program: name of the program that runs it.
      code: architecture that it runs, which is data to the program.
    """

    program: str
    code: Int[np.ndarray, " dims"]


@runtime_checkable
class SeparatePasses(Protocol):
    """A `SelfTaught` network whose passes can be programs of their own (`lanas_jax.trainer.passes`)."""

    @property
    def pass_programs(self) -> tuple[str, ...]:
        """Names of the programs; the first one runs the first pass of every step. Empty: all passes are one program."""
        ...

    def passes(self, keys: Key[Array, " steps"]) -> list[list[StepPass]]:
        """Returns the passes of several steps, as `gradient` draws them from its `key`.

        Args:
          keys: a key for each step, ``[steps]``; consumed.
        """
        ...

    def first_pass(
        self,
        weights: Weights,
        images: Float[Array, "n height width channels"],
        targets: Float[Array, "n classes"],
        noise: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], BatchStats, Params, Float[Array, "n classes"]]:
        """Returns loss, batch statistics, gradient and predicted distributions; arguments as in `gradient`."""
        ...

    def later_pass(
        self,
        program: str,
        weights: Weights,
        images: Float[Array, "n height width channels"],
        taught: Float[Array, "n classes"],
        code: Int[Array, " dims"],
    ) -> tuple[Float[Array, ""], BatchStats, Params]:
        """Returns loss, batch statistics and gradient of a pass.

        Args:
          program: name of the pass's program.
          weights: parameters before the step, and batch statistics after the passes before.
          images: batch of images.
          taught: distributions that the first pass predicted.
          code: architecture, which the program runs if it is not a program of one code.
        """
        ...

    def combined(self, loss: Float[Array, ""], gradient: Params) -> tuple[Float[Array, ""], Params]:
        """Returns loss and gradient of a step from their sums over its passes."""
        ...


@runtime_checkable
class Teacher(Protocol):
    """A source of target logits for distillation (`lanas_jax.trainer.teacher` has three kinds).

    Two teachers share a program if they compare equal once both have the same `data`.
    """

    @property
    def data(self) -> PyTree[AnyArray]:
        """All arrays that the logits depend on; inputs of the program, not constants in it."""
        ...

    def with_data(self, data: PyTree[AnyArray]) -> "Teacher":
        """Returns the teacher with other arrays, which may be traced."""
        ...

    def known(self, rows: Int[Array, " n"]) -> Float[Array, "n classes"] | None:
        """Returns the logits of training images by index, or None if they must be computed from augmented images."""
        ...

    def logits(self, images: Float[Array, "n height width channels"]) -> Float[Array, "n classes"]:
        """Returns the logits of augmented images; called if `known` returns None."""
        ...

    def check(self, data: SearchData | StreamedDataset, recipe: Recipe) -> None:
        """Raises ValueError, with the reason, if the teacher does not fit the images or the recipe."""
        ...

    def identity(self) -> dict[str, str]:
        """Returns a description that distinguishes this teacher from others."""
        ...


@runtime_checkable
class Training(Protocol):
    """The parts of a training that its programs depend on; `FinalTraining` implements it."""

    @property
    def network(self) -> FinalNetwork: ...  # noqa: D102
    @property
    def recipe(self) -> Recipe: ...  # noqa: D102
    @property
    def augmentation(self) -> Augmentation: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def initial(self) -> Mapping[str, AnyArray] | None: ...  # noqa: D102
    @property
    def teacher(self) -> Teacher | None: ...  # noqa: D102


class AuxiliaryInputs(NamedTuple):
    """The auxiliary inputs of a program."""

    recipe: Recipe  # numbers of the recipe: `Recipe.read_by_programs`
    network: PyTree[AnyArray]  # auxiliary inputs of the network
    teacher: PyTree[AnyArray]  # data of the teacher; empty without a teacher


def auxiliary_inputs(network: FinalNetwork, recipe: Recipe, teacher: Teacher | None) -> AuxiliaryInputs:
    """Returns the auxiliary inputs of a training."""
    return AuxiliaryInputs(recipe.read_by_programs, data_of(network), () if teacher is None else teacher.data)


@dataclasses.dataclass(frozen=True, eq=False)
class FinalTraining:
    """The training of one network.

    Args:
      network: network to train.
      dataset: function that loads the images or opens their streams; called when they are needed.
      recipe: settings of the training.
      augmentation: random transformations of the training images at each step; by default images are only scaled.
      seed: seed of all random draws.
      initial: initial weights by name (`lanas_jax.storage.weights`). Missing weights are initialized at random; None
        initializes all of them at random.
      teacher: teacher for distillation, weighted by the recipe's `distillation`.

    Raises:
      ValueError: the seed is not an unsigned 32-bit integer, or exactly one of `teacher` and `distillation` is given.
    """

    network: FinalNetwork
    dataset: Callable[[], Dataset | StreamedDataset]
    recipe: Recipe
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    seed: int = 0
    initial: Mapping[str, AnyArray] | None = None
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be 0 to 2**32 - 1; got {self.seed}")
        if self.teacher is None and self.recipe.distillation:
            raise ValueError(f"distillation must be 0 without a teacher; got {self.recipe.distillation}")
        if self.teacher is not None and not self.recipe.distillation:
            raise ValueError("distillation must be above 0 with a teacher, or the teacher has no effect; got 0")

    def taught(self, teacher: Teacher, weight: float) -> "FinalTraining":
        """Returns the same training with distillation from a teacher whose loss has the given `weight`, in (0, 1]."""
        recipe = dataclasses.replace(self.recipe, distillation=weight)
        return dataclasses.replace(self, recipe=recipe, teacher=teacher)


def search_splits(data: Dataset | StreamedDataset) -> SearchData | StreamedDataset:
    """Returns the part of a dataset with the splits ``train`` and ``validation``."""
    return data.search if isinstance(data, Dataset) else data


def data_fingerprint(split: Split | TrainingStream | EvaluationStream) -> str:
    """Returns a digest of the images and labels of a split."""
    return digest((split.images, split.labels)) if isinstance(split, Split) else split.fingerprint


@runtime_checkable
class InSpace(Protocol):
    """A network of a search space, of whatever kind."""

    @property
    def space(self) -> SearchSpace: ...  # noqa: D102


def costs(network: InSpace, code: np.ndarray) -> dict[str, Any]:
    """Returns the numbers of multiply-adds and parameters; both are None if the space has no cost model."""
    try:
        cost = network.space.cost(code[None])
    except NotImplementedError:
        return {"multiply_adds": None, "parameters": None}
    return {"multiply_adds": int(cost.multiply_adds[0]), "parameters": int(cost.parameters[0])}
