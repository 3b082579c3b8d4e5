"""Tables of all networks of a space, made by hours of training: a file per random subset, then one table.

Several processes may divide the files among them. A process skips the files that exist, so it may be stopped and
started again at any time. The subsets are drawn at random, so statistics of some files estimate those of the whole
space.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import fields_of, read_npz, write_npz
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.tables.benchmark import Benchmark

Columns = dict[str, Float[np.ndarray, "rows seeds"]]


def refuse_part(part: int, parts: int) -> None:
    """Checks the index of a process.

    Raises:
      ValueError: `part` is not from 0 to ``parts - 1``.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part must be from 0 to parts - 1, {parts - 1}; got {part}")


@dataclasses.dataclass(frozen=True)
class CompleteTable:
    """The files of a table in the making.

    Args:
      out: folder of the files.
      name: name of the table.
      space: space whose networks are trained.
      per_file: number of networks per file.
      columns: names of what is measured of each training, such as ``validation``; ``seconds`` is one of them.
      settings: text of all settings that the results depend on.
    """

    out: Path
    name: str
    space: SearchSpace
    per_file: int
    columns: tuple[str, ...]
    settings: str

    @property
    def path(self) -> Path:
        """The file of the whole table."""
        return self.out / f"{self.name}.npz"

    @property
    def files(self) -> dict[Path, Int[np.ndarray, " rows"]]:
        """The files of all processes, each with its rows of the enumerated space."""
        rows = np.random.default_rng(0).permutation(len(self.space.enumerate()))
        starts = range(0, len(rows), self.per_file)
        return {self.out / f"{i:04}.npz": rows[start : start + self.per_file] for i, start in enumerate(starts)}

    @property
    def is_complete(self) -> bool:
        """Whether all files exist."""
        return all(path.exists() for path in self.files)

    def make(
        self,
        train: Callable[[Int[np.ndarray, " rows"]], Columns],
        part: int,
        parts: int,
        describe: Callable[[Columns], str],
    ) -> None:
        """Makes the missing files of a process, and prints a line for each.

        Args:
          train: function that trains networks, given their rows of the enumerated space, and returns the columns.
          part: index of this process; it makes every file whose number has this remainder.
          parts: number of processes.
          describe: function that returns words about the columns, for the printed line.

        Raises:
          FileError: a file of the process is damaged or was made with other settings; nothing was trained.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        files = self.files
        mine = [*files][part::parts]
        missing = [path for path in mine if not path.exists()]
        for path in mine:
            if path not in missing:
                self.read(path)
        for path in missing:
            began = time.perf_counter()
            found = train(files[path])
            write_npz(path, {"settings": np.array(self.settings), "rows": files[path], **found})
            seconds = found["seconds"]
            print(
                f"{time.strftime('%H:%M:%S')} {path.name} of {len(files)}: "
                f"{(time.perf_counter() - began) / seconds.size:.3f} s a training, {seconds.mean():.3f} s of the "
                f"processor; {describe(found)}",
                flush=True,
            )

    def read(self, path: Path) -> dict[str, np.ndarray]:
        """Reads the rows and columns of a file.

        Raises:
          FileError: the file is missing or damaged, or was made with other settings.
        """
        arrays = read_npz(path, ("settings", "rows", *self.columns))
        if str(arrays.pop("settings")) != self.settings:
            raise FileError(f"{path} was made with other settings: choose another folder")
        return arrays

    def joined(self) -> Columns:
        """Returns the columns of all files, in the order of the space.

        Raises:
          FileError: a file is missing or damaged, or was made with other settings.
        """
        parts = [self.read(path) for path in self.files]
        order = np.argsort(np.concatenate([part["rows"] for part in parts]))
        return {name: np.concatenate([part[name] for part in parts])[order] for name in self.columns}

    def save(
        self,
        validation: Float[np.ndarray, "m seeds"],
        test: Float[np.ndarray, "m seeds"],
        notes: str,
        more: Mapping[str, Any],
    ) -> Benchmark:
        """Writes the whole table with the costs of its networks and further arrays, and returns it."""
        benchmark = Benchmark(self.name, self.space, self.space.enumerate(), validation, test, notes)
        benchmark.save(self.path)
        costs = self.space.cost(benchmark.codes)._asdict()
        write_npz(self.path, {**read_npz(self.path, fields_of(self.path)), **costs, **more})
        return benchmark
