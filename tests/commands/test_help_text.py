"""Help texts made from docstrings."""

import pytest
import tyro

from lanas_jax.commands import help_text

DOCSTRING = """A search that has
a summary of two lines.

Commands stay as they are::

    lanas search it
        --out runs/it

- one point that is too long for a single line of the terminal
- another

====  =====
name  value
====  =====
best  0.9
====  =====

A paragraph that ends
(so to speak) here.

Args:
  budget: number of trials.
"""


def test_paragraphs_are_wrapped_and_commands_and_tables_keep_their_lines():
    summary, notes = help_text.split_docstring(DOCSTRING, columns=40)
    assert summary == "A search that has a summary of two lines."
    assert notes == "\n".join(
        [
            "Commands stay as they are:",
            "",
            "    lanas search it",
            "        --out runs/it",
            "",
            "- one point that is too long for a",
            "  single line of the terminal",
            "- another",
            "",
            "====  =====",
            "name  value",
            "====  =====",
            "best  0.9",
            "====  =====",
            "",
            "A paragraph that ends (so to speak)",
            "here.",
        ]
    )
    assert help_text.split_docstring("", columns=40) == ("", "")


def test_help_has_the_summary_above_the_options_and_the_rest_below(capsys):
    def search(budget: int = 3) -> int:
        return budget

    with pytest.raises(SystemExit, match="0"):
        help_text.parse_documented(search, DOCSTRING, ["--help"])
    printed = capsys.readouterr().out
    places = [printed.index(part) for part in ("two lines.", "--budget INT  ", "best  0.9")]
    assert places == sorted(places)
    assert help_text.parse_documented(search, DOCSTRING, ["--budget", "5"]) == 5
    with pytest.raises(SystemExit, match="2"):
        help_text.parse_documented(search, DOCSTRING, ["--bud", "5"], config=(tyro.conf.FlagCreatePairsOff,))
    assert "best  0.9" not in capsys.readouterr().out
