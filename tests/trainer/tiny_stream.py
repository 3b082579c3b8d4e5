"""The images of `tiny_experiment` as streams: in the order in which a training in memory sees them.

On two hosts: lanas train tests/trainer/tiny_stream.py --code 0,1 --out DIR --hosts.coordinator 127.0.0.1:9999
--hosts.count 2 --hosts.index 0, and another one with --hosts.index 1.
"""

import dataclasses
import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from lanas_jax.data.splits import Split
from lanas_jax.data.streams import Batch, StreamedDataset
from lanas_jax.storage.saving import digest
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.sgd import batch_order
from tests.trainer import tiny_experiment as tiny
from tests.trainer.tiny_experiment import Config, build

__all__ = ["Config", "Final", "build", "final"]


RECIPE = dataclasses.replace(tiny.RECIPE, train_on="train")


@functools.cache
def _order(images, batch_size):
    return jax.jit(lambda key, step: batch_order(key, images, batch_size, step, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """Batches of images in memory, in the order of a training that has them all.

    Attributes:
      split: the images.
      pause: seconds before each batch.
    """

    split: Split
    pause: float = 0.0

    def __len__(self):
        return len(self.split)

    @property
    def fingerprint(self):
        return digest((self.split.images, self.split.labels))

    def batches(self, seed, batch_size, first_step, *, host, hosts, transform=None):
        ordering = jax.random.split(jax.random.split(jax.random.key(seed))[1])[0]
        share, order = batch_size // hosts, _order(len(self.split), batch_size)
        for step in itertools.count(first_step):
            mine = np.asarray(order(ordering, jnp.int32(step)))[0][host * share : (host + 1) * share]
            time.sleep(self.pause)
            images = self.split.images[mine]
            if transform is not None:
                rng = np.random.default_rng((seed, step, host))
                images = np.stack([transform(image, rng) for image in images])
            yield Batch(images, self.split.labels[mine])


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Images in their order, once; hosts take turns within a batch."""

    split: Split

    def __len__(self):
        return len(self.split)

    @property
    def fingerprint(self):
        return digest((self.split.images, self.split.labels))

    def batches(self, batch_size, *, host, hosts):
        share = batch_size // hosts
        for first in range(0, len(self.split), batch_size):
            mine = slice(first + host * share, first + (host + 1) * share)
            images, labels = self.split.images[mine], self.split.labels[mine]
            missing = share - len(labels)
            padding = ((0, missing), (0, 0), (0, 0), (0, 0))
            yield Batch(np.pad(images, padding), np.pad(labels, (0, missing), constant_values=-1))


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the final training.

    Attributes:
      recipe: how it is trained.
      pause: seconds before each batch.
    """

    recipe: Recipe = RECIPE
    pause: float = 0.0


def streamed(config, pause=0.0):
    """The dataset."""
    data = tiny.dataset(config)
    train, validation, test = data.search.train, data.search.validation, data.test
    return StreamedDataset(
        Training(train, pause), Evaluation(validation), Evaluation(test), data.search.classes, (6, 6, 1), tiny.SCALING
    )


def final(config: Config, settings: Final, code) -> FinalTraining:
    """The final training of one network."""
    network = tiny.TinyNetwork(tiny.TinySpace(), tuple(int(i) for i in code))
    return FinalTraining(network, lambda: streamed(config, settings.pause), settings.recipe, tiny.MIRRORED)
