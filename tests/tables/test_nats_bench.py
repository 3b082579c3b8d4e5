"""Conversion of NATS-Bench's official folders, written here through the benchmark's own package."""

import itertools

import numpy as np
import pytest

from lanas_jax.formats.errors import FileError
from lanas_jax.tables import nats_bench as reader

nats_bench = pytest.importorskip("nats_bench", reason="the extra 'nats' is not installed")

CELLS = [
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|",
]
SIZES = ["8:64:16:24:32", "8:8:8:8:8"]
SEEDS = {0: (777,), 1: (777, 888, 999)}  # networks were trained one to three times
PARTS = {"cifar10-valid": ("x-valid",), "cifar10": ("ori-test",), "cifar100": ("x-valid", "x-test")}
PARTS["ImageNet16-120"] = PARTS["cifar100"]


def accuracy(index, dataset, part, seed):
    """In percent; different for every training."""
    return 10 + 20 * index + 5 * list(PARTS).index(dataset) + 2 * (part == "x-valid") + (seed - 777) / 1000


def write(folder, archs, epochs):
    """What the authors' packing script leaves: a pickle of names, and one per network; epochs cut to 2."""
    folder.mkdir()
    nats_bench.pickle_save({"meta_archs": archs, "total_archs": len(archs)}, folder / "meta.pickle")
    for index, arch in enumerate(archs):
        results = nats_bench.ArchResults(index, arch)
        for dataset, seed in itertools.product(PARTS, SEEDS[index]):
            result = nats_bench.ResultsCount(
                dataset, None, {0: 1.0, 1: 2.0}, {0: 1.0, 1: 0.5}, 1.0, 1.0, {}, seed, 2, None
            )
            for part in PARTS[dataset]:
                values = {f"{part}@0": 1.0, f"{part}@1": accuracy(index, dataset, part, seed)}
                result.update_eval(values, values, values)
            results.update(dataset, seed, result)
        nats_bench.pickle_save({epochs: results.state_dict()}, folder / f"{index:06d}.pickle")


@pytest.fixture
def cells(tmp_path):
    write(tmp_path / "NATS-tss-v1_0-3ffb9-simple", CELLS, "200")
    return tmp_path / "NATS-tss-v1_0-3ffb9-simple"


@pytest.fixture
def sizes(tmp_path):
    write(tmp_path / "NATS-sss-v1_0-50262-simple", SIZES, "90")
    return tmp_path / "NATS-sss-v1_0-50262-simple"


@pytest.mark.parametrize("dataset", reader.DATASETS)
def test_every_training_counts(cells, sizes, dataset):
    validation = ("cifar10-valid", "x-valid") if dataset == "cifar10" else (dataset, "x-valid")
    test = ("cifar10", "ori-test") if dataset == "cifar10" else (dataset, "x-test")
    official = {"imagenet16": "ImageNet16-120"}
    for folder, names in ((cells, CELLS), (sizes, SIZES)):
        benchmark = reader.read_official(folder, dataset)
        assert [benchmark.space.arch_string(code) for code in benchmark.codes] == names
        for found, (name, part) in ((benchmark.validation, validation), (benchmark.test, test)):
            for index, row in enumerate(found):
                trainings = [accuracy(index, official.get(name, name), part, seed) / 100 for seed in SEEDS[index]]
                np.testing.assert_allclose(np.sort(row), np.sort(np.resize(trainings, 3)), rtol=1e-6)


def test_two_and_three_trainings_weigh_alike():
    found = reader._even([[0.1, 0.2], [0.3, 0.6, 0.9]])
    assert found.shape == (2, 6)
    np.testing.assert_allclose(found.mean(axis=1), [0.15, 0.6], rtol=1e-6)


def test_a_damaged_network_is_named(cells):
    (cells / "000001.pickle.pbz2").write_bytes(b"BZh91AY&SY damaged")
    with pytest.raises(FileError, match="network 1 cannot be read: OSError"):
        reader.read_official(cells, "cifar10")


def test_a_missing_network_is_named(cells):
    (cells / "000001.pickle.pbz2").unlink()
    with pytest.raises(FileError, match="network 1 cannot be read: AssertionError: invalid data path"):
        reader.read_official(cells, "cifar10")


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"expected a folder NATS-tss-.*-simple or NATS-sss-.*-simple"):
        reader.read_official(tmp_path, "cifar10")


def test_other_data_sets_are_refused(cells):
    with pytest.raises(ValueError, match="expected a data set of cifar10, cifar100, imagenet16; got 'svhn'"):
        reader.read_official(cells, "svhn")
