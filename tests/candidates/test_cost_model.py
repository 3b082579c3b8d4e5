import dataclasses

import pytest

from lanas_jax.candidates.cost_model import (
    Costs,
    StrategyCost,
    Workload,
    choose,
    never_sooner,
    shared_seconds,
    specialised_seconds,
    vmap_may_pay,
)

SHARED, EACH = StrategyCost(10.0, 40.0, 0.010), StrategyCost(2.0, 20.0, 0.002)
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
    costs = Costs(SHARED, specialised=EACH)
    long, short = choose(costs, GPU), choose(costs, dataclasses.replace(GPU, steps=10))
    assert long.specialised
    assert "10 ms a step): 5,040 s" in long.reason
    assert "2 ms a step): 1,020 s" in long.reason
    assert not short.specialised


def test_what_cannot_be_sooner_is_not_measured():
    quick = dataclasses.replace(CPU, steps=50)  # 25 s for all 100, less than any 100 compilations
    assert never_sooner(SHARED, quick)
    assert not never_sooner(SHARED, CPU)
    assert not choose(Costs(SHARED), quick).specialised


@pytest.mark.parametrize(
    ("vmapped_step", "each_step", "specialised", "vmapped"),
    [
        (0.030, 0.020, False, False),  # 5,040 s against 15,045 s and 10,020 s
        (0.004, 0.006, False, True),  # 2,045 s against 5,040 s and 3,020 s
        (0.004, 0.002, True, True),  # 1,020 s
        (0.030, 0.002, True, False),
    ],
)
def test_each_of_three_ways_is_chosen_where_it_is_the_soonest(vmapped_step, each_step, specialised, vmapped):
    costs = Costs(SHARED, StrategyCost(10.0, 45.0, vmapped_step), StrategyCost(2.0, 20.0, each_step))
    choice = choose(costs, GPU)
    assert (choice.specialised, choice.vmapped) == (specialised, vmapped)
    for words in ("one program for all (", "one program for all, vmapped candidates (", "one program per candidate ("):
        assert words in choice.reason


def test_of_two_compiled_layouts_the_quicker_step_is_taken_whatever_compiling_took():
    slow_to_compile = StrategyCost(10.0, 4000.0, 0.009)
    assert Costs(SHARED, slow_to_compile).uses_vmap
    assert Costs(SHARED, slow_to_compile).shared == slow_to_compile
    assert not Costs(SHARED, SHARED).uses_vmap
    assert Costs(vmapped=SHARED).uses_vmap
    with pytest.raises(ValueError, match="no shared program"):
        _ = Costs(specialised=EACH).shared


def test_candidates_abreast_are_measured_on_accelerators_with_enough_to_train():
    assert vmap_may_pay(SHARED, GPU)
    assert not vmap_may_pay(SHARED, CPU)
    assert not vmap_may_pay(SHARED, dataclasses.replace(GPU, steps=79))  # 39.5 s, compiled in 40 s


def test_a_program_from_the_cache_says_what_others_will_take():
    found = StrategyCost(2.0, 3.0, 0.002, saved_seconds=17.0)
    short = dataclasses.replace(GPU, steps=100)
    assert specialised_seconds(found, short) == pytest.approx(3 + 99 * 20 / 8)
    assert shared_seconds(found, short) == pytest.approx(3 + 100 * 100 * 0.002 / 2)
    assert (
        "(3.0 s to compile, 17.0 s saved by the cache, 2 ms a step)"
        in choose(Costs(SHARED, specialised=found), GPU).reason
    )
    assert "saved" not in choose(Costs(SHARED), GPU).reason
