"""Recurrent language models: the code as data and as a module of its own."""

import jax
import numpy as np
from flax import nnx

from lanas_jax.models.recurrent import RecurrentModels
from lanas_jax.spaces.recurrent import RecurrentSpace

SPACE = RecurrentSpace(units=3, symbols=5)
MODELS = RecurrentModels(SPACE)


def test_both_forms_agree_and_hold_the_parameters_of_the_cost():
    codes = np.array(
        [*SPACE.named_codes.values(), (4, 3, 4, 6, 1, 2), (1, 1, 3, 4, 2, 0), (3, 0, 2, 5, 1, 0)], np.int32
    )
    params = MODELS.init(jax.random.key(0))
    symbols = jax.random.randint(jax.random.key(1), (6, 2), 0, 5)
    every, states = jax.vmap(lambda code: MODELS.apply(params, code, symbols, MODELS.state(2)))(codes)
    for i, code in enumerate(codes):
        network = MODELS.specialise(params, code)
        state = MODELS.state(2)
        for logits, now in zip(every[i], symbols, strict=True):
            found, state = network.step(now, state)
            np.testing.assert_allclose(found, logits, atol=1e-5)
        np.testing.assert_allclose(state.output, states.output[i], atol=1e-5)
        sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))]
        assert sum(sizes) == SPACE.cost(code[None]).parameters[0]
