"""Texts of compiled programs: an excerpt of `toy_programs.py`, types, and single lines."""

import re

import pytest

from lanas_jax.planning.hlo import Instruction, array_bytes, parse_module
from tests.planning import toy_programs


def test_every_instruction_is_read():
    text = (toy_programs.FOLDER / "switch.hlo").read_text()
    module = parse_module(text)
    assert module.entry.startswith("main")
    assert sum(map(len, module.computations.values())) == len(re.findall(r"^  .* = ", text, re.MULTILINE))
    (conditional,) = (one for one in module.computations[module.entry].values() if one.opcode == "conditional")
    assert len(conditional.branches) == 3
    assert set(conditional.branches) <= module.computations.keys()
    assert all(name in module.computations[module.entry] for name in conditional.reads)


def test_a_text_of_something_else_is_refused():
    with pytest.raises(ValueError, match="no computation marked ENTRY"):
        parse_module("module @jit_f { func.func public @main() }")


@pytest.mark.parametrize(("shape", "size"), [
    ("f32[]", 4), ("pred[3,5]{1,0}", 15), ("bf16[8,128]{1,0:T(8,128)(2,1)}", 2048), ("s4[16]{0}", 8),
    ("f32[1,1]{1,0:T(8,128)}", 4096), ("f32[100]{0:T(128)}", 512), ("f8e4m3fn[4]{0}", 4),
    ("u8[10,32,32,3]{2,1,3,0:T(8,128)(4,1)}", 10 * 3 * 32 * 128), ("(f32[2]{0}, s32[])", 12), ("token[]", 0),
])  # fmt: skip
def test_arrays_are_padded_to_tiles(shape, size):
    assert array_bytes(shape) == size


def test_arrays_on_the_chip_move_nothing():
    shape = "(f32[8,128]{1,0:T(8,128)S(1)}, /*index=1*/f32[8,128]{1,0:T(8,128)})"
    assert (array_bytes(shape), array_bytes(shape, on_chip=False)) == (8192, 4096)


def test_choices_are_also_named_by_their_truth():
    one = Instruction("c", "f32[]", "conditional", "%p, %x, %x", ", true_computation=%a, false_computation=%b", True)
    assert one.branches == ["b", "a"]
