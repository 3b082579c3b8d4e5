"""Teachers from outside a run."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from lanas_jax.cli import main
from lanas_jax.export import load
from lanas_jax.export.teachers import read_teacher
from lanas_jax.storage.folder import RunError
from tests.trainer.tiny_experiment import SCALING, Config, dataset

EXPERIMENT = str(Path(__file__).parents[1] / "trainer" / "tiny_experiment.py")
IMAGES = dataset(Config()).test.images
MODULE = """
from flax import nnx
class Outside(nnx.Module):
    def __init__(self):
        self.head = nnx.Linear(36, 3, rngs=nnx.Rngs(0))
    def __call__(self, images):
        return self.head(images.reshape(len(images), -1))
made, number = Outside, 3
"""


@pytest.mark.slow
def test_a_teacher_from_outside(tmp_path, monkeypatch):
    """An exported network and its saved logits say the same; a module takes weights by name."""
    exported = tmp_path / "final" / "export"
    assert main(["train", EXPERIMENT, "--code", "0,1", "--preset", "short", "--out", str(exported.parent)]) == 0
    assert main(["export", str(exported.parent)]) == 0
    images = jnp.asarray(SCALING(jnp.asarray(IMAGES)))
    network = read_teacher(str(exported))
    np.testing.assert_allclose(network.logits(images), load.load(exported)(IMAGES), rtol=1e-5, atol=1e-6)
    np.savez(tmp_path / "said.npz", logits=np.asarray(network.logits(images)))
    np.testing.assert_array_equal(
        read_teacher(str(tmp_path / "said.npz")).known(jnp.arange(2)), network.logits(images)[:2]
    )
    (tmp_path / "outside_teacher.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "outside_teacher", raising=False)
    module = read_teacher("outside_teacher:made")
    assert module.logits(images).shape == (45, 3)
    weights = {"head/kernel": np.full((36, 3), 2.0, np.float32), "head/bias": np.zeros(3, np.float32)}
    (tmp_path / "weights").mkdir()
    safetensors.numpy.save_file(weights, tmp_path / "weights" / "weights.safetensors")
    filled = read_teacher("outside_teacher:made", tmp_path / "weights")
    np.testing.assert_allclose(filled.logits(images), 2 * images.sum((1, 2, 3))[:, None].repeat(3, 1), rtol=1e-4)
    assert filled.identity() != module.identity()
    safetensors.numpy.save_file({"head/kernel": weights["head/kernel"]}, tmp_path / "weights" / "weights.safetensors")
    for source, given, message in (
        ("outside_teacher:made", tmp_path / "weights", "the teacher's head/bias is absent, expected float32"),
        (
            "outside_teacher:missing",
            None,
            "outside_teacher:missing cannot be imported: module 'outside_teacher' has no",
        ),
        ("no_such_module:made", None, "no_such_module:made cannot be imported: No module named 'no_such_module'"),
        ("outside_teacher:number", None, "outside_teacher:number must be a flax.nnx.Module; got int"),
        (
            str(tmp_path / "nothing"),
            None,
            "the teacher must be a folder of lanas extract or lanas export, an .npz file",
        ),
        (str(exported), tmp_path / "weights", "has weights of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            read_teacher(source, given)
    with pytest.raises(RunError, match=r"contains no exported network: it has no architecture\.json"):
        read_teacher(str(tmp_path / "weights"))
