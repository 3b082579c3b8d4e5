"""Compiling for TPUs that are not here, by libtpu."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENT = Path(__file__).with_name("planned_experiment.py")
PLAN = "import sys; from lanas_jax.cli import main; sys.exit(main(sys.argv[1:]))"
CHIPS = {"v5e:2x4": 8, "v5e:16x16": 256, "v4:2x2x2": 8, "v4:4x8x8": 256, "v6e:2x4": 8, "v6e:16x16": 256}
BATCH = 256  # which all of them can share

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu (extra tpu-plan) is not installed"),
]


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXPERIMENT.parents[2]), *sys.path])}
    command = [sys.executable, "-c", PLAN, "plan", str(EXPERIMENT), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def plans():
    """What each machine's plan says, all made at the same time."""
    started = {name: start("--topology", name, "--json", "--batch-size", str(BATCH)) for name in CHIPS}
    finished = {name: process.communicate() for name, process in started.items()}
    assert {name: process.returncode for name, process in started.items()} == dict.fromkeys(CHIPS, 0), finished
    return {name: json.loads(out) for name, (out, _) in finished.items()}


@pytest.mark.parametrize("name", CHIPS)
def test_stages_are_compiled_for_all_chips(plans, name):
    final, search = plans[name]
    assert final["chips"] == CHIPS[name]
    assert search["chips"] == CHIPS[name]
    assert final["fits"]
    assert final["flops"] == 2 * 3 * 1000 * BATCH / CHIPS[name]
    assert final["memory"]["arguments"] >= 90 * 36  # all images on each chip
    assert final["counted_flops"] > 0
    assert final["moved"] > 0
