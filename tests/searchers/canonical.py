"""The two ways in which searchers find codes, a pool and a lattice, each with one space and one size of batches.

Programs are compiled for a searcher's kind, its space and the number of codes asked for or told. Tests that share these
share programs; numbers such as `cp` are inputs of a program and may differ from test to test.
"""

import jax
import jax.numpy as jnp
import numpy as np

import lanas_jax as lx

BATCH = 4


def product(dims, options=4):
    """A space of equal choices."""
    return lx.SearchSpace([lx.Choice(f"c{i}", range(options)) for i in range(dims)])


POOL_SPACE = product(5)
POOL = POOL_SPACE.enumerate()[np.random.default_rng(0).permutation(1024)[:64]]
LATTICE_SPACE = product(20)  # 1e12 codes, more than are listed
CONDITIONAL = lx.SearchSpace(  # 176 networks
    [
        lx.Choice("optimizer", ("sgd", "adam")),
        lx.Range("rate", 1e-4, 1e-1, log=True, steps=4),
        lx.Range("momentum", 0.5, 0.9, steps=3, when={"optimizer": "sgd"}),
        lx.Range("layers", 1, 3),
        lx.Choice("width 2", (16, 32, 64), when={"layers": (2, 3)}),
        lx.Choice("norm 2", ("batch", "layer"), when={"width 2": (32, 64)}),
    ]
)
EFFECTS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


def additive(codes):
    """A value to which each choice adds its part."""
    codes = np.asarray(codes)
    return EFFECTS[np.arange(codes.shape[1]), codes].sum(axis=1)


def told(searcher, values):
    """The values of a trial, as many as the searcher has objectives: the second is another function of the first."""
    if isinstance(getattr(searcher, "objectives", 1), int):
        return values
    arrays = jnp if isinstance(values, jax.core.Tracer) else np
    return arrays.stack([values, arrays.cos(9 * values)], axis=1)


def run(searcher, batches, seed=0, value=additive, n=BATCH):
    """The state after so many batches, the codes asked for, and their values."""
    state, asked, answers = searcher.init(jax.random.key(seed)), [], []
    for _ in range(batches):
        state, codes = searcher.ask(state, n)
        codes = np.asarray(codes)
        real = codes[:, 0] >= 0
        if not real.any():
            break
        values = np.where(real, value(np.maximum(codes, 0)), np.nan).astype(np.float32)
        state = searcher.tell(state, codes, told(searcher, values))
        asked.append(codes[real])
        answers.append(values[real])
    return state, np.concatenate(asked), np.concatenate(answers)
