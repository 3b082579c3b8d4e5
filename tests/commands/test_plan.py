"""The command, on the devices of this process."""

import dataclasses
import datetime
import json
from pathlib import Path

import pytest
from rich.console import Console

from lanas_jax.cli import main
from lanas_jax.commands import plan
from lanas_jax.data.crops import Crop
from lanas_jax.planning import input_speed, topology
from lanas_jax.planning.costs import Collective, ProgramCosts
from lanas_jax.planning.estimate import Estimate
from lanas_jax.planning.input_speed import InputSpeed
from lanas_jax.planning.stage import Stage, StreamedInput
from lanas_jax.planning.topology import Chip
from tests.refusals import refused

EXPERIMENT = Path(__file__).parents[1] / "planning" / "planned_experiment.py"
PLENTY = Chip(1e9, 1e9, 1e9)


@pytest.fixture
def chip(monkeypatch):
    """Sets what the devices are said to do."""

    def set_to(chip):
        monkeypatch.setattr(topology, "_local", lambda: topology.Topology("local", topology_devices(), chip))

    return set_to


def topology_devices():
    import jax

    return jax.local_devices()[:2]


def test_a_table_of_all_stages(chip, capsys):
    chip(PLENTY)
    assert main(["plan", str(EXPERIMENT), "--topology", "local"]) == 0
    printed = capsys.readouterr().out
    assert "2 chips" in printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if " yes " in line}
    assert list(rows) == ["final", "search"]
    assert rows["final"][1:3] == ["2", "12"]
    assert "30" in rows["final"]  # 4 epochs of 90 images in batches of 12


def test_what_does_not_fit_says_what_to_change(chip, capsys):
    chip(Chip(100.0, 1e9, 1e9))
    assert main(["plan", str(EXPERIMENT), "--only", "final", "--batch-size", "4"]) == 1
    assert "no batch size fits; use more chips or a smaller network" in capsys.readouterr().out


def test_json_says_everything(chip, capsys):
    chip(PLENTY)
    assert main(["plan", str(EXPERIMENT), "--only", "final", "--json", "--batch-size=6"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["stage"], found["batch_size"], found["fits"]) == ("final", 6, True)
    assert found["flops"] == 2 * 3 * 1000 * 3
    assert found["memory"]["arguments"] > 90 * 36  # all the pixels
    assert found["input"] is None  # its images are in memory
    assert found["chip_hours"] == pytest.approx(found["step_seconds"] * found["steps"] * 2 / 3600)


def test_lines_below_the_table_say_what_is_in_no_column():
    costs = ProgramCosts(
        collectives={"all-reduce": Collective(3, 5e6)}, gathers=2, rows=96, uncounted_gathers=1, unknown_loops=4,
        uncounted={"all-reduce-start": 3, "gather": 1, "select-and-scatter": 14, "sort": 0.5},
    )  # fmt: skip
    one = Estimate("search", 1, 8, 9, None, None, 1e9, *[None] * 5, 0.02, 0.03, costs, (64, 24), 1.0, "--batch-size")
    expected = [
        "3 all-reduce of 5 MB in all per step", "2 gathers of 96 rows in all per step; est-ms/step omits 50% of them",
        "est-ms/step omits other instructions that have no estimate, per step: 14 select-and-scatter, 0.5 sort",
        "4 loops per step have a length that depends on data; each counts 64, then 24 iterations",
    ]  # fmt: skip
    assert plan.remarks(one) == expected
    assert plan.remarks(dataclasses.replace(one, estimated_seconds=None)) == [*expected[:2], expected[3]]
    assert plan.remarks(dataclasses.replace(one, costs=None)) == []


def test_the_input_that_a_stage_needs_is_next_to_what_a_core_reads(capsys):
    speeds = [InputSpeed("supernet", 10_800.0, 90.0, "16 images of the dataset", 1.04),
              InputSpeed("final", None, 80.0, "16 images of the dataset", 1.0)]  # fmt: skip
    console = Console(width=200)
    plan.show_input(console, speeds)
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    assert rows["supernet"] == ["10,800", "90", "120"]
    assert rows["final"] == ["-", "80", "-"]
    assert f"measured on {datetime.date.today().day} " in printed
    assert "16 images of the dataset were decoded, cropped and augmented for 1.0 s of processor time" in printed
    plan.show_input(console, [])
    assert capsys.readouterr().out == ""


def test_the_input_is_measured_of_stages_that_stream(monkeypatch):
    def measure(one, reading):
        return InputSpeed(one.stage, None, 1.0, f"{reading.crop.resolution} pixels", 1.0)

    monkeypatch.setattr(input_speed, "measure_input", measure)
    readings = {"streamed": StreamedInput(Crop(8)), "in memory": None}
    stages = [Stage(name, 8, "", lambda *_: None, reading=reading) for name, reading in readings.items()]
    found = [Estimate(name, 1, 8, 9, None, None, 1e9, *[None] * 8, (1.0,), 1.0, "") for name in readings]
    notes = []
    speeds = plan.input_speeds(stages, found, notes.append)
    assert list(speeds) == ["streamed"]
    assert speeds["streamed"].sample == "8 pixels"
    assert notes == ["measuring how fast a core of this machine reads the images of streamed"]
    assert [plan.as_json(one, speeds.get(one.stage))["input"] is None for one in found] == [False, True]


def test_refusals(chip, capsys, tmp_path):
    chip(PLENTY)
    assert "choose from local; v4:" in refused(capsys, "plan", EXPERIMENT, "--topology", "v5e:7x7")
    assert "unknown topology 'v5e:7x7'" in refused(
        capsys, "plan", EXPERIMENT, "--batch-size", "6", "--topology=v5e:7x7"
    )
    assert "no function stages(config)" in refused(capsys, "plan", "digits")
    assert "choose from final, search" in refused(capsys, "plan", EXPERIMENT, "--only", "finale")
    assert "final has no program 'largest': it is one program" in refused(
        capsys, "plan", EXPERIMENT, "--only", "final: largest"
    )
    assert "multiple of the 2 chips" in refused(capsys, "plan", EXPERIMENT, "--batch-size", "7")
    assert "no experiment 'nothing'" in refused(capsys, "plan", "nothing")
    assert "usage: lanas plan" in refused(capsys, "plan")
    broken = tmp_path / "broken.py"
    broken.write_text(EXPERIMENT.read_text() + "\n\ndef stages(config):\n    return [1]\n")
    assert "expected one or more stages" in refused(capsys, "plan", broken)
    broken.write_text(EXPERIMENT.read_text() + "\n\ndef stages(config):\n    raise KeyError('lost')\n")
    assert "stages(config) raised KeyError: 'lost'" in refused(capsys, "plan", broken)
