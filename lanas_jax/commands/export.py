"""``lanas export``: writes a trained network: its weights, or a program that contains them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.text import Text

from lanas_jax.commands.base import RefusedError, parsed
from lanas_jax.export import write as exporting
from lanas_jax.export.language import Sample, export_language, is_language
from lanas_jax.export.load import ARCHITECTURE, MissingPackageError, load
from lanas_jax.export.program import write_program
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.paths import local_path
from lanas_jax.study import run_folder
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.folder import FinalFolder

SAMPLE = Sample()


def export(arguments: Sequence[str]) -> int:
    """Writes a trained network."""
    try:
        return _export(terminal(), arguments)
    except MissingPackageError as error:
        raise RefusedError(str(error)) from error


def _export_language(
    console: Console, folder: FinalFolder, out: Path | None, which: str | None, kind: str, sample: Sample
) -> int:
    if which == "ema" or kind in ("stablehlo", "onnx"):
        wrong = "--weights ema" if which == "ema" else f"--format {kind}"
        raise RefusedError(f"{folder.directory} holds a language model, which has no {wrong}: leave it out")
    try:
        written, text = export_language(folder, folder.directory / "export" if out is None else out, kind, sample)
    except ValueError as error:
        raise RefusedError(str(error)) from error
    console.print(Text(text), soft_wrap=True)
    console.print(f"{written}: python load.py --prompt TEXT", soft_wrap=True)
    return 0


def _export(console: Console, arguments: Sequence[str]) -> int:
    """Exports the weights of a finished training.

    Raises:
      RunError, ExperimentError, ConfigError, MissingPackageError: the export is not possible; the message says what to
        change.
    """

    def parse(
        run: Annotated[
            str,
            tyro.conf.arg(
                metavar="RUN|FOLDER",
                help="run given to lanas train, or the folder that it wrote; for a program also an exported or "
                "extracted network",
            ),
        ],
        /,
        out: Annotated[
            Path | None,
            tyro.conf.arg(metavar="DIR", help="new output folder", help_behavior_hint="(default: FOLDER/export)"),
        ] = None,
        weights: Annotated[
            Literal["last", "ema"] | None,
            tyro.conf.arg(
                help="last weights, or their exponential moving average", help_behavior_hint="(default: last)"
            ),
        ] = None,
        format: Annotated[
            Literal["safetensors", "orbax", "stablehlo", "onnx"],
            tyro.conf.arg(help="file format of the weights, or of a program that contains them"),
        ] = "safetensors",
        sample: Annotated[Sample, tyro.conf.arg(help="text that a language model writes")] = SAMPLE,
    ) -> Any:
        """Write a trained network's weights, its architecture as JSON, and a load.py that runs it on images.

        The formats stablehlo and onnx are programs for any number of images, which run without this package: the first
        with JAX and flatbuffers, the second with onnxruntime.

        A language model writes a text, which is printed and saved; its load.py writes more.
        """
        return run, out, weights, format, sample

    name, out, which, kind, sample = parsed(parse, "export", arguments)
    # The folder of a training, or a run, whose best trial was trained.
    path = local_path(name)
    if kind in ("stablehlo", "onnx") and (path / ARCHITECTURE).exists():
        network, target = load(path), path / kind if out is None else out
        if which not in (None, has := network.architecture["weights"]):
            raise RefusedError(f"{path} contains the weights {has}, not {which}: leave out --weights")
        exporting.refuse_used(target)
        written = write_program(network, target, kind)
    else:
        of_run = run_folder.run_exists(path) and not folders.training_exists(path)
        folder = folders.open_folder(path / run_folder.FINAL if of_run else path)
        if is_language(folder):
            return _export_language(console, folder, out, which, kind, sample)
        if sample != SAMPLE:
            raise RefusedError(
                f"{folder.directory} holds a network of images, which writes no text: leave --sample out"
            )
        target, which = folder.directory / "export" if out is None else out, which or "last"
        if kind in ("stablehlo", "onnx"):
            written = write_program(exporting.trained_network(folder, which), target, kind)
        else:
            written = exporting.export_weights(folder, target, which, kind)
    console.print(f"{written}: python load.py IMAGES.npy LOGITS.npy", soft_wrap=True)
    return 0
