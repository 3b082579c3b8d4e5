"""Docstrings as help texts: the summary above the options, the other paragraphs below them.

Tyro joins the lines of a description, and so those of a table. Here, commands and tables stay as they are, and
paragraphs are wrapped to the width of the terminal.
"""

import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import tyro

_WIDEST = 120  # columns, of a paragraph in a wider terminal
_VERBATIM = (" ", "==", "- ", "* ", "|")  # beginnings of lines of commands, tables and other lists
_SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:")  # of a docstring; the options show what these say


def parse_documented(
    function: Callable[..., Any], docstring: str, arguments: Sequence[str] | None = None, **how: Any
) -> Any:
    """Calls `tyro.cli` with a docstring as its help.

    Args:
      function: function or dataclass whose parameters are the options.
      docstring: docstring of a module or class; its first paragraph is the summary.
      arguments: words of the command line; default: those of this process.
      **how: further arguments of `tyro.cli`.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    summary, notes = split_docstring(docstring)
    try:
        return tyro.cli(function, description=summary, args=words, **how)
    except SystemExit as end:
        if not end.code and notes and {"-h", "--help"} & {*words}:
            print(f"\n{notes}")
        raise


def split_docstring(docstring: str, columns: int | None = None) -> tuple[str, str]:
    """Returns the summary of a docstring, and the other paragraphs as wrapped text, without sections such as ``Args:``.

    Args:
      docstring: docstring of a module, class or function.
      columns: width of the text; default: that of the terminal, at most 120.
    """
    columns = min(shutil.get_terminal_size().columns, _WIDEST) if columns is None else columns
    paragraphs = [lines for lines in inspect.cleandoc(docstring).split("\n\n") if lines.strip()]
    ends = (i for i, paragraph in enumerate(paragraphs) if paragraph.startswith(_SECTIONS))
    summary, *others = paragraphs[: next(ends, None)] or [""]
    return " ".join(summary.split()), "\n\n".join(_laid_out(paragraph, columns) for paragraph in others)


def _laid_out(paragraph: str, columns: int) -> str:
    """Returns a paragraph or list wrapped; commands, which are indented, and tables keep their lines."""
    items = paragraph.split("\n- ")
    if not paragraph.startswith("- ") and any(line.startswith(_VERBATIM) for line in paragraph.splitlines()):
        return paragraph
    wrap = textwrap.TextWrapper(columns, break_long_words=False, break_on_hyphens=False)
    wrap.subsequent_indent = "  " if paragraph.startswith("- ") else ""
    text = "\n".join(wrap.fill(f"{'- ' if i else ''}{' '.join(item.split())}") for i, item in enumerate(items))
    return text[:-1] if text.endswith("::") else text
