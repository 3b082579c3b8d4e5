import dataclasses

import pytest

from lanas_jax.training.cost_model import PlanCost, Workload, choose, never_sooner, shared_seconds, specialised_seconds

SHARED, EACH = PlanCost(10.0, 40.0, 0.010), PlanCost(2.0, 20.0, 0.002)
GPU = Workload(candidates=100, steps=10_000, devices=2, threads=8, on_cores=False)
CPU = dataclasses.replace(GPU, threads=2, on_cores=True)


def test_one_program_is_compiled_once():
    assert shared_seconds(SHARED, GPU) == pytest.approx(40 + 100 * 10_000 * 0.010 / 2)


def test_programs_compile_while_devices_train():
    assert specialised_seconds(EACH, GPU) == pytest.approx(20 + 100 * 10_000 * 0.002 / 2)
    short = dataclasses.replace(GPU, steps=100)  # devices wait for programs: 20 / 8 s each
    assert specialised_seconds(EACH, short) == pytest.approx(20 + 99 * 2.5)


def test_python_traces_one_program_at_a_time():
    many = dataclasses.replace(GPU, steps=100, threads=64)
    assert specialised_seconds(EACH, many) == pytest.approx(20 + 99 * 2.0)


def test_cores_that_compile_do_not_train_and_a_program_measured_alone_had_all_of_them():
    assert specialised_seconds(EACH, CPU) == pytest.approx(100 * 10.0 + 100 * 10_000 * 0.002)


def test_the_sooner_plan_is_chosen_and_the_figures_are_told():
    long, short = choose(SHARED, EACH, GPU), choose(SHARED, EACH, dataclasses.replace(GPU, steps=10))
    assert long.specialised
    assert "10 ms a step): 5,040 s" in long.reason
    assert "2 ms a step): 1,020 s" in long.reason
    assert not short.specialised


def test_what_cannot_be_sooner_is_not_measured():
    quick = dataclasses.replace(CPU, steps=50)  # 25 s for all 100, less than any 100 compilations
    assert never_sooner(SHARED, quick)
    assert not never_sooner(SHARED, CPU)
    choice = choose(SHARED, None, quick)
    assert not choice.specialised
    assert "could not be sooner" in choice.reason
