"""The benchmark of candidate training: what it counts, what it prints, and that every row can be measured."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from lanas_jax.candidates.population import Population
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.experiments.benchmarks import candidates as bench_candidates
from lanas_jax.experiments.benchmarks import step_timing
from lanas_jax.experiments.benchmarks.table import Timing, cells, line, show_timings, timings_report
from lanas_jax.spaces.base import Choice, SearchSpace
from lanas_jax.training.sgd import TrainConfig

TINY = bench_candidates.Config(
    setting="cifar10",
    timed=2,
    sample=1,
    torch_sample=1,
    cifar10=bench_candidates.Cifar10Config(
        blocks=1, channels=2, cells=1, image_size=4, batch_size=4, images=8, steps=2, proxy_images=40
    ),
)
STEPS = Timing("one program", 16, 30.0, 0.02, 0.125, 300, 2**30)
WHOLE = dataclasses.replace(STEPS, train_seconds=48.0, accuracy=0.5)


@dataclasses.dataclass(frozen=True)
class Linear:
    """A network of one weight; the code "bad" gives no number."""

    space: SearchSpace = SearchSpace([Choice("kind", ("good", "bad"))])  # noqa: RUF009

    def init(self, key, code):
        return {"weight": jnp.ones((4, 2)) / (1 - code[0]).astype(jnp.float32)}, {}

    def apply(self, params, batch_stats, code, images, *, train):
        return images.reshape(images.shape[0], -1) @ params["weight"], batch_stats


def planned(images):
    """Bytes that are planned for a training on so many images of 4 pixels."""
    split = Split(np.ones((images, 2, 2, 1), np.float32), np.zeros(images, np.int32))
    population = Population(Linear(), TrainConfig(batch_size=3), per_device=1, steps_per_dispatch=5)
    return step_timing.planned_bytes(population.compile(SearchData(split, split, 2)))


def test_planned_memory_holds_the_training_images():
    """Of each image five numbers of 4 bytes, and less than ten more by which the images are put in order."""
    more = planned(6000) - planned(600)
    assert 5400 * 5 * 4 <= more < 5400 * 15 * 4


def test_figures_of_timed_steps():
    assert STEPS.seconds_per_candidate is None
    assert STEPS.per_minute == pytest.approx(10)  # 300 steps of 20 ms are 6 s
    row = cells(STEPS, STEPS)
    assert (row["ms/step"], row["of peak"], row["per min"], row["GiB"]) == ("20.00", "12.50%", "10", "1.00")
    assert line(STEPS, STEPS).startswith("one program: 16 nets, 30.0 compile s, 20.00 ms/step")


def test_figures_of_whole_trainings():
    twice = dataclasses.replace(WHOLE, candidates=8)
    assert WHOLE.per_minute == pytest.approx(20)
    assert WHOLE.seconds_per_candidate == pytest.approx(78 / 16)
    assert cells(twice, WHOLE)["ratio"] == "2.0"


@pytest.mark.parametrize("timing", [STEPS, WHOLE])
def test_the_table_fits_and_the_file_has_all_figures(timing, capsys):
    long = dataclasses.replace(timing, way="PyTorch eager, 16 x 1 threads")
    show_timings(TINY, {1: 1e12, 2: 2e12}, [timing, long], Console(width=bench_candidates.WIDTH))
    printed = capsys.readouterr().out
    assert long.way in printed
    assert "…" not in printed
    assert ("Images are random" in printed) == (timing is STEPS)
    written = json.loads(json.dumps(timings_report(TINY, {2: 2e12}, [timing, long])))
    assert written["peak_flops"] == {"2 devices": 2e12}
    assert [row["step_seconds"] for row in written["rows"]] == [0.02, 0.02]
    assert written["config"]["dtype"] == "float32"


def test_no_row_starts_when_time_is_over():
    started = []
    assert list(bench_candidates.measure_rows([lambda: started.append(1)] * 2, minutes=-1.0)) == [
        "-1 minutes are over; the remaining rows are skipped"
    ]
    assert not started


def test_a_row_without_room_is_reported_and_the_next_measured():
    def full():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 80 GiB\nand more")

    rows = list(bench_candidates.measure_rows([full, lambda: STEPS]))
    assert rows == ["a row failed: RESOURCE_EXHAUSTED: 80 GiB", STEPS]


@pytest.mark.parametrize(
    ("backend", "vmapped", "expected"),
    [
        ("cpu", (), ["one_program 1 False", "program_each", "torch_eager 1 2 cpu", "torch_eager 2 1 cpu"]),
        ("gpu", (1, 4), ["one_program 1 False", "one_program 4 True", "program_each", "torch_eager 1 2 cuda"]),
        ("tpu", (16,), ["one_program 16 True", "program_each"]),
    ],
)
def test_rows(monkeypatch, backend, vmapped, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(bench_candidates.importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(bench_candidates.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    names = []
    for row in bench_candidates.CandidateBenchmark(dataclasses.replace(TINY, vmapped=vmapped)).rows():
        function, arguments = getattr(row, "func", row), getattr(row, "args", ())
        names.append(" ".join([function.__name__, *map(str, arguments)]))
    assert names == expected


def test_whole_trainings_are_measured_by_both_plans():
    benchmark = bench_candidates.CandidateBenchmark(dataclasses.replace(TINY, setting="small", torch_sample=0))
    names = [getattr(row, "func", row).__name__ for row in benchmark.rows()]
    assert names == ["one_program", "specialised", "program_each"]


@pytest.mark.slow
def test_the_specialised_plan_is_measured():
    tiny = dataclasses.replace(TINY.small, blocks=1, channels=2, cells=1, epochs=1)
    benchmark = bench_candidates.CandidateBenchmark(dataclasses.replace(TINY, setting="small", sample=2, small=tiny))
    began = time.perf_counter()
    row = benchmark.specialised()
    passed = time.perf_counter() - began
    assert (row.way, row.candidates) == ("specialised", 2)
    assert row.proxy_steps == 17  # 1,077 images in batches of 64
    assert 0 < row.train_seconds < passed
    assert 0 < row.compile_seconds < passed * os.cpu_count()  # in threads
    assert row.step_seconds == pytest.approx(row.train_seconds / (2 * 17))
    assert row.share_of_peak == pytest.approx(share(benchmark, row, len(jax.local_devices())))
    assert row.accuracy * 720 == pytest.approx(round(row.accuracy * 720), abs=1e-3)  # 2 candidates, 360 images


def test_the_larger_setting_is_as_stated():
    benchmark = bench_candidates.CandidateBenchmark(bench_candidates.Config(setting="cifar10", dtype="bfloat16"))
    setting = benchmark.setting
    assert setting.data.image_shape == (32, 32, 3)
    assert (setting.network.space.channels, setting.network.space.cells, setting.network.space.classes) == (16, 8, 10)
    assert setting.network.compute_dtype == jnp.bfloat16
    assert setting.proxy_steps == 313  # 40,000 images in batches of 128
    assert setting.training.batch_size == 128


def test_the_share_of_the_peak_is_that_of_the_codes_timed():
    benchmark = bench_candidates.CandidateBenchmark(TINY)
    benchmark.peaks[1] = 1e9
    multiply_adds = benchmark.setting.network.space.cost(benchmark.codes).multiply_adds
    expected = 6 * 4 * multiply_adds.mean() / (0.5 * 1e9)
    assert benchmark.share(benchmark.codes, 0.5, jax.local_devices()[:1]) == pytest.approx(expected)


@pytest.mark.slow
def test_it_starts_without_packages_that_only_data_and_tests_need():
    block = "import sys; sys.modules.update(tensorflow_datasets=None, beartype=None, torch=None); "
    subprocess.run(
        [sys.executable, "-c", block + "import lanas_jax.experiments.benchmarks.candidates"], check=True, timeout=120
    )


@pytest.mark.slow
def test_every_row_is_measured():
    benchmark = bench_candidates.CandidateBenchmark(dataclasses.replace(TINY, vmapped=(1, 2), torch_sample=0))
    began = time.perf_counter()
    rows = list(bench_candidates.measure_rows(benchmark.rows()))
    passed = time.perf_counter() - began
    devices = len(jax.local_devices())
    assert [(row.way, row.candidates) for row in rows] == [
        ("one program", devices),  # two codes, again until every device has its candidates
        ("one program, 2 vmapped", 2 * devices),
        ("program per candidate", 1),
    ]
    steps = [row.candidates * TINY.cifar10.steps * row.step_seconds for row in rows]
    assert 0 < min(row.compile_seconds for row in rows) < sum(row.compile_seconds for row in rows) + sum(steps) < passed
    for row, used in zip(rows, (devices, devices, 1), strict=True):
        assert 0 < row.share_of_peak < 1
        assert row.share_of_peak == pytest.approx(share(benchmark, row, used))
        assert row.per_minute == pytest.approx(60 / (10 * row.step_seconds))  # 40 images in batches of 4
        assert row.planned_bytes > 8 * 4 * 4 * 3 * 4  # the training images
        assert (row.train_seconds, row.accuracy, row.seconds_per_candidate) == (None, None, None)


def share(benchmark, row, devices):
    """Of the peak of so many devices: the multiply-adds of the row's codes, which are the first ones, over its time."""
    codes = np.resize(np.arange(TINY.timed if row.way.startswith("one program") else row.candidates), row.candidates)
    multiply_adds = benchmark.setting.network.space.cost(benchmark.codes[codes]).multiply_adds
    flops = 6 * benchmark.setting.training.batch_size * multiply_adds.mean()
    return flops / row.step_seconds / benchmark.peaks[devices]
