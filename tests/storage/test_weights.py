"""Weights by name: into a tree, onto a disk, and a digest of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.storage.saving import CheckpointError, load_tree, save_tree
from lanas_jax.storage.weights import check_weights, digest_by_name, filled, load_weights, names, save_weights
from lanas_jax.trainer.task import Weights

LIKE = Weights({"stem": {"kernel": jnp.zeros((2, 3))}, "head": [jnp.zeros(2), jnp.zeros(())]}, {"mean": jnp.ones(3)})
FOUND = {
    "params/stem/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "params/head/0": np.array([7, 8], np.float32),
    "params/head/1": np.array(9, np.float32),
    "batch_stats/mean": np.array([1, 2, 3], np.float32),
}


def test_names_say_where_leaves_are():
    assert set(names(LIKE)) == set(FOUND)


def test_filled_puts_each_array_in_its_place():
    tree = filled(LIKE, FOUND)
    assert jax.tree.structure(tree) == jax.tree.structure(LIKE)
    for name, leaf in names(tree).items():
        np.testing.assert_array_equal(leaf, FOUND[name])
    shapes = jax.eval_shape(lambda: LIKE)
    np.testing.assert_array_equal(filled(shapes, FOUND).params["head"][0], [7, 8])


def test_partly_filled_keeps_the_rest():
    tree = filled(LIKE, {"params/head/1": jnp.float32(5)}, partly=True)
    assert tree.params["head"][1] == 5
    assert tree.params["stem"]["kernel"] is LIKE.params["stem"]["kernel"]
    check_weights(LIKE, {}, partly=True)


def test_what_is_filled_in_are_copies():
    array = jnp.arange(2.0)
    tree = filled(LIKE, {"params/head/0": array}, partly=True)
    tree.params["head"][0].delete()
    assert not array.is_deleted()


@pytest.mark.parametrize(
    ("changes", "partly", "message"),
    [
        ({"params/head/0": np.zeros(3, np.float32)}, True, r"params/head/0 is float32\[3\], expected float32\[2\]"),
        ({"params/head/0": np.zeros(2, np.float16)}, True, r"params/head/0 is float16\[2\], expected float32\[2\]"),
        ({"params/tail": np.zeros(2, np.float32)}, True, r"params/tail is float32\[2\], expected none"),
        ({"params/tail": np.zeros(2, np.float32)}, False, r"params/tail is float32\[2\], expected none"),
        ({"batch_stats/mean": None}, False, r"batch_stats/mean is absent, expected float32\[3\]"),
    ],
)
def test_other_weights_are_named(changes, partly, message):
    found = {name: array for name, array in (FOUND | changes).items() if array is not None}
    for refusing in (filled, check_weights):
        with pytest.raises(ValueError, match=message):
            refusing(LIKE, found, partly=partly)


@pytest.mark.parametrize("name", ["weights", "[v2]", "a*", "**", "what?", "back\\slash", "s3:"])
def test_what_is_saved_is_loaded(tmp_path, name):
    save_weights(tmp_path / name, FOUND)
    there = load_weights(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert digest_by_name(there) == digest_by_name(FOUND)
    assert {name: array.tolist() for name, array in there.items()} == {n: a.tolist() for n, a in FOUND.items()}


def test_digest_is_of_names_and_numbers_in_any_order():
    assert digest_by_name(dict(reversed(FOUND.items()))) == digest_by_name(FOUND)
    swapped = FOUND | {"params/head/1": FOUND["batch_stats/mean"], "batch_stats/mean": FOUND["params/head/1"]}
    assert digest_by_name(swapped) != digest_by_name(FOUND)
    assert digest_by_name(FOUND | {"params/head/1": np.array(9.5, np.float32)}) != digest_by_name(FOUND)


def test_weights_in_a_folder_that_was_renamed_are_read(tmp_path):
    save_weights(tmp_path / "weights", FOUND)
    renamed = (tmp_path / "weights").rename(tmp_path / "best\\[1]")
    assert digest_by_name(load_weights(renamed)) == digest_by_name(FOUND)


def test_what_stands_there_is_replaced_only_by_permission(tmp_path):
    save_tree(tmp_path / "tree", {"a": np.zeros(2)})
    with pytest.raises(CheckpointError, match="already exists"):
        save_tree(tmp_path / "tree", {"a": np.ones(2)})
    save_tree(tmp_path / "tree", {"b": {"c": np.ones(2)}}, force=True)
    np.testing.assert_array_equal(load_tree(tmp_path / "tree")["b"]["c"], np.ones(2))


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_tree(tmp_path / "tree", {"a": np.array(["text"])})
    assert list(tmp_path.iterdir()) == []
