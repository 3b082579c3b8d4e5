"""The history of a search: codes that build the same network are one trial."""

import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.searchers import history as hist
from lanas_jax.spaces.nasnet import SEP_CONV_3X3, SEP_CONV_5X5, NASNetSpace
from tests.searchers.canonical import CONDITIONAL

CELL = jnp.array([[SEP_CONV_3X3, SEP_CONV_5X5, 0, 1]])
SWAPPED = jnp.array([[SEP_CONV_5X5, SEP_CONV_3X3, 1, 0]])  # the branches of the block the other way round
ADAM = jnp.array([[1, 2, 0, 0, 0, 0]])
WITH_MOMENTUM = jnp.array([[1, 2, 2, 0, 0, 1]])  # Adam has none, and the second layer's norm needs the layer


@pytest.mark.parametrize(
    ("space", "code", "same"), [(NASNetSpace(1), CELL, SWAPPED), (CONDITIONAL, ADAM, WITH_MOMENTUM)]
)
def test_a_result_closes_the_trial_of_an_equivalent_code(space, code, same):
    asked = hist.add_pending(hist.empty(space, None, 4), space.canonical(code))
    told, rows = hist.record(asked, space, None, same, jnp.array([0.5]))
    assert (rows.tolist(), int(told.count)) == ([0], 1)
    np.testing.assert_array_equal(told.codes[:1], space.canonical(code))
    assert told.status.tolist() == [hist.DONE, *[hist.EMPTY] * 3]
    assert float(told.values[0]) == 0.5
