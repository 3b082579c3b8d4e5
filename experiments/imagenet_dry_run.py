r"""All stages of the ImageNet experiments at laptop scale: supernet, search under a limit, winner training.

Source: `experiments/imagenet_600m.py`, scaled down. CIFAR-10 images are written once to ``~/.cache/lanas_jax`` in the
format of ImageNet prepared by tensorflow-datasets, so every stage reads the same format as in the full experiment: JPEG
files, decoded and cropped by grain during training. It needs CIFAR-10 (accepted formats: `lanas_jax/data/cifar10.py`)
and the extra ``imagenet``::

    lanas plan imagenet_dry_run --topology local
    lanas search imagenet_dry_run --out runs/dry                       # trains the supernet, then searches
    lanas extract runs/dry --code largest --out runs/dry_teacher       # the teacher
    lanas extract runs/dry --out runs/dry_winner                       # the winner's weights in the supernet
    lanas train runs/dry --preset finetune --weights runs/dry_winner --teacher runs/dry_teacher
    lanas train runs/dry --teacher runs/dry_teacher                    # instead: the winner, from scratch
    lanas export runs/dry
    lanas rank runs/dry --networks 24                                  # compares the supernet's order with trainings

Measured on a core of an AMD EPYC, beside other programs, with jax 0.10.2 (30 November 2026), on JPEG-compressed
CIFAR-10 images. The machine had about half its usual speed:

======================  ===========  =============================================================================
stage                   processor    result
======================  ===========  =============================================================================
supernet and search     23 min 23 s  150 networks, none above the limit (the largest at 99.9 % of it, the median at
                                     94.8 %); the best has 50.40 % search-validation accuracy in the supernet
teacher                 1 min 29 s   the supernet's largest network, 4.2 million multiply-adds
winner's weights        1 min 25 s   1.2 million multiply-adds
winner, finetuned       3 min 32 s   50.45 % search-validation and 47.30 % test accuracy
winner, from scratch    7 min 39 s   56.05 % search-validation and 54.45 % test accuracy
export                  5 s          the weights of the finetuned winner
======================  ===========  =============================================================================

(One search-validation image is 0.05 %; the accuracies are those of the average of weights. The winner was trained from
scratch in a folder of its own, ``--preset from_scratch --out DIR``.) Finetuning gains nothing here. With the mean of
the passes' gradients in place of their sum, whose steps take as long, all stages took 12 min 47 s of processor time at
the usual speed (29 November 2026), the best network had 44.9 % in the supernet, and the winner from scratch 52.5 %.

A supernet of one program took 5 min 56 s with the search on 2 idle cores of an Intel Xeon (27 November 2026). glibc
returns temporaries above 32 MB to the system after each call, which made half of a step of several programs system
time. `lanas` holds them (`lanas_jax/runtime/allocator.py`): 22 s of supernet and search are system time.

LaNAS compared with random search under the same limit, ten searches each in one newly trained supernet, by the mean of
the gradients (26 November 2026; best value so far in percent, mean and range)::

    python -m lanas_jax.experiments.compare_searches imagenet_dry_run --searchers lanas random --seeds 10 \
        --out runs/dry_compared

========  ====================  ====================  ====================
searcher  after 50 networks     after 100             after 150
========  ====================  ====================  ====================
LaNAS     44.4 (44.0 to 44.7)   44.6 (44.4 to 44.7)   44.6 (44.6 to 44.7)
random    44.0 (43.7 to 44.5)   44.2 (44.0 to 44.7)   44.3 (44.1 to 44.7)
========  ====================  ====================  ====================

After 50 networks LaNAS is already better than random search after 150. 9 of 10 LaNAS searches, and 2 of 10 random
searches, ended at 44.65 %, the best value observed.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import lanas_jax as lx
from lanas_jax.data import cifar10, imagenet, tfds_folder
from lanas_jax.data.crops import Crop
from lanas_jax.data.imagenet import Pictures
from lanas_jax.data.sources import Contents, DatasetSource, Form
from lanas_jax.data.streams import StreamedDataset, hold_in_memory
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.evaluators.one_shot import POOL, OneShot
from lanas_jax.experiments import prepared_pictures
from lanas_jax.export.teachers import read_teacher
from lanas_jax.models.functional import Tree
from lanas_jax.models.mobilenet import FinalMobileNet, MobileNetSupernet
from lanas_jax.planning.stage import Stage, stand_in
from lanas_jax.planning.stages import final_training, mean_multiply_adds, valuation
from lanas_jax.ranking.base import Ranking
from lanas_jax.runtime import caches
from lanas_jax.runtime.devices import per_device_share
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_settings import MobileNetStage as Layers
from lanas_jax.study import Experiment
from lanas_jax.supernet import code_pool
from lanas_jax.supernet.sandwich import Sandwich
from lanas_jax.supernet.training import ONE_SHOT, SupernetTraining
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer import teacher as teachers
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining, costs
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import TrainConfig

SEARCHERS = {"lanas": lx.LaNAS, "random": lx.RandomSearch, "evolution": lx.RegularizedEvolution}
STAGES = (Layers(16, 2, "relu"), Layers(24, 1, "relu", squeezes=True), Layers(40, 2, squeezes=True))
SIZE = 32  # pixels
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: random seed of the search; supernet and data have separate seeds.
      budget: number of networks to evaluate.
      batch: number of networks asked for and evaluated together.
      searcher: search algorithm.
      limit: hard limit on the multiply-adds of one image's forward pass.
      supernet: folder of the trained supernet, which is trained there if missing; default: inside the run folder.
      data_dir: folder of CIFAR-10; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA.
      pictures: folder of the prepared images; default: in the cache folder.
      train: number of training images.
      validation: number of search-validation images, on which networks are compared.
      test: number of test images for the winner.
      recalibration: number of training images for measuring each network's batch statistics.
      epochs: number of training epochs of the supernet.
      batch_size: number of images per step.
      learning_rate: peak learning rate, at the end of the warm-up.
      watched: number of search-validation images on which five networks are measured after each epoch; 0: none.
    """

    seed: int = 0
    budget: int = 150
    batch: int = 10
    searcher: Literal["lanas", "random", "evolution"] = "lanas"
    limit: int = 1_300_000
    supernet: Path | None = None
    data_dir: Path | None = None
    pictures: Path | None = None
    train: int = 10_000
    validation: int = 2_000
    test: int = 2_000
    recalibration: int = 512
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.1
    watched: int = 500


RECIPE = Recipe(
    epochs=12,
    batch_size=64,
    nesterov=True,
    learning_rate=0.1,
    warm_up=1.0,
    weight_decay=1e-4,
    decay_all=False,
    auxiliary_weight=0.0,
    drop_path=0.0,
    ema=0.99,
    label_smoothing=0.1,
    train_on="train",
    validate_every=4,
)
FINETUNE = dataclasses.replace(RECIPE, epochs=3, learning_rate=0.001, warm_up=0.0, validate_every=1)
DISTILLATION = 0.5  # weight of the distillation loss, if there is a teacher


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner training.

    Attributes:
      recipe: training recipe.
      teacher: teacher for distillation: a folder of lanas extract or lanas export, an .npz file of logits, or
        MODULE:ATTRIBUTE of a Flax module; None for no distillation.
      dropout: dropout rate before the classifier.
      seed: random seed.
    """

    recipe: Recipe = RECIPE
    teacher: str | None = None
    dropout: float = 0.0
    seed: int = 0


PRESETS = {"from_scratch": Final(), "finetune": Final(FINETUNE)}


def space(limit: int | None = None) -> MobileNetSpace:
    """Returns a space of three stages for images of 32 pixels; the supernet's space has no limit."""
    return MobileNetSpace(
        STAGES,
        depths=(1, 2, 3),
        kernels=(3, 5),
        expansions=(3, 6),
        resolutions=(SIZE,),
        stem=8,
        last=160,
        hidden=160,
        classes=CLASSES,
        max_multiply_adds=limit,
    )


def load_images(config: Config) -> StreamedDataset:
    """Loads the images, and prepares them at the first call."""
    contents = Contents("the dry run's pictures", (32, 32, 3), CLASSES, config.train + config.validation, config.test)
    folder = caches.folder("imagenet_dry_run") if config.pictures is None else config.pictures
    folder = folder / f"{contents.train}-{contents.test}"
    form = Form(f"{imagenet.NAME}/5.*", tfds_folder.INFO, tfds_folder.read_tfds_folder)
    source = DatasetSource(contents, (form,), f"To prepare them again, remove {folder}")
    if not source.there(folder):
        images = cifar10.load_cifar10(config.data_dir, train=contents.train, validation=CLASSES, test=contents.test)
        prepared_pictures.write_pictures(folder, {"train": images.search.train, "validation": images.test})
    crop = Crop(SIZE, area=(0.5, 1.0), crop_share=1.0)
    return imagenet.load_imagenet(folder, Pictures(crop, config.validation), source=source)


def one_shot(config: Config) -> OneShot:
    """Returns the evaluator that values networks by one supernet."""
    supernet = MobileNetSupernet(space())
    largest, smallest = ends(supernet.space).tolist()
    recipe = dataclasses.replace(
        ONE_SHOT,
        epochs=config.epochs,
        batch_size=config.batch_size,
        nesterov=True,
        learning_rate=config.learning_rate,
        warm_up=1.0,
        final_learning_rate=0.0,
        weight_decay=1e-4,
        decay_all=False,
        label_smoothing=0.1,
    )
    return OneShot(
        supernet,
        functools.partial(load_images, config),
        recipe,
        directory=config.supernet,
        recalibration=config.recalibration,
        per_device=per_device_share(config.batch),
        sandwich=Sandwich(tuple(largest), tuple(smallest), gradient="sum"),
        watched=config.watched,
    )


def ends(codes: MobileNetSpace) -> np.ndarray:
    """Returns the codes of the largest and the smallest network."""
    return np.array([codes.named_codes[name] for name in ("largest", "smallest")], np.int32)


def build(config: Config) -> Experiment:
    """Returns the search experiment."""
    limited = space(config.limit)
    searcher = SEARCHERS[config.searcher](limited)
    return Experiment("imagenet_dry_run", limited, searcher, one_shot(config), config.budget, config.batch, config.seed)


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """Returns the winner training, from scratch or from extracted weights, with or without a teacher."""
    network = FinalMobileNet(space(), code, dropout=settings.dropout)
    augmentation = Augmentation(policy="randaugment", magnitude=5 / 3)
    alone = FinalTraining(network, functools.partial(load_images, config), settings.recipe, augmentation, settings.seed)
    if settings.teacher is None:
        return alone
    return alone.taught(read_teacher(settings.teacher), DISTILLATION)


@dataclasses.dataclass(frozen=True)
class Rank:
    """Settings of the trainings from scratch that the supernet is compared with.

    Attributes:
      epochs: number of training epochs of each network.
      images: number of training images.
      batch_size: number of images per step.
      learning_rate: peak learning rate.
    """

    epochs: int = 5
    images: int = 5_000
    batch_size: int = 64
    learning_rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Unshared:
    """The supernet as the network of candidates, each of which trains slices of weights of its own.

    Args:
      supernet: supernet whose program serves every code.
    """

    supernet: MobileNetSupernet

    @property
    def space(self) -> MobileNetSpace:
        """The space of the codes."""
        return self.supernet.space

    def init(self, key: PRNGKeyArray, code: Int[Array, " dims"]) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics, the same for all codes. The key is consumed."""
        del code
        return self.supernet.init(key)

    def apply(
        self,
        params: Tree,
        batch_stats: Tree,
        code: Int[Array, " dims"],
        images: Float[Array, "n h w c"],
        *,
        train: bool,
    ) -> tuple[Float[Array, "n classes"], Tree]:
        """Returns logits and updated batch statistics."""
        return self.supernet.apply(params, batch_stats, code, images, train=train)


def rank(config: Config, settings: Rank, directory: Path) -> Ranking:
    """Returns the comparison of supernet values with trainings from scratch of the same networks."""
    if config.supernet is None:
        config = dataclasses.replace(config, supernet=directory / "supernet")
    scratch = TrainConfig(
        settings.epochs,
        settings.batch_size,
        settings.learning_rate,
        warm_up=0.5,
        weight_decay=1e-4,
        augmentation=Augmentation(crop=4, flip=True),
    )
    data = hold_in_memory(load_images(config), settings.images)
    return Ranking({"one-shot": one_shot(config)}, FromScratch(Unshared(MobileNetSupernet(space())), data, scratch))


def largest() -> FinalMobileNet:
    """Returns the teacher network."""
    return FinalMobileNet(space(), ends(space())[0], dropout=0.0)


def stages(config: Config) -> tuple[Stage, ...]:
    """Returns the stages `lanas plan` compiles: supernet training, network evaluation and winner training."""
    data = stand_in(config.train, config.validation, (SIZE,) * 2 + (3,), CLASSES)
    measured, codes = one_shot(config), space()
    pool = code_pool.draw_codes(codes, POOL, measured.seed)
    supernet = SupernetTraining(
        measured.supernet, pool, measured.recipe, measured.augmentation, measured.seed, sandwich=measured.sandwich
    )
    valuing = Valuation(measured.supernet, data, measured.recalibration, measured.batch_size)
    code = code_pool.draw_codes(space(config.limit), 1, config.seed)[0]
    teacher = teachers.stand_in(largest())
    winner = final(config, Final(), code).taught(teacher, DISTILLATION)
    passes = [*codes.cost(ends(codes)).multiply_adds, *[mean_multiply_adds(codes, pool)] * 2]
    return (
        final_training(
            "supernet", supernet, data, float(np.mean(passes)), setting="--batch-size of lanas search", streamed=True
        ),
        valuation("search", valuing, budget=config.budget, batch=config.batch, setting="batch_size of its OneShot"),
        final_training(
            "final",
            winner,
            data,
            costs(winner.network, code)["multiply_adds"],
            setting="--recipe.batch-size of lanas train",
            streamed=True,
            teacher_multiply_adds=costs(teacher.network, teacher.network.code)["multiply_adds"],
        ),
    )
