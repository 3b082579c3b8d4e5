"""The benchmark of accelerators: what it counts, that it continues a file, and that each row can be measured."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from lanas_jax.experiments.benchmarks import accelerators
from lanas_jax.experiments.benchmarks.accelerator_rows import PLATFORMS, Row, cells, cycles_by_operation
from lanas_jax.experiments.benchmarks.accelerators import AcceleratorBenchmark, Config
from lanas_jax.experiments.benchmarks.forms import cell_steps, control_flow_of
from lanas_jax.experiments.benchmarks.step_timing import share_of_peak
from lanas_jax.planning.costs import Share
from lanas_jax.runtime.console import terminal

TINY = Config(mode="measure", blocks=1, channels=2, cells=1, image_size=4, batch_size=4, steps=2, dtype="float32")
ROW = Row(
    "cell", "branchless", 4, "v5e:1x1", compile_seconds=12.34, estimated_ms=6.54, gib=0.5,
    conditionals={"cuda": 0, "tpu": 0}, unknown_loops={"cuda": 0, "tpu": 15},
)  # fmt: skip


def test_the_share_of_the_peak():
    assert share_of_peak(np.array([50_000_000, 150_000_000]), 128, 0.5, 1e12) == pytest.approx(6 * 100e6 * 128 / 0.5e12)


def test_the_code_is_of_the_stated_size():
    benchmark = AcceleratorBenchmark(Config(mode="measure"))
    assert benchmark.multiply_adds == 86_084_096
    assert benchmark.network.space.shapes[0].channels == 16
    steps = cell_steps(benchmark.network, benchmark.code)
    assert steps.count == 24  # ten separable convolutions, three pools, a skip
    assert steps.shares == pytest.approx((10 / 24, 3 / 24, 1 / 24, 10 / 24))


@pytest.mark.slow
def test_branches_count_as_often_as_a_code_runs_them():
    benchmark = AcceleratorBenchmark(dataclasses.replace(TINY, space="nasbench201", channels=None, cells=None))
    assert (benchmark.network.space.channels, benchmark.network.space.cells) == (16, 5)
    assert control_flow_of(benchmark.network, np.array([3, 0, 3, 1, 0, 3])) == ((), {5: [2 / 6, 1 / 6, 0, 3 / 6, 0]})
    network = AcceleratorBenchmark(dataclasses.replace(TINY, space="nasbench101", channels=5)).network
    adjacency = np.zeros((5, 5), int)
    adjacency[0, [1, 2, 3]] = adjacency[[1, 2, 3], 4] = 1
    graph = network.space.from_graph(adjacency, ("input", "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3", "output"))
    # Three vertices lead to the output, so projections and convolutions compute a third of the channels.
    assert control_flow_of(network, graph) == (
        (), {4: [3 / 6, 0, 0, 3 / 6], 8: [2 / 5, 0, 0, 0, 0, 1 / 5, 1 / 5, 1 / 5]},
    )  # fmt: skip


def test_a_row_shows_what_it_has():
    row = cells(ROW)
    assert (row["est-ms"], row["ms"], row["of peak"], row["compile s"]) == ("6.54", "-", "-", "12.3")
    assert (row["conditionals"], row["loops"]) == ("0/0", "0/15")


def test_estimates_are_summed_by_operation():
    shares = [
        Share(5.0, 1, "fusion", "f32[2]", "jit(f)/while/body/conv"), Share(4.0, 2, "fusion", "f32[3]", "jit(f)/conv"),
        Share(3.0, 1, "copy", "f32[2]", "jit(f)/conv"), Share(2.0, 1, "fusion", "f32[2]", ""),
    ]  # fmt: skip
    assert list(cycles_by_operation(shares).items()) == [("conv", 9.0), ("copy", 3.0), ("fusion", 2.0)]


def names(**settings):
    return [row.name[:3] for row, _ in AcceleratorBenchmark(dataclasses.replace(TINY, **settings)).rows()]


def test_rows_are_chosen_by_settings(monkeypatch):
    assert names(parts=("cell",), forms=("specialised",)) == [("cell", "specialised", 1)]
    assert names(forms=("branchless", "specialised"), vmapped=(1, 4)) == [
        ("candidate", "branchless", 1), ("candidate", "branchless", 4), ("candidate", "specialised", 1),
    ]  # fmt: skip
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(accelerators.importlib.util, "find_spec", lambda name: object())
    assert names(forms=("shared",), vmapped=(16,))[0] == ("candidate", "PyTorch eager", 1)
    assert names(forms=("shared",), vmapped=(16,), torch=False) == [("candidate", "shared", 16)]


class Counting(accelerators.AcceleratorBenchmark):
    """A benchmark of two rows that counts what it completes."""

    def __init__(self, config):
        self.config, self.completed = config, []
        self.code, self.multiply_adds = np.array([0, 1]), 3

    def rows(self):
        for form in ("specialised", "branchless"):
            yield Row("cell", form, 1, "made up"), self.complete

    def complete(self, row):
        self.completed.append(row.form)
        if row.form == "branchless" and len(self.completed) == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 80 GiB\nand more")
        return dataclasses.replace(row, step_ms=float(len(self.completed)))


def test_a_file_is_continued(tmp_path, capsys):
    benchmark = Counting(dataclasses.replace(TINY, json=tmp_path / "rows.json"))
    first = accelerators.run_benchmark(benchmark, Console())
    assert "cell branchless 1: RESOURCE_EXHAUSTED: 80 GiB" in capsys.readouterr().out
    second = accelerators.run_benchmark(benchmark, Console())
    assert benchmark.completed == ["specialised", "branchless", "branchless"]
    assert second[:1] == first
    assert [row.step_ms for row in second] == [1.0, 3.0]
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [row["form"] for row in written["rows"]] == ["specialised", "branchless"]
    assert all(row["date"] and row["software"].startswith("jax ") for row in written["rows"])


def test_a_file_of_other_settings_is_refused(tmp_path):
    benchmark = Counting(dataclasses.replace(TINY, json=tmp_path / "rows.json"))
    accelerators.run_benchmark(benchmark, Console())
    other = Counting(dataclasses.replace(benchmark.config, batch_size=5))
    with pytest.raises(SystemExit, match="rows for other settings"):
        accelerators.run_benchmark(other, Console())


@pytest.mark.slow
def test_tables_have_the_width_that_benchmarks_ask_for():
    assert terminal(width=accelerators.WIDTH).width == accelerators.WIDTH


@pytest.mark.slow
def test_every_row_is_measured(tmp_path):
    config = dataclasses.replace(TINY, parts=("cell", "candidate"), vmapped=(1, 2), json=tmp_path / "rows.json")
    rows = accelerators.run_benchmark(AcceleratorBenchmark(config), Console())
    assert [row.name[:3] for row in rows] == [
        (part, form, vmapped)
        for part in ("cell", "candidate")
        for form in ("branchless", "specialised", "shared")
        for vmapped in ((1,) if form == "specialised" else (1, 2))
    ]
    for row in rows:
        assert row.step_ms > 0
        assert row.compile_seconds > 0
        assert row.gib > 0
        assert (row.share_of_peak is None) == (row.part == "cell")
        assert row.share_of_peak is None or 0 < row.share_of_peak < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "part"), [("nasnet", "cell"), ("nasnet", "candidate"), ("nasbench201", "cell"), ("nasbench101", "cell")]
)
def test_a_form_without_control_flow_has_none(space, part):
    size = {"blocks": 2, "cells": 3} if space == "nasnet" else {"channels": 5}
    benchmark = AcceleratorBenchmark(dataclasses.replace(TINY, space=space, **size))
    none = dict.fromkeys(PLATFORMS, 0)
    for form, vmapped in (("branchless", 1), ("branchless", 2), ("specialised", 1)):
        assert benchmark.control_flow(part, form, vmapped) == {"conditionals": none, "unknown_loops": none}
    shared = benchmark.control_flow(part, "shared", 1)
    assert shared["unknown_loops" if space == "nasnet" else "conditionals"]["cuda"] > 0


@pytest.mark.slow
def test_cells_of_benchmarks_are_measured():
    config = dataclasses.replace(TINY, space="nasbench201", parts=("cell",), vmapped=(1,), channels=5)
    rows = accelerators.run_benchmark(AcceleratorBenchmark(config), Console())
    assert [row.form for row in rows] == ["branchless", "specialised", "shared"]
    assert all(row.step_ms > 0 for row in rows)
