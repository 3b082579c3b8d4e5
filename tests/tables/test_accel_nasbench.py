"""Accel-NASBench: what is read from its file, hard limits, and what is refused."""

import numpy as np
import pytest

from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import read_npz
from lanas_jax.tables.accel_nasbench import FIELDS, FILE, from_accel_nasbench
from lanas_jax.tables.benchmark import Benchmark
from lanas_jax.tables.nats_bench import SHIPPED


@pytest.fixture(scope="module")
def fields():
    return read_npz(SHIPPED / FILE, FIELDS)


@pytest.fixture(scope="module")
def shipped():
    return from_accel_nasbench(SHIPPED / FILE)


def test_networks_that_were_trained_twice_have_the_means_of_both_trainings(fields, shipped):
    codes = fields["codes"]
    assert (len(codes), len(shipped)) == (5_138, 5_125)
    first, second = 13, 455  # rows of one network
    assert (codes[first] == codes[second]).all()
    values, speeds = fields["values"][[first, second]], fields["throughput_tpuv3"][[first, second]]
    np.testing.assert_array_equal(shipped.codes[:400], codes[:400])
    assert shipped.validation[first, 0] == values.mean(dtype=np.float64).astype(np.float32)
    assert shipped.throughputs["tpuv3"][first] == speeds.mean(dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(shipped.validation[14:400, 0], fields["values"][14:400])


# The best accuracies under the limits, as published: 5,138 trainings sorted by their published multiply-adds.
@pytest.mark.parametrize(("limit", "best"), [(300, 0.6474), (400, 0.6546), (500, 0.6615), (600, 0.6665)])
def test_best_networks_under_limits_on_multiply_adds(shipped, limit, best):
    within = shipped.within(limit)
    assert within.table().best == pytest.approx(best, abs=5e-5)
    assert within.space.cost(within.codes).multiply_adds.max() <= limit * 10**6
    assert within.name == f"mnasnet-imagenet, at most {limit} M multiply-adds"


def test_limits_on_throughput_leave_measured_networks(shipped, tmp_path):
    within = shipped.within(400, {"tpuv3": 1500, "a100": 9000})
    kept = (shipped.throughputs["tpuv3"] >= 1500) & (shipped.throughputs["a100"] >= 9000)
    kept &= shipped.space.cost(shipped.codes).multiply_adds <= 400e6
    np.testing.assert_array_equal(within.codes, shipped.codes[kept])
    assert within.name.endswith(", at least 1500 images/s on tpuv3, at least 9000 images/s on a100")
    assert 40 < np.isnan(shipped.throughputs["tpuv3"]).sum() < 50
    within.save(tmp_path / "within.npz")
    again = Benchmark.load(tmp_path / "within.npz")
    np.testing.assert_array_equal(again.throughputs["tpuv3"], within.throughputs["tpuv3"])
    assert (again.space, again.name) == (within.space, within.name)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((50, None), r"has at most 50 M multiply-adds: they have 84\.1 to 719\.0"),
        ((float("nan"), None), "a limit must be a positive number of M multiply-adds; got nan"),
        ((-1, None), "a limit must be a positive number of M multiply-adds; got -1"),
        ((None, {"tpuv3": 2000}), r"has at least 2000 images/s on tpuv3: they have 633\.7 to 1,803\.3"),
        ((None, {"tpuv3": float("nan")}), "a limit must be a positive number of images/s on tpuv3; got nan"),
        ((None, {"tpuv9": 1}), "no throughput of 'tpuv9'; it has tpuv2, tpuv3, a100, 3090, zcu102, vck190"),
        ((100, {"zcu102": 1000, "tpuv3": 1790}), "no network of mnasnet-imagenet"),
    ],
)
def test_limits_that_no_network_meets_are_refused(shipped, limits, message):
    with pytest.raises(ValueError, match=message):
        shipped.within(*limits)


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("choice_options", lambda x: x[::-1], "expected the choices of MnasNetSpace"),
        ("choice_names", lambda x: x[:9], "expected the choices of MnasNetSpace"),
        ("codes", lambda x: x + 3, "code 0: position 0"),
        ("values", lambda x: x * 100, "validation values that are not in"),
        ("throughput_a100", lambda x: x[:9], "5138 codes need throughput_a100 of shape"),
    ],
)
def test_files_of_other_networks_are_refused(fields, tmp_path, field, change, message):
    np.savez(tmp_path / "other.npz", **fields | {field: change(fields[field])})
    with pytest.raises(FileError, match=message):
        from_accel_nasbench(tmp_path / "other.npz")
