"""Images of a stream that are held in memory."""

import numpy as np
import pytest

from lanas_jax.data.streams import hold_in_memory
from tests.trainer import tiny_stream
from tests.trainer.tiny_experiment import Config, dataset


def test_the_validation_split_and_the_training_images_of_the_first_step_are_retained():
    streams, data = tiny_stream.streamed(Config()), dataset(Config()).search
    search = hold_in_memory(streams, 5, seed=3)
    np.testing.assert_array_equal(search.validation.images, data.validation.images)
    np.testing.assert_array_equal(search.validation.labels, data.validation.labels)
    first = next(streams.train.batches(3, 5, 0, host=0, hosts=1))
    np.testing.assert_array_equal(search.train.images, first.images)
    np.testing.assert_array_equal(search.train.labels, first.labels)
    assert (search.classes, search.scaling) == (streams.classes, streams.scaling)


def test_images_that_fill_the_last_batch_up_are_left_out():
    streams, data = tiny_stream.streamed(Config()), dataset(Config()).search
    (only,) = streams.validation.batches(256, host=0, hosts=1)
    assert len(only.labels) == 256 > len(data.validation)
    assert len(hold_in_memory(streams, 1).validation) == len(data.validation)


def test_part_of_the_validation_split_is_its_first_images():
    streams, data = tiny_stream.streamed(Config()), dataset(Config()).search
    search = hold_in_memory(streams, 1, validation=7)
    np.testing.assert_array_equal(search.validation.images, data.validation.images[:7])
    assert len(hold_in_memory(streams, 1, validation=10_000).validation) == len(data.validation)


@pytest.mark.parametrize("train", [0, 1_000_000])
def test_a_number_of_images_that_there_is_not(train):
    with pytest.raises(ValueError, match=rf"train must be 1 to \d+, .*; got {train}"):
        hold_in_memory(tiny_stream.streamed(Config()), train)
