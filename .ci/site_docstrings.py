"""Converts docstrings to Markdown for the documentation site (an extension of griffe, which mkdocstrings uses).

A paragraph that ends with two colons introduces code, and tables are drawn with equals signs, as in reStructuredText.
"""

import re
import textwrap
from typing import Any

import griffe

CODE = re.compile(  # code is indented as deep as its first line, or deeper
    r"^(?P<lead>(?P<indent> *).*?):: *\n\n?"
    r"(?P<code>(?P<deep>(?P=indent) {2,})\S.*(?:\n|$)(?:(?P=deep).*(?:\n|$)| *\n)*)",
    re.MULTILINE,
)
TABLE = re.compile(r"^(?P<rule>=+(?: +=+)+)\n(?P<head>.+\n)(?P=rule)\n(?P<body>(?:.+\n)+?)(?P=rule)$", re.MULTILINE)
SHELL = re.compile(r"(lanas|python|pip|make|export|[A-Z_]+=\S+ )")


class MarkdownDocstrings(griffe.Extension):
    """Rewrites the docstring of every object before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each object that was loaded."""
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """Returns a docstring as Markdown."""
    return TABLE.sub(drawn, CODE.sub(fenced, text))


def fenced(block: re.Match[str]) -> str:
    """Returns a paragraph and its indented code, with the code in fences."""
    code = textwrap.dedent(block["code"]).strip("\n")
    language = "console" if SHELL.match(code) else "python" if re.search(r"[=(]", code) else "text"
    lines = textwrap.indent(f"```{language}\n{code}\n```", block["indent"])
    lead = f"{block['lead']}:" if block["lead"].strip() else ""
    return f"{lead}\n\n{lines}\n\n"


def drawn(table: re.Match[str]) -> str:
    """Returns a table with columns separated by bars. A row without a first cell continues the row above."""
    spans = [found.span() for found in re.finditer("=+", table["rule"])]
    ends = [*(start for start, _ in spans[1:]), None]
    rows: list[list[str]] = []
    for line in [*table["head"].splitlines(), *table["body"].splitlines()]:
        cells = [line[start:end].strip() for (start, _), end in zip(spans, ends, strict=True)]
        if len(rows) > 1 and not cells[0]:
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    rows.insert(1, ["---"] * len(spans))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
