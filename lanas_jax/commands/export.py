"""``lanas export``: writes the weights of a trained network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from lanas_jax.commands.base import PATHS, RefusedError
from lanas_jax.export import write as exporting
from lanas_jax.export.load import MissingPackageError
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.paths import local_path
from lanas_jax.study import run_folder
from lanas_jax.trainer import folder as folders


def export(arguments: Sequence[str]) -> int:
    """Writes the weights of a trained network."""
    try:
        return _export(terminal(), arguments)
    except MissingPackageError as error:
        raise RefusedError(str(error)) from error


def _export(console: Console, arguments: Sequence[str]) -> int:
    """Exports the weights of a finished training.

    Raises:
      RunError, ExperimentError, ConfigError, MissingPackageError: the export is not possible; the message says what to
        change.
    """

    def parse(
        run: Annotated[
            str, tyro.conf.arg(metavar="RUN|FOLDER", help="run given to lanas train, or the folder that it wrote")
        ],
        /,
        out: Annotated[
            Path | None, tyro.conf.arg(metavar="DIR", help="new output folder; default: FOLDER/export")
        ] = None,
        weights: Annotated[
            Literal["last", "ema"], tyro.conf.arg(help="last weights, or their exponential moving average")
        ] = "last",
        format: Annotated[
            Literal["safetensors", "orbax"], tyro.conf.arg(help="file format of the weights")
        ] = "safetensors",
    ) -> Any:
        """Write a trained network's weights, its architecture as JSON, and a load.py that runs it on images."""
        return run, out, weights, format

    name, out, which, kind = tyro.cli(parse, prog="lanas export", args=list(arguments), registry=PATHS)
    # The folder of a training, or a run, whose best trial was trained.
    path = local_path(name)
    of_run = run_folder.run_exists(path) and not folders.training_exists(path)
    folder = folders.open_folder(path / run_folder.FINAL if of_run else path)
    written = exporting.export_weights(folder, folder.directory / "export" if out is None else out, which, kind)
    console.print(f"{written}: python load.py IMAGES.npy LOGITS.npy", soft_wrap=True)
    return 0
