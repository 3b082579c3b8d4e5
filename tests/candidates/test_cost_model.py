import dataclasses

import pytest

from lanas_jax.candidates.cost_model import (
    Costs,
    StrategyCost,
    Workload,
    another_may_pay,
    choose,
    never_sooner,
    one_program_seconds,
    specialised_seconds,
    widths,
)

SHARED, EACH = StrategyCost(10.0, 40.0, 0.010), StrategyCost(2.0, 20.0, 0.002)
TPU = Workload(candidates=100, steps=10_000, devices=2, threads=8, platform="tpu")
CPU = dataclasses.replace(TPU, threads=2, platform="cpu")
GPU = dataclasses.replace(TPU, platform="gpu")


def test_one_program_is_compiled_once():
    assert one_program_seconds(SHARED, TPU) == pytest.approx(40 + 100 * 10_000 * 0.010 / 2)


def test_programs_compile_while_devices_train():
    assert specialised_seconds(EACH, TPU) == pytest.approx(20 + 100 * 10_000 * 0.002 / 2)
    short = dataclasses.replace(TPU, steps=100)  # devices wait for programs: 20 / 8 s each
    assert specialised_seconds(EACH, short) == pytest.approx(20 + 99 * 2.5)


def test_python_traces_one_program_at_a_time():
    many = dataclasses.replace(TPU, steps=100, threads=64)
    assert specialised_seconds(EACH, many) == pytest.approx(20 + 99 * 2.0)


def test_cores_that_compile_do_not_train_and_a_program_measured_alone_had_all_of_them():
    assert specialised_seconds(EACH, CPU) == pytest.approx(100 * 10.0 + 100 * 10_000 * 0.002)


def test_the_faster_plan_is_chosen_and_the_figures_are_reported():
    costs = Costs(SHARED, specialised=EACH)
    long, short = choose(costs, TPU), choose(costs, dataclasses.replace(TPU, steps=10))
    assert (long.strategy, long.vmapped) == ("specialised", 1)
    assert "10 ms a step): 5,040 s" in long.reason
    assert "2 ms a step): 1,020 s" in long.reason
    assert short.strategy == "shared"
    assert short.title == "one program with control flow"


def test_what_cannot_be_sooner_is_not_measured():
    quick = dataclasses.replace(CPU, steps=50)  # 25 s for all 100, less than any 100 compilations
    assert never_sooner(SHARED, quick)
    assert not never_sooner(SHARED, CPU)
    longer = dataclasses.replace(CPU, steps=300)  # 150 s, less than 100 compilations that take a tenth of 40 s each
    assert never_sooner(SHARED, longer)
    assert not never_sooner(StrategyCost(10.0, 4.0, 0.010), longer)
    assert choose(Costs(SHARED), quick).strategy == "shared"


def test_repeated_trainings_take_steps_and_no_compilations():
    thrice = dataclasses.replace(TPU, repeats=3)
    assert one_program_seconds(SHARED, thrice) == pytest.approx(40 + 3 * 100 * 10_000 * 0.010 / 2)
    assert specialised_seconds(EACH, dataclasses.replace(CPU, repeats=3)) == pytest.approx(1000 + 3 * 2000)
    assert "100 candidates of 3 trainings of 10000 steps" in choose(Costs(SHARED), thrice).reason


@pytest.mark.parametrize(
    ("steps", "each_step", "strategy", "vmapped"),
    [
        ({1: 0.030}, 0.020, "shared", 1),  # 5,040 s against 15,045 s and 10,020 s
        ({1: 0.006, 2: 0.004}, 0.006, "branchless", 2),  # 2,045 s against 5,040 s and 3,020 s
        ({1: 0.004, 2: 0.005}, 0.006, "branchless", 1),
        ({1: 0.004}, 0.002, "specialised", 1),  # 1,020 s
        ({1: 0.030}, 0.002, "specialised", 1),
    ],
)
def test_each_of_three_forms_is_chosen_where_it_is_the_soonest(steps, each_step, strategy, vmapped):
    branchless = {k: StrategyCost(10.0, 45.0, step) for k, step in steps.items()}
    choice = choose(Costs(SHARED, branchless, StrategyCost(2.0, 20.0, each_step)), TPU)
    assert (choice.strategy, choice.vmapped) == (strategy, vmapped)
    forms = ["one program with control flow (", "one program per candidate ("]
    for words in (*forms, *(f"one program without control flow, {k} at a time on a device (" for k in steps)):
        assert words in choice.reason


def test_of_two_compiled_programs_the_quicker_step_is_taken_whatever_compiling_took():
    slow_to_compile = StrategyCost(10.0, 4000.0, 0.009)
    assert Costs(SHARED, {4: slow_to_compile}).vmapped == 4
    assert Costs(SHARED, {4: slow_to_compile}).one_program == slow_to_compile
    assert Costs(SHARED).vmapped is None
    assert Costs(branchless={1: SHARED}).vmapped == 1
    with pytest.raises(ValueError, match="no program for all codes"):
        _ = Costs(specialised=EACH).one_program


def test_cores_never_compute_every_operation():
    assert not another_may_pay(Costs(), CPU)
    assert not another_may_pay(Costs(SHARED), CPU)
    assert "cores would compute every operation" in choose(Costs(SHARED), CPU).reason


def test_gpus_measure_the_form_without_control_flow_first_and_more_candidates_while_these_gain():
    one, two, four = (StrategyCost(5.0, 60.0, step) for step in (0.020, 0.012, 0.0115))
    assert another_may_pay(Costs(), GPU)
    assert another_may_pay(Costs(branchless={1: one}), GPU)
    assert another_may_pay(Costs(branchless={1: one, 2: two}), GPU)
    assert not another_may_pay(Costs(branchless={1: one, 2: two, 4: four}), GPU)  # 4 % less
    short = dataclasses.replace(GPU, steps=59)  # 59 s of training, compiled in 60 s
    assert not another_may_pay(Costs(branchless={1: one}), short)
    choice = choose(Costs(branchless={1: one, 2: two}), short)
    assert (choice.strategy, choice.vmapped) == ("branchless", 2)
    assert "the devices would wait for their host" in choice.reason


def test_tpus_measure_both_forms_where_there_is_enough_to_train():
    assert another_may_pay(Costs(SHARED), TPU)
    assert not another_may_pay(Costs(SHARED), dataclasses.replace(TPU, steps=79))  # 39.5 s, compiled in 40 s
    assert not another_may_pay(Costs(SHARED, {1: SHARED}), TPU)
    assert another_may_pay(Costs(SHARED, {1: EACH}), TPU)


def test_the_candidates_of_a_device_are_divided_evenly():
    assert widths(8, 1) == (1, 2, 4, 8)
    assert widths(6, 2) == (2, 3, 6)
    assert widths(1, 2) == ()


def test_a_program_from_the_cache_says_what_others_will_take():
    found = StrategyCost(2.0, 3.0, 0.002, saved_seconds=17.0)
    short = dataclasses.replace(TPU, steps=100)
    assert specialised_seconds(found, short) == pytest.approx(3 + 99 * 20 / 8)
    assert one_program_seconds(found, short) == pytest.approx(3 + 100 * 100 * 0.002 / 2)
    assert (
        "(3.0 s to compile, 17.0 s saved by the cache, 2 ms a step)"
        in choose(Costs(SHARED, specialised=found), TPU).reason
    )
    assert "saved" not in choose(Costs(SHARED), TPU).reason
