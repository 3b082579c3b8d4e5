"""Estimates of programs whose operations and bytes are counted by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lanas_jax.planning.estimate import estimate, largest, needed_bytes, roofline
from lanas_jax.planning.stage import Stage, TracedProgram
from lanas_jax.planning.topology import Chip, Topology

WIDTH = 32
CHIP = Chip(memory=1e9, bandwidth=1e6, flops=1e6)


def product(batch_size, rounds=1):
    """`rounds` products of ``[batch, 32]`` with ``[32, 32]``, one after the other."""

    def run(x, y):
        return jax.lax.scan(lambda x, _: (x @ y, None), x, None, length=rounds)[0]

    x, y = (jax.ShapeDtypeStruct((rows, WIDTH), jnp.float32) for rows in (batch_size, WIDTH))
    return jax.jit(run).lower(x, y)


def stage(multiply_adds=None, rounds=1, batch_size=16, counted=1.0, steps_per_call=1):
    def program(devices, batch):
        return TracedProgram(product(batch, rounds), 2, 7200, multiply_adds, counted, steps_per_call)

    return Stage("products", batch_size, "--batch-size", program)


def on(chip):
    return Topology("made up", jax.local_devices()[:2], chip)


@pytest.mark.parametrize("rounds", [1, 40])
def test_operations_and_memory_of_a_product(rounds):
    found = estimate(stage(rounds=rounds), on(CHIP))
    flops = 2 * 16 * WIDTH * WIDTH  # a loop's body counts once
    assert flops <= found.counted_flops <= flops + 10
    assert found.memory.arguments == 4 * (16 + WIDTH) * WIDTH
    assert found.memory.outputs == 4 * 16 * WIDTH
    assert found.memory.aliased == 0
    assert found.needed == found.memory.arguments + found.memory.outputs + found.memory.temporaries
    assert found.fits
    assert found.largest_batch is None


def test_known_multiply_adds_come_before_those_counted():
    found = estimate(stage(multiply_adds=1e6), on(CHIP))
    assert (found.flops, found.step_seconds, found.bound) == (2e6, 2.0, "compute")
    assert found.chip_hours == pytest.approx(2.0 * 7200 * 2 / 3600)


def test_what_is_counted_may_stand_for_several_steps():
    once, twice = (estimate(stage(counted=counted), on(CHIP)) for counted in (1.0, 2.0))
    assert twice.moved == once.moved
    assert twice.counted_flops == once.counted_flops / 2


def test_bytes_are_those_of_all_iterations():
    """The operations of a loop count once, its bytes as often as it runs: a product, and a copy of its result."""
    ten, twenty, of_ten = (
        estimate(stage(rounds=rounds, steps_per_call=steps), on(CHIP)).moved
        for rounds, steps in ((10, 1), (20, 1), (10, 10))
    )
    least = 4 * (16 + WIDTH + 16) * WIDTH  # factors and product
    assert 10 * least <= twenty - ten <= 20 * least
    assert of_ten == pytest.approx(ten / 10)


def test_a_step_of_several_programs_is_their_sum():
    """The second program runs in three of four steps; the largest one decides what memory is needed."""

    def program(devices, batch):
        return tuple(
            TracedProgram(product(batch * times), 2, 7200, 1e6 * times, name=name, calls=calls)
            for name, times, calls in (("small", 1, 1.0), ("large", 4, 0.75))
        )

    found = estimate(Stage("products", 16, "--batch-size", program), on(CHIP))
    small, large = found.programs
    assert [one.stage for one in (small, large, found)] == ["products: small", "products: large", "products"]
    assert [one.steps for one in (small, large, found)] == [7200, 5400, 7200]
    assert (found.flops, found.step_seconds) == (2e6 + 0.75 * 8e6, 2.0 + 0.75 * 8.0)
    assert found.chip_hours == pytest.approx(small.chip_hours + large.chip_hours)
    assert found.moved == small.moved + 0.75 * large.moved == found.costs.moved
    assert (found.memory, found.needed) == (large.memory, large.needed)
    assert small.needed < found.needed
    scarce = estimate(Stage("products", 16, "--batch-size", program), on(Chip(large.needed - 1, 1e6, 1e6)))
    assert [one.fits for one in (*scarce.programs, scarce)] == [True, False, False]
    assert 8 <= scarce.largest_batch < 16
    counted = Stage(
        "products", 16, "--batch-size", lambda *at: tuple(one._replace(multiply_adds=None) for one in program(*at))
    )
    fast = estimate(counted, on(Chip(memory=2.0**40, bandwidth=1e30, flops=1.0)))
    assert (fast.flops, fast.bound) == (None, "compute")


def test_cpus_estimate_no_cycles():
    found = estimate(stage(), on(dataclasses.replace(CHIP, clock=1e9)))
    assert (found.estimated_seconds, found.costliest_seconds) == (None, None)
    assert (found.costs.collectives, found.costs.gathers, found.costs.unknown_loops) == ({}, 0, 0)


@pytest.mark.parametrize(("flops", "moved", "expected"), [
    (3e6, 2e6, (3.0, "compute")), (1e6, 2e6, (2.0, "memory")), (None, 5e6, (5.0, "memory")), (None, None, (None, None)),
])  # fmt: skip
def test_the_slower_of_two_bounds_a_step(flops, moved, expected):
    assert roofline(CHIP, flops, moved) == expected


def test_a_smaller_batch_is_found_where_one_does_not_fit():
    def bytes_of(batch):
        return estimate(stage(batch_size=batch), on(CHIP)).needed

    told = []
    found = estimate(stage(batch_size=256), on(Chip(bytes_of(64) + 1, 1e6, 1e6)), told.append)
    assert not found.fits
    assert 56 <= found.largest_batch <= 64
    assert found.largest_batch % 2 == 0  # two devices share it
    assert 1 < len(told) < 8


def test_nothing_fits_into_too_little():
    assert estimate(stage(batch_size=8), on(Chip(10.0, 1e6, 1e6))).largest_batch == 0


@pytest.mark.parametrize("limit", [1, 7, 100, 999])
def test_bisection_is_close_and_never_too_large(limit):
    found = largest(lambda n: n <= limit, 1000)
    assert limit * 7 / 8 - 1 <= found <= limit


def test_errors_of_the_compiler_say_what_is_needed():
    said = "Ran out of memory on HBM, the total memory required for HLO temporaries (216.00G) exceeds available HBM"
    assert needed_bytes(said) == 216 * 2**30
    assert needed_bytes("Ran out of memory in memory space hbm. Used 512.0M of 15.75G hbm") == 2**29
    assert needed_bytes("something else") is None
