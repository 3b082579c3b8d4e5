"""Benchmarks by name and by path, and the command line around them."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.cli import main
from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import read_npz
from lanas_jax.spaces.convnet import ConvNetSpace
from lanas_jax.tables import catalogue
from lanas_jax.tables.nats_bench import SHIPPED, save_shipped
from lanas_jax.tables.objectives import cost_names, objective_values
from lanas_jax.training.language import GUESSING

SHORT = {"cifar10": "c10", "cifar100": "c100", "imagenet16": "in16"}


@pytest.fixture(params=["nasbench201", "natsbench-size"])
def compact(request, tmp_path):
    """A small file in the compact form; the accuracy of row i on data set d is 10 i + d percent, one more in test."""
    rng = np.random.default_rng(0)
    accuracies = 10 * np.arange(5.0)
    if request.param == "nasbench201":
        operations = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
        fields = {"ops": np.eye(5, 6, dtype=np.int8), "op_names": np.array(operations)}
        fields |= {f"{s}_val_200": accuracies + d for d, s in enumerate(SHORT.values())}
        fields |= {f"{s}_test_200": accuracies + d + 1 for d, s in enumerate(SHORT.values())}
        path = tmp_path / "nasbench201.npz"
    else:
        fields = {"channels": (np.eye(5) * 56 + 8).astype(np.int16)}
        fields |= {f"{s}_test_90": accuracies + d for d, s in enumerate(SHORT.values())}
        path = tmp_path / "natsbench_size.npz"
    order = rng.permutation(5)
    np.savez(path, **{name: values if name == "op_names" else values[order] for name, values in fields.items()})
    return request.param, path


@pytest.mark.parametrize(("d", "dataset"), list(enumerate(SHORT)))
def test_compact_files_are_read_by_name_and_by_path(compact, d, dataset):
    name, path = compact
    offset = 1 if name == "nasbench201" else 0  # the size file has test accuracies only, which stand for both
    for found in (
        catalogue.find_benchmark(f"{name}-{dataset}", path.parent),
        catalogue.find_benchmark(f"{path}:{dataset}"),
    ):
        assert found.name == f"{name}-{dataset}"
        hot = np.zeros((2, found.space.dims), np.int32)
        hot[[0, 1], [1, 3]] = found.space.cardinalities[0] - 1 if name == "natsbench-size" else 1
        np.testing.assert_allclose(found.table().lookup(hot), [0.1 + d / 100, 0.3 + d / 100], rtol=1e-6)
        np.testing.assert_allclose(found.test_of(hot), [0.1 + (d + offset) / 100, 0.3 + (d + offset) / 100], rtol=1e-6)
        assert ("test accuracies are searched" in found.notes) == (name == "natsbench-size")


@pytest.mark.parametrize("compact", ["nasbench201"], indirect=True)
def test_latencies_and_energies_are_read_from_the_folder(compact):
    """A code that the file lacks, and a negative number, are not measured."""
    folder = compact[1].parent
    without = catalogue.find_benchmark("nasbench201-imagenet16", folder)
    message = (
        "no objective 'latency_chip'; choose from .*; latencies and energies need the file nasbench201_hardware.npz"
    )
    with pytest.raises(ValueError, match=message):
        objective_values(without, ("accuracy", "latency_chip"))
    codes = np.eye(5, 6, dtype=np.int8)[:4]
    columns = {"imagenet16_120_chip_latency": [1.5, 2.5, -1, 4.5], "imagenet16_120_chip_energy": [1, 2, 3, 4]}
    columns |= {"cifar10_chip_latency": [9] * 4, "imagenet16_120_chip_arithmetic_intensity": [9] * 4}
    floats = {name: np.float32(column) for name, column in columns.items()}
    np.savez(folder / "nasbench201_hardware.npz", codes=codes, **floats)
    found = catalogue.find_benchmark("nasbench201-imagenet16", folder)
    assert list(found.costs) == ["latency_chip", "energy_chip"]
    row = found.codes.argmax(axis=1)
    np.testing.assert_array_equal(found.costs["latency_chip"], np.float32([1.5, 2.5, np.nan, 4.5, np.nan])[row])
    values = objective_values(found, ("accuracy", "energy_chip"))
    np.testing.assert_array_equal(values[:, 1], np.float32([-1, -2, -3, -4, np.nan])[row])
    assert cost_names(found) == ("multiply_adds", "parameters", "latency_chip", "energy_chip")
    found.save(folder / "saved.npz")
    again = catalogue.find_benchmark(folder / "saved.npz")
    few = dataclasses.replace(again, throughputs={"chip": np.arange(5.0)}).within(min_throughputs={"chip": 2})
    for cost, column in found.costs.items():
        np.testing.assert_array_equal(again.costs[cost], column)
        np.testing.assert_array_equal(few.costs[cost], column[2:])
    nowhere = dataclasses.replace(found, costs={"latency_chip": np.full(5, np.nan, np.float32)})
    with pytest.raises(
        ValueError, match="no network of nasbench201-imagenet16 was measured in all of accuracy, latency"
    ):
        objective_values(nowhere, ("accuracy", "latency_chip"))
    np.savez(folder / "nasbench201_hardware.npz", codes=codes[:, :5], **floats)
    with pytest.raises(FileError, match=r"nasbench201_hardware.npz: codes must have shape"):
        catalogue.find_benchmark("nasbench201-imagenet16", folder)


def test_official_results_are_those_of_the_data():
    if "LANAS_DATA" not in os.environ:
        pytest.skip("LANAS_DATA does not name the folder of nasbench201.npz")
    found = catalogue.find_benchmark("nasbench201-cifar10")
    table = found.table()
    assert len(found) == found.space.size
    assert table.best == pytest.approx(0.91607, abs=5e-6)
    best = found.codes[[int(np.argmax(table.values))]]
    assert float(found.test_of(best)[0]) == pytest.approx(0.94373, abs=5e-6)
    sizes = [catalogue.find_benchmark(f"natsbench-size-{dataset}").table().best for dataset in SHORT]
    assert sizes == pytest.approx([0.9365, 0.7134, 0.4740])


@pytest.mark.parametrize("name", ["nasbench201", "natsbench-size", "mnasnet"])
def test_shipped_tables_are_the_files_they_were_made_from(name, monkeypatch):
    """They have every code, accuracy, throughput and note of the files, in the same order and to the last bit."""
    if "LANAS_DATA" not in os.environ:
        pytest.skip("LANAS_DATA does not name the folder of the files")
    for dataset in ("imagenet",) if name == "mnasnet" else SHORT:
        given = catalogue.find_benchmark(f"{name}-{dataset}")
        with monkeypatch.context() as unset:
            unset.delenv("LANAS_DATA")
            shipped = catalogue.find_benchmark(f"{name}-{dataset}")
        assert list(shipped.throughputs) == list(given.throughputs)
        for device, column in given.throughputs.items():
            np.testing.assert_array_equal(shipped.throughputs[device], column)
        assert (shipped.name, shipped.notes, shipped.space) == (given.name, given.notes, given.space)
        for part in ("codes", "validation", "test"):
            np.testing.assert_array_equal(getattr(shipped, part), getattr(given, part))


def test_shipped_tables_need_no_folder(monkeypatch):
    monkeypatch.delenv("LANAS_DATA", raising=False)
    found = catalogue.find_benchmark("nasbench201-cifar10")
    best = found.codes[[int(np.argmax(found.table().values))]]
    assert (len(found), float(found.test_of(best)[0])) == (15_625, pytest.approx(0.94373, abs=5e-6))
    assert [catalogue.find_benchmark(f"natsbench-size-{dataset}").table().best for dataset in SHORT] == pytest.approx(
        [0.9365, 0.7134, 0.4740]
    )
    assert catalogue.find_benchmark("mnasnet-imagenet").table().best == pytest.approx(0.67052)
    convnets = catalogue.find_benchmark("convnet-digits")
    assert (convnets.validation.shape, convnets.test.shape) == ((22_620, 2), (22_620, 2))
    assert (convnets.space, len(convnets)) == (ConvNetSpace(), convnets.space.size)
    columns = read_npz(SHIPPED / "convnet-digits.npz", ("parameters", "multiply_adds", "seconds"))
    cost = convnets.space.cost(convnets.codes)
    np.testing.assert_array_equal(columns["parameters"], cost.parameters)
    np.testing.assert_array_equal(columns["multiply_adds"], cost.multiply_adds)
    assert columns["seconds"].shape == (22_620, 2)
    missing = {entry.name for entry in catalogue.ENTRIES if catalogue.path_of(entry) is None}
    assert {name for name in missing if not name.startswith("fcnet")} == {"ecnas", "nasbench101"}


def test_all_recurrent_cells_are_shipped_with_every_training(monkeypatch):
    monkeypatch.delenv("LANAS_DATA", raising=False)
    found = catalogue.find_benchmark("recurrent-text")
    np.testing.assert_array_equal(found.codes, found.space.enumerate())
    assert found.validation.shape == found.test.shape == (6_225, 2)
    arrays = np.load(SHIPPED / "recurrent-text.npz")
    cost = found.space.cost(found.codes)
    np.testing.assert_array_equal(arrays["parameters"], cost.parameters)
    np.testing.assert_array_equal(arrays["multiply_adds"], cost.multiply_adds)
    assert found.validation.min() == found.test.min() == -GUESSING
    worst = (found.validation == -GUESSING) | (found.test == -GUESSING)
    assert worst[arrays["diverged"]].all()
    assert (SHIPPED / "recurrent-text.npz").stat().st_size < 2**20
    assert found.table().best == pytest.approx(-2.46762, abs=5e-6)


def test_tables_of_several_trainings_are_not_shipped(compact, tmp_path):
    name, path = compact
    found = [catalogue.find_benchmark(f"{path}:{dataset}") for dataset in SHORT]
    save_shipped(tmp_path / "some.npz", name, dict(zip(SHORT, found, strict=True)))
    again = catalogue.find_benchmark(f"{tmp_path / 'some.npz'}:cifar100")
    np.testing.assert_array_equal(again.validation, found[1].validation)
    np.testing.assert_array_equal(again.test, found[1].test)
    twice = dataclasses.replace(found[0], validation=np.tile(found[0].validation, 2))
    with pytest.raises(ValueError, match="has 2 trainings of each network; expected their mean"):
        save_shipped(tmp_path / "some.npz", name, {"cifar10": twice})
    with pytest.raises(ValueError, match="have different codes or notes"):
        save_shipped(
            tmp_path / "some.npz", name, {"cifar10": found[0], "cifar100": dataclasses.replace(found[1], notes="other")}
        )


def test_a_saved_benchmark_of_the_name_is_taken_first(compact):
    name, path = compact
    catalogue.find_benchmark(f"{path}:cifar100").save(path.parent / f"{name}-cifar10.npz")
    assert catalogue.find_benchmark(f"{name}-cifar10", path.parent).name == f"{name}-cifar100"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nasbench301", "neither a benchmark nor the path of an .npz file; choose from nasbench201-cifar10,"),
        (
            "nasbench101",
            "looked for nasbench101.npz in .*: lanas tables convert nasbench_only108.tfrecord nasbench101.npz",
        ),
        ("ecnas", "ecnas.npz and ecnas_5V9E_4epochs.npz in .*: lanas tables convert ecnas_5V9E_4epochs.npz"),
        ("none/x.npz", "none/x.npz: No such file or directory"),
    ],
)
def test_what_is_not_there_is_explained(tmp_path, name, message):
    with pytest.raises(FileError, match=message):
        catalogue.find_benchmark(name, tmp_path)


def test_without_a_folder_nothing_is_looked_for(monkeypatch):
    monkeypatch.delenv("LANAS_DATA", raising=False)
    with pytest.raises(FileError, match="ecnas: LANAS_DATA is not set"):
        catalogue.find_benchmark("ecnas")


def test_compact_files_are_checked(compact, tmp_path):
    name, path = compact
    with pytest.raises(FileError, match="one of the data sets cifar10, cifar100, imagenet16; none was given"):
        catalogue.find_benchmark(path)
    fields = dict(np.load(path))
    main_field = "ops" if name == "nasbench201" else "channels"
    first = "c10_val_200" if name == "nasbench201" else "c10_test_90"
    for field, change, message in (
        (main_field, lambda x: x[[0, 0, 1, 2, 3]], "1 rows of the table repeat the code of an earlier row: 1"),
        (main_field, lambda x: x + 9, "holds 9|holds 10|expected widths"),
        (first, lambda x: x * np.nan, "5 rows hold .* not in"),
        (first, lambda x: x[:3], "5 codes need"),
    ):
        np.savez(tmp_path / "bad.npz", **fields | {field: change(fields[field])})
        with pytest.raises(FileError, match=message):
            catalogue.find_benchmark(f"{tmp_path / 'bad.npz'}:cifar10")


def test_other_arrays_are_no_table(tmp_path):
    np.savez(tmp_path / "other.npz", some=np.zeros(3))
    with pytest.raises(FileError, match="not a table of results; found the fields some"):
        catalogue.find_benchmark(tmp_path / "other.npz")


def test_the_command_lists_what_is_there(compact, monkeypatch, capsys):
    name, path = compact
    monkeypatch.setenv("LANAS_DATA", str(path.parent))
    assert main(["tables"]) == 0
    rows = "".join(capsys.readouterr().out.split())  # long paths are folded
    assert rows.count(str(path)) == 3
    assert rows.count("inthispackage") == 3 + 3 + 1  # three tables of one dataset, and in the caption
    assert rows.count("notfound;lanastablesconvert") == 2
    assert name in rows


def test_the_command_converts(compact, tmp_path, capsys):
    name, path = compact
    out = tmp_path / "out.npz"
    assert main(["tables", "convert", str(path), str(out), "--dataset", "cifar10"]) == 0
    assert f"out.npz: {name}-cifar10, 5 networks" in capsys.readouterr().out
    assert len(lx.Benchmark.load(out)) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SOURCE", "OUT.npz"], "one of the data sets"),
        (["SOURCE", "OUT.csv", "--dataset", "cifar10"], "a file name that ends in .npz"),
        (["SOURCE", "none/OUT.npz", "--dataset", "cifar10"], "in a folder that exists"),
        (["README", "OUT.npz"], "expected a .tfrecord file of NAS-Bench-101, a folder"),
        (["none.tfrecord", "OUT.npz"], "none.tfrecord: No such file"),
    ],
)
def test_commands_that_cannot_be_carried_out_leave_nothing(compact, monkeypatch, capsys, arguments, message):
    path = compact[1]
    monkeypatch.chdir(path.parent)
    Path("README").write_text("not a table")
    before = sorted(os.listdir())
    assert main(["tables", "convert", *[path.name if a == "SOURCE" else a for a in arguments]]) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == before
