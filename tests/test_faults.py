"""The deliberate faults of `tests/faults.py` still have a place in the code."""

from tests.faults import FAULTS, check_faults


def test_every_fault_has_a_place():
    check_faults(FAULTS)
