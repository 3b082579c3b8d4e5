"""ImageNet within 240 million multiply-adds: `experiments/imagenet_600m.py` for smaller networks.

Source: section 5.2 of arXiv 1906.06832 reports a top-1 accuracy of 77.7 % at 240 million multiply-adds. Stages, recipes
and commands are those of the other experiment, at width 1.0 and lower resolutions. This code has not been run at this
size. On 64 TPU v5e chips, `lanas plan` gave a lower bound of 51.6 chip-hours for 150 epochs of the winner
(docs/planning.md). The recipes have 350 or 75, and 360 for the supernet::

    lanas plan imagenet_240m --topology v5e:8x8 --only final
    lanas supernet imagenet_240m --out runs/240m_supernet --hosts.automatic
    lanas search imagenet_240m --supernet runs/240m_supernet --out runs/240m
    lanas extract runs/240m --code largest --out runs/240m_teacher
    lanas extract runs/240m --out runs/240m_winner
    lanas train runs/240m --preset finetune --weights runs/240m_winner --teacher runs/240m_teacher --hosts.automatic
    lanas export runs/240m
"""

import dataclasses
from typing import ClassVar

from lanas_jax.experiments import imagenet_600m
from lanas_jax.experiments.imagenet_600m import PRESETS, Final, final, stages
from lanas_jax.study import Experiment

__all__ = ["PRESETS", "Config", "Final", "build", "final", "stages"]


@dataclasses.dataclass(frozen=True)
class Config(imagenet_600m.Config):
    """Settings of the search: those of `lanas_jax.experiments.imagenet_600m`, with other defaults."""

    limit: int = 240
    width: float = 1.0
    own_resolutions: ClassVar[tuple[int, ...]] = (160, 192, 224)


def build(config: Config) -> Experiment:
    """Returns the search experiment."""
    return imagenet_600m.build(config, "imagenet_240m")
