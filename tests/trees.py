"""Trees of arrays, compared."""

import jax
import numpy as np


def same(one, other):
    """Whether two trees of arrays are equal to the bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) and a.dtype == b.dtype for a, b in pairs)
