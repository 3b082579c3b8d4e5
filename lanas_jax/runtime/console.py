"""Terminal output."""

from rich.console import Console


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
