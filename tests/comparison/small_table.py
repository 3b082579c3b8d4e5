"""Every code of a small space, with values that have a pattern."""

import numpy as np

import lanas_jax as lx

SPACE = lx.SearchSpace([lx.Choice("op", ("a", "b", "c")), lx.Choice("mode", ("x", "y")), lx.Choice("width", range(8))])
CODES = SPACE.enumerate()
VALUES = (0.5 + 0.4 * np.sin(CODES @ [1.0, 2.0, 0.7]) / 2).astype(np.float32)
