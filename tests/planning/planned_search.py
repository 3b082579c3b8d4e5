"""Candidates of `experiments/digits.py` that train from scratch, with networks as small as can be."""

from lanas_jax.data import digits as images
from lanas_jax.experiments import digits
from lanas_jax.experiments.digits import Config, build
from lanas_jax.models.nasnet import NASNet
from lanas_jax.planning.stage import stand_in
from lanas_jax.planning.stages import candidates

__all__ = ["Config", "build", "stages"]

CANDIDATES = 256  # of a batch, one for each of 256 chips


def stages(config):
    small = digits.Config(blocks=1, channels=4, cells=2)
    network, data = NASNet(digits.space(small)), stand_in(1000, 400, (8, 8, 1), images.CLASSES)
    how = {"budget": 4 * CANDIDATES, "batch": CANDIDATES, "setting": "--batch-size"}
    return candidates("candidates", network, digits.training(small), data, **how)
