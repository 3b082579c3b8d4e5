"""Winner training with the programs of the search; saves the weights and measures the test accuracy.

This is the only place that reads test images (section 4 of arXiv 1906.06832: the winning network, once).
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from lanas_jax.candidates.population import CompiledPopulation
from lanas_jax.data.splits import Split
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage.saving import save_tree


@dataclasses.dataclass(frozen=True, eq=False)
class Retrained:
    """The trained winner.

    Attributes:
      params: parameters, in the code-as-data form.
      batch_stats: running batch statistics.
      validation_accuracy: accuracy on the search-validation split, in [0, 1].
      test_accuracy: accuracy on the test split, in [0, 1].
    """

    params: PyTree[np.ndarray] = dataclasses.field(repr=False)
    batch_stats: PyTree[np.ndarray] = dataclasses.field(repr=False)
    validation_accuracy: float
    test_accuracy: float


@in_32_bits
def retrain(
    programs: CompiledPopulation,
    test: Split,
    code: Int[np.ndarray | Array, " dims"],
    key: PRNGKeyArray,
    *,
    epochs: int,
    directory: Path,
) -> Retrained:
    """Trains one code for `epochs` epochs, saves its weights with orbax, then evaluates on the test split once.

    The programs of the search take the number of steps as data, so winner training needs no compilation.

    Args:
      programs: compiled programs of the search, with the training data.
      test: test split.
      code: code of the winner, ``int32[dims]``.
      key: PRNG key of this training; consumed.
      epochs: number of passes over the training images.
      directory: folder for the weights, overwritten; `lanas_jax.storage.saving.load_tree` reads it.

    Raises:
      CheckpointError: the weights cannot be written, or not read back.
      FloatingPointError: the loss became NaN or infinite.
    """
    state, codes = programs.fit(np.asarray(code, np.int32)[None], key[None], epochs)
    validation = programs.evaluate(state, codes, *programs.placed.held_out)
    loss = float(validation.loss[0])
    if not np.isfinite([loss, float(state.loss[0])]).all():
        raise FloatingPointError(
            f"the loss of the winner training is not finite after {int(state.step[0])} steps; lower the learning rate"
        )
    params, batch_stats = (_first(tree) for tree in (state.params, state.batch_stats))
    save_tree(local_path(directory), {"params": params, "batch_stats": batch_stats}, force=True)
    tested = programs.on(test, state, codes)
    return Retrained(
        params,
        batch_stats,
        float(validation.accuracy[0]),
        float(tested.accuracy[0]),
    )


def _first(tree: PyTree[Array]) -> PyTree[np.ndarray]:
    """Returns the first candidate's leaves on the host, so that saved weights depend on no device layout."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], tree)
