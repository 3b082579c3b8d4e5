"""Costs of compiled programs: the excerpts of `toy_programs.py`, and loops written by hand."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lanas_jax.planning.costs import NOTHING, NUMBERS, Collective, CostAnalysis
from lanas_jax.planning.hlo import parse_module
from tests.planning import toy_programs

MATRIX = 4 * toy_programs.SIDE**2  # bytes


def module_of(name):
    return parse_module((toy_programs.FOLDER / f"{name}.hlo").read_text())


def costs(name, **settings):
    return CostAnalysis(module_of(name), **settings).total()


def cycles_of(name, opcode, count):
    """The estimates of the instructions of an opcode, wherever they are."""
    found = [
        one.cycles
        for computation in module_of(name).computations.values()
        for one in computation.values()
        if one.opcode == opcode and one.cycles is not None
    ]
    assert len(found) == count
    return sum(found)


def test_loops_count_as_often_as_they_run():
    around = cycles_of("scan", "convert", 1)
    body = cycles_of("scan", "copy", 1) + cycles_of("scan", "fusion", 1)
    assert costs("scan").cycles == around + 5 * body
    inner = cycles_of("nested_scan", "fusion", 1) + cycles_of("nested_scan", "copy", 1)
    outer = cycles_of("nested_scan", "sine", 1)
    assert costs("nested_scan").cycles == cycles_of("nested_scan", "convert", 1) + 5 * (outer + 3 * inner)


def test_a_loop_reads_its_arrays_once_if_they_stay_on_the_chip():
    assert costs("scan").moved == pytest.approx(3 * MATRIX, rel=0.001)  # both factors and the result


def test_a_loop_reads_the_slices_of_an_array_and_not_the_array():
    """The stack of matrices is read once, to be rounded; on the chip from then on, as are the sums of the rounds."""
    assert costs("slices").moved == pytest.approx((7 + 2) * MATRIX, rel=0.01)


def test_loops_of_unknown_length_count_as_stated():
    once, nine = (costs("unknown_length", rounds=(rounds,)) for rounds in (1.0, 9.0))
    body = cycles_of("unknown_length", "copy", 1) + cycles_of("unknown_length", "fusion", 1)
    assert nine.cycles - once.cycles == 8 * body
    assert (once.unknown_loops, nine.unknown_loops, costs("nested_scan").unknown_loops) == (1, 1, 0)


def test_conditionals_count_the_mean_or_the_costliest_branch():
    module = module_of("switch")
    (conditional,) = (one for one in module.computations[module.entry].values() if one.opcode == "conditional")
    branches = [CostAnalysis(module).total(name).cycles for name in conditional.branches]
    assert branches[0] < branches[1] < branches[2]
    mean, costliest = costs("switch"), costs("switch", branches="costliest")
    assert costliest.cycles - mean.cycles == pytest.approx(branches[2] - sum(branches) / 3)
    assert mean.conditionals == costliest.conditionals == 1
    weighed = costs("switch", weights={3: (0.0, 1.0, 0.0)})
    assert costliest.cycles - weighed.cycles == pytest.approx(branches[2] - branches[1])


def test_of_two_branches_the_more_expensive_one_counts():
    assert costs("choice") == costs("choice", branches="costliest")
    assert costs("choice").cycles > cycles_of("choice", "fusion", 1)


def test_collectives_count_with_their_loops():
    assert costs("all_reduce").collectives == {"all-reduce": Collective(3, 3 * MATRIX)}
    assert costs("all_reduce").uncounted["all-reduce"] == 3
    found = costs("exchange").collectives
    assert found["all-gather"] == Collective(1, 4 * MATRIX)
    assert found["collective-permute"] == Collective(1, MATRIX)


def test_gathers_count_with_their_rows_and_without_an_estimate():
    found = costs("gather")
    assert (found.gathers, found.rows, found.uncounted_gathers, found.uncounted["gather"]) == (1, 128, 1, 1)
    row = 4 * toy_programs.SIDE
    assert 2 * 128 * row <= found.moved < 4 * 128 * row  # of 600,000 rows, those that are asked for


def test_the_costliest_instructions_come_first():
    analysis = CostAnalysis(module_of("scan"))
    first, second, *_ = found = analysis.costliest_instructions()
    assert (first.opcode, first.runs, first.cycles) == ("convert", 1, cycles_of("scan", "convert", 1))
    assert (second.opcode, second.runs) == ("fusion", 5)
    assert sum(one.cycles for one in found) == analysis.total().cycles


LOOP = """HloModule loop

%body (x: (s32[], f32[1024], s32[])) -> (s32[], f32[1024], s32[]) {
  %x = (s32[], f32[1024]{0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%x), index=0
  %y = f32[1024]{0} get-tuple-element(%x), index=1
  %n = s32[] get-tuple-element(%x), index=2
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %z = f32[1024]{0} negate(%y)
  ROOT %t = (s32[], f32[1024]{0}, s32[]) tuple(%next, %z, %n)
}

%condition (x: (s32[], f32[1024], s32[])) -> pred[] {
  %x = (s32[], f32[1024]{0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%x), index=0
  %end = s32[] LIMIT
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

ENTRY %main (y: f32[1024], n: s32[]) -> f32[1024] {
  %y = f32[1024]{0} parameter(0)
  %n = s32[] PASSED
  %zero = s32[] constant(0)
  %t = (s32[], f32[1024]{0}, s32[]) tuple(%zero, %y, %n)
  %while = (s32[], f32[1024]{0}, s32[]) while(%t), condition=%condition, body=%bodyKNOWN
  ROOT %result = f32[1024]{0} get-tuple-element(%while), index=1
}
"""
CARRIED = "get-tuple-element(%x), index=2"


def loop(limit, passed="parameter(1)", known=""):
    return LOOP.replace("LIMIT", limit).replace("PASSED", passed).replace("KNOWN", known)


def negations(text, **settings):
    """The number of negations of arrays; other instructions move a few bytes."""
    return CostAnalysis(parse_module(text), **settings).total().moved // (2 * 4096)


def test_lengths_are_stated_or_compared_with():
    assert negations(loop("constant(6)")) == 6
    assert negations(loop(CARRIED, passed="constant(7)")) == 7
    assert negations(loop(CARRIED, known=', backend_config={"known_trip_count":{"n":"4"}}')) == 4


def test_a_limit_that_changes_is_no_length():
    changing = loop(CARRIED, passed="constant(7)").replace("tuple(%next, %z, %n)", "tuple(%next, %z, %next)")
    assert negations(changing, rounds=(3,)) == 3
    assert negations(loop(CARRIED), rounds=(3,)) == 3


def test_a_loop_that_may_end_early_has_no_length():
    less, sound = "  %less = pred[] compare(%i, %end), direction=LT\n", "  %sound = pred[] is-finite(%i)\n"
    both = less + sound + "  ROOT %going = pred[] and(%less, %sound)"
    text = loop("constant(6)").replace("  ROOT" + less[1:-1], both)
    assert "ROOT %going" in text
    assert negations(text, rounds=(3,)) == 3


def test_the_rounds_of_loops_within_loops_of_unknown_length():
    body, condition, entry = (part.strip() + "\n}\n" for part in loop(CARRIED).split("loop\n")[1].split("\n}\n")[:3])
    deep = body.replace("%body", "%deep").replace("negate(%y)", "get-tuple-element(%all), index=1")
    deep = deep.replace(
        "  %z", "  %all = (s32[], f32[1024]{0}, s32[]) while(%x), condition=%condition, body=%body\n  %z"
    )
    text = "\n".join([body, condition, deep, entry.replace("body=%body", "body=%deep")])
    for rounds, expected in {(1,): 1, (5,): 25, (5, 3): 15}.items():
        assert negations(text, rounds=rounds) == expected


def test_an_estimate_of_the_largest_integer_is_none():
    line = '  ROOT %y = f32[4096]{0} negate(%x), backend_config={"window_config":{"estimated_cycles":"CYCLES"}}'
    text = "ENTRY %main (x: f32[4096]) -> f32[4096] {\n  %x = f32[4096]{0} parameter(0)\n" + line + "\n}\n"
    known, unknown = (
        CostAnalysis(parse_module(text.replace("CYCLES", str(cycles)))).total() for cycles in (7, 2**63 - 1)
    )
    assert (known.cycles, known.uncounted) == (7, {})
    assert (unknown.cycles, unknown.uncounted) == (0, {"negate": 1})


def test_costs_add_up():
    one, two = costs("all_reduce"), costs("gather")
    both = one.plus(two).times(2)
    assert both.cycles == 2 * (one.cycles + two.cycles)
    assert both.collectives["all-reduce"] == Collective(6, 6 * MATRIX)
    assert both.uncounted["gather"] == 2
    assert one.plus(NOTHING) == one
    assert {field.name for field in dataclasses.fields(one)} == {*NUMBERS, "collectives", "uncounted"}


CHECK = """
import sys
from lanas_jax.planning.topology import find_topology
machines = {1: find_topology("v5e:1x1").devices, 4: find_topology("v5e:2x2").devices}
from lanas_jax.planning.costs import CostAnalysis
from lanas_jax.planning.hlo import parse_module
from tests.planning import toy_programs
for name, (*_, chips) in toy_programs.PROGRAMS.items():
    text = toy_programs.compile_program(name, machines[chips])
    both = [CostAnalysis(parse_module(one)).total() for one in (text, toy_programs.excerpt(text))]
    assert both[0] == both[1], (name, both)
    one = both[0]
    print(name, one.cycles > 0, *sorted(one.collectives), one.gathers, one.unknown_loops, one.conditionals)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu (extra tpu-plan) is not installed")
def test_programs_are_read_as_their_excerpts():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert dict(line.split(maxsplit=1) for line in done.stdout.splitlines()) == {
        "scan": "True 0.0 0.0 0.0",
        "nested_scan": "True 0.0 0.0 0.0",
        "slices": "True 0.0 0.0 0.0",
        "switch": "True 0.0 0.0 1.0",
        "choice": "True 0.0 0.0 1.0",
        "unknown_length": "True 0.0 1.0 0.0",
        "gather": "True 1.0 0.0 0.0",
        "all_reduce": "True all-reduce 0.0 0.0 0.0",
        "exchange": "True all-gather collective-permute 0.0 0.0 0.0",
    }
