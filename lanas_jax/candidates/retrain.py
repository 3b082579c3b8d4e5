"""A search's winner trained longer by the programs of the search: its weights saved, its test accuracy read.

This is the one place where test images are looked at (section 4 of arXiv 1906.06832: the found network, once).
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from lanas_jax.candidates.population import CompiledPopulation
from lanas_jax.data.splits import Split


@dataclasses.dataclass(frozen=True, eq=False)
class Retrained:
    """The final network.

    Attributes:
      params: its parameters, in the form with the code as data.
      batch_stats: its running batch statistics.
      validation_accuracy: on the search-validation split, in [0, 1].
      test_accuracy: on the test split, in [0, 1].
    """

    params: PyTree[np.ndarray] = dataclasses.field(repr=False)
    batch_stats: PyTree[np.ndarray] = dataclasses.field(repr=False)
    validation_accuracy: float
    test_accuracy: float


def retrain(
    programs: CompiledPopulation,
    test: Split,
    code: Int[np.ndarray | Array, " dims"],
    key: PRNGKeyArray,
    *,
    epochs: int,
    directory: Path,
) -> Retrained:
    """Trains one code for `epochs` epochs, saves its weights with orbax and then reads the test split, once.

    The programs are those of the search: the number of steps is data to them, so the finale need not compile.

    Args:
      programs: compiled programs; the training data is with them.
      test: the test split.
      code: the winner.
      key: of this training; consumed.
      epochs: passes over the training images.
      directory: where the weights go, made anew: `orbax.checkpoint.StandardCheckpointer().restore` reads it.

    Raises:
      FloatingPointError: the loss became NaN or infinite.
    """
    import orbax.checkpoint as ocp

    state, codes = programs.fit(np.asarray(code, np.int32)[None], key[None], epochs)
    validation = programs.evaluate(state, codes, *programs.placed.held_out)
    loss = float(validation.loss[0])
    if not np.isfinite([loss, float(state.loss[0])]).all():
        raise FloatingPointError(f"the loss of the final training is not finite after {int(state.step[0])} steps")
    params, batch_stats = (_first(tree) for tree in (state.params, state.batch_stats))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory.absolute(), {"params": params, "batch_stats": batch_stats}, force=True)
    tested = programs.on(test, state, codes)
    return Retrained(
        params,
        batch_stats,
        float(validation.accuracy[0]),
        float(tested.accuracy[0]),
    )


def _first(tree: PyTree[Array]) -> PyTree[np.ndarray]:
    """The first candidate's leaves, on the host: weights to keep are tied to no device layout."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], tree)
