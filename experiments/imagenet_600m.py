"""ImageNet within 600 million multiply-adds: an elastic supernet, a search under the limit, and the winner training.

Source: section 5.2 of arXiv 1906.06832, which reports a top-1 accuracy of 80.8 % at 600 million multiply-adds for a
network from the space of once-for-all (arXiv 1908.09791). The settings of that space and its training were not
released: the recipes here are those of AlphaNet (arXiv 2102.07954), BigNAS (arXiv 2003.11142), once-for-all and
EfficientNet (arXiv 1905.11946); docs/imagenet.md names the source of each line. ``--space attentive`` searches the
space of AttentiveNAS (arXiv 2011.09011) instead, in which AlphaNet reaches 80.3 % at 491 and 80.8 % at 709 million.
This code has not been run at this size. On 64 TPU v5e chips, `lanas plan` gave lower bounds of 0.7 chip-hours for the
search and of 68.3 for 150 epochs of the winner (the commands are in docs/planning.md). The presets have 350 or 75
epochs, the supernet 360. `experiments/imagenet_dry_run.py` runs all stages on two CPU cores.

With ``--hosts.automatic``, `lanas supernet`, `lanas search` and `lanas train` use the devices of all hosts they are
started on, which need a shared folder. ImageNet must be prepared by tensorflow-datasets (docs/imagenet.md)::

    lanas plan imagenet_600m --topology v5e:8x8 --only final
    lanas supernet imagenet_600m --out runs/600m_supernet --hosts.automatic
    lanas search imagenet_600m --supernet runs/600m_supernet --out runs/600m   # evaluates 1,000 networks; a front of
                                # accuracy and latency: --objectives accuracy,latency --latency TABLE (latency_table)
    lanas extract runs/600m --code largest --out runs/600m_teacher   # the supernet's largest network
    lanas extract runs/600m --out runs/600m_winner
    lanas train runs/600m --preset finetune --weights runs/600m_winner --teacher runs/600m_teacher --hosts.automatic
    lanas export runs/600m

The winner is either finetuned from the supernet's weights or trained from scratch (``--preset from_scratch``, the
default, without ``--weights``), with any teacher.
"""

import dataclasses
import functools
from pathlib import Path
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np

import lanas_jax as lx
from lanas_jax.data import imagenet
from lanas_jax.data.crops import Crop
from lanas_jax.data.image_streams import DecoderWorkers
from lanas_jax.data.imagenet import Pictures
from lanas_jax.data.splits import SearchData
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.evaluators.one_shot import POOL, OneShot
from lanas_jax.experiments.several_objectives import front_searcher, objective_names
from lanas_jax.export.teachers import read_teacher
from lanas_jax.models.layers.norm import NORM, NormConstants
from lanas_jax.models.mobilenet import AttentiveSupernet, FinalMobileNet, MobileNetSupernet
from lanas_jax.models.mobilenet.network import PUBLISHED_NORM
from lanas_jax.planning.input_speed import PICTURES
from lanas_jax.planning.stage import Stage, StreamedInput, stand_in
from lanas_jax.planning.stages import final_training, mean_multiply_adds, valuation
from lanas_jax.runtime.devices import per_device_share
from lanas_jax.searchers.base import Searcher
from lanas_jax.spaces.attentive import RESOLUTIONS, AttentiveSpace
from lanas_jax.spaces.latency import LatencyTable
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.study import Experiment
from lanas_jax.supernet import code_pool
from lanas_jax.supernet.sandwich import Sandwich
from lanas_jax.supernet.training import SupernetTraining
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer import teacher as teachers
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining, costs
from lanas_jax.training.augmentation import Augmentation

SEARCHERS = {
    "lanas": functools.partial(lx.LaNAS, capacity=2048),
    "random": lx.RandomSearch,
    "evolution": lx.RegularizedEvolution,
}
# The sources of each line of the three recipes are in docs/imagenet.md.
SUPERNET = Recipe(
    epochs=360,
    batch_size=2048,
    nesterov=True,
    learning_rate=0.8,
    final_learning_rate=0.04,
    warm_up=5.0,
    constant_epochs=18.0,
    weight_decay=1e-5,
    decay_all=False,
    clip=1.0,
    clip_by="value",
    auxiliary_weight=0.0,
    drop_path=0.0,
    ema=0.9999,
    label_smoothing=0.1,
    train_on="train",
    validate_every=None,
    normalize_over="device",
)
WATCHED = 2_000  # search-validation images on which five networks are measured after each epoch of the supernet
SUPERNET_AUGMENTATION = Augmentation(policy="autoaugment_imagenet")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: random seed of the search; supernet and data have separate seeds.
      space: search space, that of once-for-all or that of AttentiveNAS, whose widths are elastic.
      budget: number of networks to evaluate.
      batch: number of networks asked for and evaluated together.
      searcher: search algorithm; with several objectives ParetoLaNAS, random search or NSGA-II.
      objectives: names of the objectives, separated by commas: accuracy, multiply-adds, parameters, and with a latency
        table latency. With several, the winner is the knee of their front.
      limit: hard limit on the multiply-adds of one image's forward pass, in millions.
      latency: file of a latency table written by `experiments/latency_table.py`, for once_for_all; None for no
        latencies.
      max_milliseconds: hard limit on the latency per batch according to the table, in milliseconds.
      width: multiplier of all channel numbers, for once_for_all.
      resolutions: possible heights and widths of the images, in pixels, ascending; attentive has 192, 224, 256 and 288.
        None for the experiment's own of once_for_all, or all of attentive.
      supernet: folder of the trained supernet, which is trained there if missing; default: inside the run folder.
      data_dir: folder of ImageNet; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA.
      validation: number of training images held out for search validation, on which networks are compared.
      recalibration: number of training images for measuring each network's batch statistics.
      recipe: training recipe of the supernet.
      workers: number of decoder processes; 0 for threads only.
    """

    seed: int = 0
    space: Literal["once_for_all", "attentive"] = "once_for_all"
    budget: int = 1000
    batch: int = 20
    searcher: Literal["lanas", "random", "evolution"] = "lanas"
    objectives: str = "accuracy"
    limit: int = 600
    latency: Path | None = None
    max_milliseconds: float | None = None
    width: float = 1.2
    resolutions: tuple[int, ...] | None = None
    supernet: Path | None = None
    data_dir: Path | None = None
    validation: int = 10_000
    recalibration: int = 2_048
    recipe: Recipe = SUPERNET
    workers: int = 0
    own_resolutions: ClassVar[tuple[int, ...]] = (192, 224, 256)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The possible heights and widths of the images, in pixels."""
        if self.resolutions is not None:
            return self.resolutions
        return RESOLUTIONS if self.space == "attentive" else self.own_resolutions


FROM_SCRATCH = Recipe(
    epochs=350,
    batch_size=1024,
    optimizer="rmsprop",
    learning_rate=0.064,
    warm_up=5.0,
    weight_decay=1e-5,
    decay_all=False,
    clip=None,
    auxiliary_weight=0.0,
    drop_path=0.2,
    drop_path_schedule="constant",
    ema=0.9999,
    label_smoothing=0.1,
    train_on="train",
    validate_every=5,
)
FINETUNE = dataclasses.replace(
    FROM_SCRATCH, epochs=75, optimizer="sgd", nesterov=True, learning_rate=0.008, warm_up=0.0
)
DISTILLATION = 0.5  # weight of the distillation loss, if there is a teacher


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner training.

    Attributes:
      recipe: training recipe.
      teacher: teacher for distillation: a folder of lanas extract or lanas export, such as the supernet's largest
        network, or MODULE:ATTRIBUTE of a Flax module; None for no distillation.
      teacher_weights: folder with the weights of a Flax module; None for its own.
      dropout: dropout rate before the classifier.
      magnitude: mean magnitude of RandAugment, in tenths.
      magnitude_deviation: standard deviation of the magnitude, in tenths.
      erasing: probability of erasing a random box of an image.
      mixup: alpha of mixup; 0 disables it.
      norm_momentum: momentum of running batch statistics.
      norm_epsilon: constant added to variances in batch normalization.
      seed: random seed.
    """

    recipe: Recipe = FROM_SCRATCH
    teacher: str | None = None
    teacher_weights: Path | None = None
    dropout: float = 0.2
    magnitude: float = 9.0
    magnitude_deviation: float = 0.5
    erasing: float = 0.2
    mixup: float = 0.2
    norm_momentum: float = PUBLISHED_NORM.momentum
    norm_epsilon: float = PUBLISHED_NORM.epsilon
    seed: int = 0


PRESETS = {
    "from_scratch": Final(),
    "finetune": Final(FINETUNE, mixup=0.0, norm_momentum=NORM.momentum, norm_epsilon=NORM.epsilon),
}


def space(config: Config) -> MobileNetSpace | AttentiveSpace:
    """Returns the supernet's space, which has no limits.

    Raises:
      ValueError: a setting does not fit the space.
    """
    if config.space == "attentive":
        return _attentive(config)
    return MobileNetSpace(widths=(config.width,), resolutions=config.sizes)


def limited(config: Config) -> MobileNetSpace | AttentiveSpace:
    """Returns the searched space, which has limits.

    Raises:
      ValueError: a setting does not fit the space.
    """
    most = config.limit * 10**6
    if config.space == "attentive":
        return _attentive(config, most)
    return MobileNetSpace(
        widths=(config.width,),
        resolutions=config.sizes,
        max_multiply_adds=most,
        latency=None if config.latency is None else LatencyTable.read(config.latency),
        max_latency=None if config.max_milliseconds is None else int(config.max_milliseconds * 1e6),
    )


def _attentive(config: Config, most: int | None = None) -> AttentiveSpace:
    for setting, default in (("width", type(config).width), ("latency", None), ("max_milliseconds", None)):
        if getattr(config, setting) != default:
            option = f"--{setting.replace('_', '-')}"
            raise ValueError(f"space attentive does not take {option}, which is for space once_for_all: leave it out")
    missing = [str(size) for size in config.sizes if size not in RESOLUTIONS]
    if missing:
        raise ValueError(
            f"space attentive has no resolution of {', '.join(missing)} pixels; choose from "
            f"{', '.join(map(str, RESOLUTIONS))}"
        )
    return AttentiveSpace(resolutions=config.sizes, max_multiply_adds=most)


def supernet(config: Config) -> AttentiveSupernet | MobileNetSupernet:
    """Returns the supernet."""
    codes = space(config)
    if isinstance(codes, AttentiveSpace):
        return AttentiveSupernet(codes, jnp.bfloat16, zero_residuals=True)
    return MobileNetSupernet(codes, jnp.bfloat16, zero_residuals=True)


def load_images(config: Config, resolution: int | None = None) -> StreamedDataset:
    """Loads the images at a resolution, by default the highest one, from which a supernet's networks resize them."""
    crop = Crop(resolution or max(config.sizes))
    return imagenet.load_imagenet(
        config.data_dir, Pictures(crop, config.validation, workers=DecoderWorkers(config.workers))
    )


def ends(codes: MobileNetSpace | AttentiveSpace) -> np.ndarray:
    """Returns the codes of the largest and the smallest network."""
    return np.array([codes.named_codes[name] for name in ("largest", "smallest")], np.int32)


def one_shot(config: Config) -> OneShot:
    """Returns the evaluator that values networks by one supernet."""
    network = supernet(config)
    largest, smallest = ends(network.space).tolist()
    return OneShot(
        network,
        functools.partial(load_images, config),
        config.recipe,
        SUPERNET_AUGMENTATION,
        directory=config.supernet,
        recalibration=config.recalibration,
        per_device=per_device_share(config.batch),
        sandwich=Sandwich(tuple(largest), tuple(smallest), gradient="sum", dropout=0.2, drop_path=0.2),
        watched=WATCHED,
    )


def build(config: Config, name: str = "imagenet_600m") -> Experiment:
    """Returns the search experiment."""
    searched = limited(config)
    searcher: Searcher = SEARCHERS[config.searcher](searched)
    if names := objective_names(config.objectives):
        searcher = front_searcher(config.searcher, searched, names, capacity=2048)
    numbers = config.budget, config.batch, config.seed
    return Experiment(name, searched, searcher, one_shot(config), *numbers, objectives=names)


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """Returns the winner training, from scratch or from extracted weights, with or without a teacher."""
    norm = NormConstants(settings.norm_momentum, settings.norm_epsilon)
    network = FinalMobileNet(space(config), code, jnp.bfloat16, settings.dropout, norm)
    augmentation = Augmentation(
        policy="randaugment",
        magnitude=settings.magnitude,
        magnitude_deviation=settings.magnitude_deviation,
        erasing=settings.erasing,
        mixup=settings.mixup,
    )
    dataset = functools.partial(load_images, config, network.spec.resolution)
    alone = FinalTraining(network, dataset, settings.recipe, augmentation, settings.seed)
    if settings.teacher is None:
        return alone
    return alone.taught(read_teacher(settings.teacher, settings.teacher_weights), DISTILLATION)


def largest(config: Config) -> FinalMobileNet:
    """Returns the supernet's largest network."""
    return FinalMobileNet(space(config), ends(space(config))[0], jnp.bfloat16)


def stages(config: Config) -> tuple[Stage, ...]:
    """Returns the stages `lanas plan` compiles: supernet training, network evaluation and winner training."""
    contents = imagenet.SOURCE.contents

    def images(resolution: int) -> SearchData:
        shape = (resolution, resolution, 3)
        return stand_in(contents.train - config.validation, config.validation, shape, contents.classes)

    def reading(resolution: int, augmentation: Augmentation) -> StreamedInput:
        pictures = functools.partial(imagenet.sample_pictures, PICTURES, config.data_dir)
        return StreamedInput(Crop(resolution), augmentation, pictures)

    data = images(max(config.sizes))
    measured, codes = one_shot(config), space(config)
    pool = code_pool.draw_codes(codes, POOL, measured.seed)
    rule = measured.sandwich
    elastic = SupernetTraining(
        measured.supernet, pool, config.recipe, measured.augmentation, measured.seed, sandwich=rule
    )
    passes = np.concatenate([codes.cost(ends(codes)).multiply_adds, [mean_multiply_adds(codes, pool)] * rule.random])
    calibrating = stand_in(config.recalibration, 1, data.image_shape, contents.classes).train
    calibration = dataclasses.replace(data, train=calibrating)
    valuing = Valuation(measured.supernet, calibration, measured.recalibration, measured.batch_size)
    code = code_pool.draw_codes(limited(config), 1, config.seed)[0]
    teacher = teachers.stand_in(largest(config))
    winner = final(config, Final(), code).taught(teacher, DISTILLATION)
    cost, said = (costs(network, network.code)["multiply_adds"] for network in (winner.network, teacher.network))
    return (
        final_training(
            "supernet",
            elastic,
            data,
            float(passes.mean()),
            setting="--recipe.batch-size of lanas search",
            streamed=True,
            reading=reading(max(config.sizes), measured.augmentation),
        ),
        valuation("search", valuing, budget=config.budget, batch=config.batch, setting="batch_size of its OneShot"),
        final_training(
            "final",
            winner,
            images(space(config).network(code).resolution),
            cost,
            setting="--recipe.batch-size of lanas train",
            streamed=True,
            reading=reading(space(config).network(code).resolution, winner.augmentation),
            teacher_multiply_adds=said,
        ),
    )
