"""ImageNet within 600 million multiply-adds: one elastic supernet, a search under the limit, the winner's training.

Source: section 5.2 of arXiv 1906.06832, which reports a top-1 accuracy of 80.8 % at 600 million multiply-adds for a
network from the space of once-for-all (arXiv 1908.09791). Neither that space's settings nor the training were
released: the recipes below are this project's, after BigNAS (arXiv 2003.11142) and EfficientNet (arXiv 1905.11946).
Nothing of this size has been run with this code. On 64 chips of TPU v5e the stages take at least 212, 0.7 and 68.3
chip-hours, by `lanas plan` (docs/planning.md, with its commands; the first with 256 pixels alone);
`experiments/imagenet_dry_run.py` runs all stages on two CPU cores.

`lanas supernet` and `lanas train` use the devices of as many hosts as they are started on, from a folder that all of
them see, `lanas search` those of one host. ImageNet has to be there as tensorflow-datasets prepares it
(docs/imagenet.md)::

    lanas plan imagenet_600m --topology v5e:8x8 --only final
    lanas supernet imagenet_600m --out runs/600m_supernet --hosts.automatic
    lanas search imagenet_600m --supernet runs/600m_supernet --out runs/600m   # 1,000 networks valued
    lanas extract runs/600m --code largest --out runs/600m_teacher   # the supernet's largest network
    lanas extract runs/600m --out runs/600m_winner
    lanas train runs/600m --weights runs/600m_winner --teacher runs/600m_teacher --hosts.automatic
    lanas export runs/600m
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import lanas_jax as lx
from lanas_jax.data import imagenet
from lanas_jax.data.crops import Crop
from lanas_jax.data.image_streams import DecoderWorkers
from lanas_jax.data.imagenet import Pictures
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.evaluators.one_shot import POOL, OneShot
from lanas_jax.export.load import read_weights
from lanas_jax.planning.stage import Stage, stand_in
from lanas_jax.planning.stages import final_training, mean_multiply_adds, valuation
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
from lanas_jax.trainer.teacher import NetworkTeacher
from lanas_jax.training.augmentation import Augmentation
from models.mobilenet import FinalMobileNet, MobileNetSupernet

SEARCHERS = {
    "lanas": functools.partial(lx.LaNAS, capacity=2048),
    "random": lx.RandomSearch,
    "evolution": lx.RegularizedEvolution,
}
SUPERNET = Recipe(
    epochs=180,
    batch_size=2048,
    nesterov=True,
    learning_rate=0.8,
    warm_up=5.0,
    weight_decay=1e-5,
    decay_all=False,
    clip=1.0,
    auxiliary_weight=0.0,
    drop_path=0.0,
    ema=0.9999,
    label_smoothing=0.1,
    train_on="train",
    validate_every=None,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: of the search; supernet and data have seeds of their own.
      budget: networks to value.
      batch: networks that are asked for and valued together.
      searcher: how networks are chosen.
      limit: millions of multiply-adds of one image's forward pass, a hard limit.
      latency: table that `experiments/latency_table.py` wrote; None: latencies are not looked at.
      max_milliseconds: hard limit on the latency of a batch of that table.
      width: multiplier of all channels.
      resolutions: heights and widths of images, in pixels.
      supernet: folder of a trained supernet, or where it is to be trained; default: in the run's folder.
      data_dir: where ImageNet is; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA.
      validation: training pictures that networks are compared on.
      recalibration: training images by which batch statistics are measured for each network.
      recipe: of the supernet.
      workers: processes that decode; 0: threads alone.
    """

    seed: int = 0
    budget: int = 1000
    batch: int = 20
    searcher: Literal["lanas", "random", "evolution"] = "lanas"
    limit: int = 600
    latency: Path | None = None
    max_milliseconds: float | None = None
    width: float = 1.2
    resolutions: tuple[int, ...] = (192, 224, 256)
    supernet: Path | None = None
    data_dir: Path | None = None
    validation: int = 10_000
    recalibration: int = 2_048
    recipe: Recipe = SUPERNET
    workers: int = 0


RECIPE = Recipe(
    epochs=150,
    batch_size=1024,
    optimizer="rmsprop",
    learning_rate=0.064,
    warm_up=5.0,
    weight_decay=1e-5,
    decay_all=False,
    clip=None,
    auxiliary_weight=0.0,
    drop_path=0.2,
    ema=0.9999,
    label_smoothing=0.1,
    train_on="train",
    validate_every=5,
)
DISTILLATION = 0.5  # weight of the teacher's part, where there is one


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner's training.

    Attributes:
      recipe: how it is trained.
      teacher: folder that ``lanas extract`` wrote, of the supernet's largest network; None: labels alone teach.
      dropout: probability with which a unit before the classifier is dropped.
      magnitude: of RandAugment.
      seed: of everything random.
    """

    recipe: Recipe = RECIPE
    teacher: Path | None = None
    dropout: float = 0.2
    magnitude: int = 9
    seed: int = 0


def space(config: Config) -> MobileNetSpace:
    """Of one width; a supernet has no limit."""
    return MobileNetSpace(widths=(config.width,), resolutions=config.resolutions)


def limited(config: Config) -> MobileNetSpace:
    """The part of it that is searched."""
    return MobileNetSpace(
        widths=(config.width,),
        resolutions=config.resolutions,
        max_multiply_adds=config.limit * 10**6,
        latency=None if config.latency is None else LatencyTable.read(config.latency),
        max_latency=None if config.max_milliseconds is None else int(config.max_milliseconds * 1e6),
    )


def load_images(config: Config) -> StreamedDataset:
    """The pictures, at the highest resolution; networks resize them."""
    crop = Crop(max(config.resolutions))
    return imagenet.load_imagenet(
        config.data_dir, Pictures(crop, config.validation, workers=DecoderWorkers(config.workers))
    )


def ends(codes: MobileNetSpace) -> np.ndarray:
    """The largest and the smallest network."""
    return np.array([codes.named_codes[name] for name in ("largest", "smallest")], np.int32)


def one_shot(config: Config) -> OneShot:
    """The supernet and its values."""
    supernet = MobileNetSupernet(space(config), jnp.bfloat16)
    largest, smallest = ends(supernet.space).tolist()
    return OneShot(
        supernet,
        functools.partial(load_images, config),
        config.recipe,
        directory=config.supernet,
        recalibration=config.recalibration,
        per_device=-(-config.batch // jax.local_device_count()),
        sandwich=Sandwich(tuple(largest), tuple(smallest)),
    )


def build(config: Config, name: str = "imagenet_600m") -> Experiment:
    """The search."""
    searched = limited(config)
    searcher = SEARCHERS[config.searcher](searched)
    return Experiment(name, searched, searcher, one_shot(config), config.budget, config.batch, config.seed)


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """The winner's training, from scratch or from extracted weights, with or without a teacher."""
    network = FinalMobileNet(space(config), code, jnp.bfloat16, settings.dropout)
    augmentation = Augmentation(policy="randaugment", magnitude=settings.magnitude)
    alone = FinalTraining(network, functools.partial(load_images, config), settings.recipe, augmentation, settings.seed)
    if settings.teacher is None:
        return alone
    return alone.taught(NetworkTeacher(largest(config), read_weights(settings.teacher)), DISTILLATION)


def largest(config: Config) -> FinalMobileNet:
    """The teacher's network."""
    return FinalMobileNet(space(config), ends(space(config))[0], jnp.bfloat16)


def stages(config: Config) -> tuple[Stage, ...]:
    """What `lanas plan` compiles: supernet, values of networks, and the training of a winner."""
    contents = imagenet.SOURCE.contents
    shape = (max(config.resolutions),) * 2 + (3,)
    data = stand_in(contents.train - config.validation, config.validation, shape, contents.classes)
    measured, codes = one_shot(config), space(config)
    pool = code_pool.draw_codes(codes, POOL, measured.seed)
    rule = measured.sandwich
    supernet = SupernetTraining(
        measured.supernet, pool, config.recipe, measured.augmentation, measured.seed, sandwich=rule
    )
    passes = np.concatenate([codes.cost(ends(codes)).multiply_adds, [mean_multiply_adds(codes, pool)] * rule.random])
    calibration = dataclasses.replace(data, train=stand_in(config.recalibration, 1, shape, contents.classes).train)
    valuing = Valuation(measured.supernet, calibration, measured.recalibration, measured.batch_size)
    code = code_pool.draw_codes(limited(config), 1, config.seed)[0]
    teacher = teachers.stand_in(largest(config))
    winner = final(config, Final(), code).taught(teacher, DISTILLATION)
    cost, said = (costs(network, network.code)["multiply_adds"] for network in (winner.network, teacher.network))
    return (
        final_training(
            "supernet",
            supernet,
            data,
            float(passes.mean()),
            setting="--recipe.batch-size of lanas search",
            streamed=True,
        ),
        valuation("search", valuing, budget=config.budget, batch=config.batch, setting="batch_size of its OneShot"),
        final_training(
            "final",
            winner,
            data,
            cost,
            setting="--recipe.batch-size of lanas train",
            streamed=True,
            teacher_multiply_adds=said,
        ),
    )
