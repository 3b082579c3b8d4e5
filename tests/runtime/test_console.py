"""Tables on terminals of any width: all words are there, as cells or as records."""

import hypothesis
import pytest
from hypothesis import strategies as st
from rich import box
from rich.console import Console
from rich.table import Table

from lanas_jax.commands import summary
from lanas_jax.runtime.console import print_table
from tests.report.made_up_run import trial

WORDS = st.lists(st.text("abcdefgh,", min_size=1, max_size=12), max_size=4).map(" ".join)
COLUMNS = st.tuples(WORDS, st.sampled_from(["whole", "wrapped", "folded"]), st.lists(WORDS, min_size=3, max_size=3))
CODE = trial(7, 0.25, code=tuple(range(28)))


def printed(table, width):
    """The lines of a table on a terminal of some width."""
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        print_table(console, table)
    return capture.get().splitlines()


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    columns=st.lists(COLUMNS, min_size=1, max_size=5),
    width=st.integers(12, 90),
    lines=st.sampled_from([box.HEAVY_HEAD, box.SIMPLE, None]),
)
def test_no_word_is_lost(columns, width, lines):
    table = Table(box=lines)
    for heading, kind, _ in columns:
        table.add_column(heading, no_wrap=kind == "whole", overflow="fold" if kind == "folded" else "ellipsis")
    for row in zip(*(cells for _, _, cells in columns), strict=True):
        table.add_row(*row)
    shown = printed(table, width)
    assert "…" not in "".join(shown)
    words = set(" ".join(shown).split())
    for _, kind, cells in columns:
        for cell in cells:
            assert kind == "folded" or words >= set(cell.split())
            if kind == "whole":
                assert any(cell in line for line in shown)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 140])
def test_trials_are_a_table_or_records(width):
    failed = trial(8, reason="the loss is NaN")
    for table in (summary.trials_table([CODE, failed]), summary.best_table([CODE])):
        shown = printed(table, width)
        assert ("┃" in "".join(shown)) == (width >= (80 if table.title is None else 60))
        if width < 60:
            assert "value: 0.2500" in shown
            assert "value: " not in shown  # of a failed trial
            assert any(line.endswith(f": {','.join(map(str, range(28)))}") for line in shown)
