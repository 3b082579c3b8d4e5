"""Terminal output: text as it is, and tables that narrow terminals show as records."""

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

FOLDED = 8  # columns that are enough for text that may be folded anywhere, such as a code


def terminal(*, width: int = 140, quiet: bool = False, stderr: bool = False) -> Console:
    """Returns a console that prints text as it is: no markup, no emoji codes, no highlighting.

    Paths, failure reasons and experiment names may contain brackets that rich would interpret as markup.

    Args:
      width: number of columns if the output is not a terminal, so that tables fit.
      quiet: if True, nothing is printed.
      stderr: output to standard error instead of standard output.
    """
    console = Console(markup=False, emoji=False, highlight=False, quiet=quiet, stderr=stderr)
    if not console.is_terminal:
        console.width = width
    return console


def print_table(console: Console, table: Table) -> None:
    """Prints a table of text, or its rows as records, one ``heading: text`` per line, if the terminal is too narrow.

    A table that does not fit would lose the ends of its words, and at last whole columns.
    """
    if _needed_width(console, table) <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(Text(str(table.title)), soft_wrap=True)
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            if text := str(cell):
                console.print(Text(f"{column.header}: {text}"), soft_wrap=True)
        console.print()
    if table.caption:
        console.print(Text(str(table.caption)), soft_wrap=True)


def _needed_width(console: Console, table: Table) -> int:
    """Returns the smallest width of a table without broken words, except in columns that may be folded anywhere.

    To save space, rich first reduces the widest columns that may be wrapped, so that these end with equal widths.
    """
    texts = [(column, [str(text) for text in (column.header, *column.cells)]) for column in table.columns]
    full = [max(cell_len(line) for text in found for line in text.split("\n")) for _, found in texts]
    wrapped = [0]
    for column, found in texts:
        if not column.no_wrap:
            longest = max((cell_len(word) for text in found for word in text.split()), default=0)
            wrapped.append(min(longest, FOLDED) if column.overflow == "fold" else longest)
    saved = (0 if column.no_wrap else max(0, n - max(wrapped)) for column, n in zip(table.columns, full, strict=True))
    return console.measure(table, options=console.options.update(width=10**6)).maximum - sum(saved)
