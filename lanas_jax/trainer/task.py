"""What is trained: a network of one code, the images it learns from, and what is done to them.

`FinalTraining` is what an experiment's ``final(config, settings, code)`` returns. Nothing of it is read before it is
needed: weights can be exported and loaded where the dataset is not.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from lanas_jax.data.splits import Dataset, SearchData, Split
from lanas_jax.data.streams import EvaluationStream, StreamedDataset, TrainingStream
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.checkpoints import digest
from lanas_jax.storage.weights import AnyArray
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.training.augmentation import Augmentation

Params: TypeAlias = PyTree[Array]
BatchStats: TypeAlias = PyTree[Array]


class Weights(NamedTuple):
    """All that a trained network needs."""

    params: Params
    batch_stats: BatchStats


@runtime_checkable
class FinalNetwork(Protocol):
    """A network of one code alone, with what only long trainings need. Parameters are float32, whatever it computes in.

    Parameters and batch statistics are dictionaries of arrays or of such dictionaries, which is what a file of weights
    can hold.
    """

    @property
    def space(self) -> SearchSpace:
        """What its code means, at this network's size."""
        ...

    def init(self, key: PRNGKeyArray) -> tuple[Params, BatchStats]:
        """Fresh parameters and batch statistics. The key is consumed."""
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
        """Logits, those of an auxiliary head where there is one, and the batch statistics after this batch.

        Args:
          params: from `init` or a later step.
          batch_stats: likewise.
          images: a batch.
          train: normalise by the batch's own statistics, ask the auxiliary head, drop paths.
          key: of what is dropped.
          drop_path: probability with which a path is dropped.
        """
        ...


@runtime_checkable
class Reading(Protocol):
    """A `FinalNetwork` that reads arrays beside images: data to its program, so that others of its kind share it.

    Programs are shared by networks that are equal where both read the same `data`; best they are equal whatever it is.
    """

    @property
    def data(self) -> PyTree[AnyArray]:
        """The arrays."""
        ...

    def with_data(self, data: PyTree[AnyArray]) -> FinalNetwork:
        """The network that reads others, which may be traced."""
        ...


def data_of(network: FinalNetwork) -> PyTree[AnyArray]:
    """What a network reads beside images."""
    return network.data if isinstance(network, Reading) else ()


def with_data(network: FinalNetwork, data: PyTree[AnyArray]) -> FinalNetwork:
    """The network with such data."""
    return network.with_data(data) if isinstance(network, Reading) else network


@runtime_checkable
class SelfTaught(Protocol):
    """A `FinalNetwork` of several networks that learn from one another: it says itself what a step descends."""

    def gradient(
        self,
        weights: Weights,
        images: Float[Array, "n height width channels"],
        targets: Float[Array, "n classes"],
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], BatchStats, Params]:
        """Loss, the batch statistics that follow, and the gradient with respect to the parameters.

        Args:
          weights: where.
          images: a batch, the same for all of its networks.
          targets: smoothed.
          key: consumed.
        """
        ...


@runtime_checkable
class Teacher(Protocol):
    """What tells a network in training what else to give for an image (`lanas_jax.trainer.teacher` has three kinds).

    Programs are shared by teachers that are equal where both answer from the same `data`.
    """

    @property
    def data(self) -> PyTree[AnyArray]:
        """All it answers from; data to the program, so that nothing of it is compiled in."""
        ...

    def with_data(self, data: PyTree[AnyArray]) -> "Teacher":
        """The teacher that answers from others, which may be traced."""
        ...

    def known(self, rows: Int[Array, " n"]) -> Float[Array, "n classes"] | None:
        """Logits of training images by their numbers; None where it has to see them as they are augmented."""
        ...

    def logits(self, images: Float[Array, "n height width channels"]) -> Float[Array, "n classes"]:
        """Logits of images as the network sees them; is called where `known` gives None."""
        ...

    def check(self, data: SearchData | StreamedDataset, recipe: Recipe) -> None:
        """Raises ValueError where it cannot teach a network on these images; says why."""
        ...

    def identity(self) -> dict[str, str]:
        """By which it is told from other teachers."""
        ...


@runtime_checkable
class Training(Protocol):
    """What programs are compiled for; a `FinalTraining` is one."""

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


class Beside(NamedTuple):
    """What is read beside images."""

    recipe: Recipe  # its numbers; `Recipe.read_by_programs`
    network: PyTree[AnyArray]  # by the network
    teacher: PyTree[AnyArray]  # by its teacher; nothing where there is none


def beside(network: FinalNetwork, recipe: Recipe, teacher: Teacher | None) -> Beside:
    """What a training reads beside images."""
    return Beside(recipe.read_by_programs, data_of(network), () if teacher is None else teacher.data)


@dataclasses.dataclass(frozen=True, eq=False)
class FinalTraining:
    """One network to be trained.

    Args:
      network: what is trained.
      dataset: loads the images, or what streams them; called where they are needed.
      recipe: how it is trained.
      augmentation: what is done to the training images of each step; default: they are only scaled.
      seed: of everything random.
      initial: weights to begin with, by name (`lanas_jax.storage.weights`); those that are missing are drawn. None:
        all.
      teacher: what the network learns from beside the labels, as much as the recipe's `distillation` says.

    Raises:
      ValueError: a seed that is no unsigned integer of 32 bits, a teacher without `distillation`, or the reverse.
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
            raise ValueError("distillation must be above 0 with a teacher, else it teaches nothing; got 0")

    def taught(self, teacher: Teacher, weight: float) -> "FinalTraining":
        """The same training with a teacher, whose part of the loss has that weight, in (0, 1]."""
        recipe = dataclasses.replace(self.recipe, distillation=weight)
        return dataclasses.replace(self, recipe=recipe, teacher=teacher)


def seen(data: Dataset | StreamedDataset) -> SearchData | StreamedDataset:
    """The part of a dataset that has the splits ``train`` and ``validation``."""
    return data.search if isinstance(data, Dataset) else data


def fingerprint(split: Split | TrainingStream | EvaluationStream) -> str:
    """Says which images these are."""
    return digest((split.images, split.labels)) if isinstance(split, Split) else split.fingerprint


def training_images(data: SearchData, recipe: Recipe) -> Split:
    """What weights are fitted to."""
    parts = [data.train] if recipe.train_on == "train" else [data.train, data.validation]
    return Split(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels")))


def costs(network: FinalNetwork, code: np.ndarray) -> dict[str, Any]:
    """Multiply-adds and parameters by name, None where the space does not know them."""
    try:
        cost = network.space.cost(code[None])
    except NotImplementedError:
        return {"multiply_adds": None, "parameters": None}
    return {"multiply_adds": int(cost.multiply_adds[0]), "parameters": int(cost.parameters[0])}
