"""Compiling for TPUs that are not here, by libtpu: every stage of the ImageNet experiments, in small."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENT, SEARCH = (Path(__file__).with_name(f"planned_{name}.py") for name in ("imagenet", "search"))
PLAN = "from lanas_jax.cli import run_and_exit; run_and_exit()"
CHIPS = {"v5e:2x4": 8, "v5e:16x16": 256, "v4:2x2x2": 8, "v4:4x8x8": 256, "v6e:2x4": 8, "v6e:16x16": 256}
STAGES = {"supernet", "search", "final"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu (extra tpu-plan) is not installed"),
]


def start(*arguments, experiment=EXPERIMENT):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXPERIMENT.parents[2]), *sys.path])}
    command = [sys.executable, "-c", PLAN, "plan", str(experiment), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def plans():
    """What each machine's plan says of each stage; a plan is made when it is first asked for."""

    @functools.cache
    def planned(name):
        process = start("--topology", name, "--json")
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        return {stage["stage"]: stage for stage in json.loads(out)}

    return planned


@pytest.mark.parametrize("name", CHIPS)
def test_stages_are_compiled_for_all_chips(plans, name):
    assert plans(name).keys() == STAGES
    for stage in plans(name).values():
        assert stage["chips"] == CHIPS[name]
        assert stage["fits"]
        assert 0 < stage["flops"] < 3 * stage["counted_flops"]
        assert stage["moved"] > 0
        assert 0 < stage["estimated_seconds"] <= stage["costliest_seconds"]
    programs = [one["stage"] for one in plans(name)["supernet"]["programs"]]
    assert programs == [f"supernet: {role}" for role in ("largest", "smallest", "random, 32 pixels", "apply")]


@pytest.mark.parametrize("name", CHIPS)
def test_chips_exchange_gradients_and_no_candidates(plans, name):
    for stage in ("supernet", "final"):
        assert plans(name)[stage]["costs"]["collectives"]["all-reduce"]["bytes"] > 0
    assert plans(name)["search"]["costs"]["collectives"] == {}


def test_chips_share_a_batch(plans):
    small, large = (plans(name)["supernet"] for name in ("v5e:2x4", "v5e:16x16"))
    assert small["flops"] == 32 * large["flops"]
    assert small["counted_flops"] > 8 * large["counted_flops"]
    assert small["memory"]["temporaries"] > 2 * large["memory"]["temporaries"]


def test_candidates_train_in_one_program_over_all_chips():
    """One candidate for each of 256 chips, or 16 for each of 16; no chip waits for another."""
    chips = {"v5e:4x4": 16, "v5e:16x16": 256}
    started = {name: start("--topology", name, "--json", experiment=SEARCH) for name in chips}
    finished = {name: process.communicate() for name, process in started.items()}
    assert {name: process.returncode for name, process in started.items()} == dict.fromkeys(chips, 0), finished
    few, many = ({one["stage"]: one for one in json.loads(out)}["candidates"] for out, _ in finished.values())
    assert [few["chips"], many["chips"]] == [16, 256]
    assert few["fits"]
    assert many["fits"]
    assert few["costs"]["collectives"] == many["costs"]["collectives"] == {}
    assert few["steps"] == 16 * many["steps"]
    assert few["memory"]["outputs"] > 8 * many["memory"]["outputs"]  # states of 16 candidates, and of one


def test_values_of_subnetworks_are_one_program_over_all_chips():
    """No chip waits for another."""
    chips = {"v5e:4x4": 16, "v5e:16x16": 256}
    started = {name: start("--topology", name, "--only", "search", "--json") for name in chips}
    for name, process in started.items():
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        (stage,) = json.loads(out)
        assert (stage["stage"], stage["chips"]) == ("search", chips[name])
        assert stage["fits"]
        assert stage["costs"]["collectives"] == {}
