"""The history of a search: codes that build the same network are one trial."""

import jax.numpy as jnp
import numpy as np

from lanas_jax.searchers import history as hist
from lanas_jax.spaces.nasnet import SEP_CONV_3X3, SEP_CONV_5X5, NASNetSpace

SPACE = NASNetSpace(1)
CODE = jnp.array([[SEP_CONV_3X3, SEP_CONV_5X5, 0, 1]])
SWAPPED = jnp.array([[SEP_CONV_5X5, SEP_CONV_3X3, 1, 0]])  # the branches of the block the other way round


def test_a_result_closes_the_trial_of_an_equivalent_code():
    asked = hist.add_pending(hist.empty(SPACE, None, 4), SPACE.canonical(CODE))
    told, rows = hist.record(asked, SPACE, None, SWAPPED, jnp.array([0.5]))
    assert (rows.tolist(), int(told.count)) == ([0], 1)
    np.testing.assert_array_equal(told.codes[:1], SPACE.canonical(CODE))
    assert told.status.tolist() == [hist.DONE, *[hist.EMPTY] * 3]
    assert float(told.values[0]) == 0.5
