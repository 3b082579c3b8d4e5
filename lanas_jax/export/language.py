"""Trained language models: written to a folder, read back, and the text that they write.

====================  ====================================================================
``architecture.json`` code, space, costs, bits per character
``weights...``        ``weights.safetensors``, or the folder ``weights`` of orbax
``experiment.py``     the experiment's file, which builds the network
``sample.txt``        text that the network wrote
``load.py``           script that continues a text, by `load_language`
====================  ====================================================================
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from lanas_jax.export.load import ARCHITECTURE, EITHER, SOURCE, read_weights, write_weights
from lanas_jax.export.recorded import recorded_training
from lanas_jax.export.write import describe_network, refuse_incomplete, refuse_used
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage import weights as by_name
from lanas_jax.storage.folder import RunError
from lanas_jax.trainer.folder import FinalFolder
from lanas_jax.trainer.language import LanguageNetwork, LanguageTraining, trained_params, write_text

SAMPLE = "sample.txt"
LOAD = '''\
"""Continues a text with the language model of this folder: python load.py --prompt "the " --length 400

The script needs lanas_jax and the packages of the experiment, but not the text that the model was trained on.
"""

from pathlib import Path

import tyro

from lanas_jax.export.language import Sample, load_language

print(load_language(Path(__file__).parent).write(tyro.cli(Sample)))
'''


@dataclasses.dataclass(frozen=True)
class Sample:
    """Text that a language model writes.

    Attributes:
      prompt: beginning of the text, which the model continues.
      length: number of characters to write.
      temperature: divisor of the logits before a character is drawn; 0 takes the most likely character.
      seed: seed of the draws.
    """

    prompt: str = "the "
    length: int = 400
    temperature: float = 0.7
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedLanguageModel:
    """A trained language model.

    Attributes:
      architecture: content of architecture.json.
      network: network built from the experiment's file.
      params: trained parameters of the network.
    """

    architecture: Mapping[str, Any]
    network: LanguageNetwork[Any]
    params: PyTree[Array]

    def write(self, sample: Sample) -> str:
        """Returns the prompt, as the model reads it, and its continuation.

        Raises:
          ValueError: as in `lanas_jax.trainer.language.write_text`.
        """
        return write_text(self.network, self.params, **dataclasses.asdict(sample))


def is_language(folder: FinalFolder) -> bool:
    """Returns whether a training is that of a language model."""
    return "text" in folder.record["data"]


def export_language(folder: FinalFolder, directory: Path, kind: str, sample: Sample) -> tuple[Path, str]:
    """Exports the last weights of a complete training, with a text that the model writes and a script that reads them.

    Args:
      folder: folder of a complete training.
      directory: new or empty folder to write to.
      kind: file format, ``safetensors`` or ``orbax``.
      sample: text to write.

    Returns:
      The absolute path of the written folder, and the text.

    Raises:
      RunError: the training is not complete or has no intact checkpoint, or `directory` is not empty.
      ExperimentError, ConfigError: the training's experiment.py no longer builds the network.
      MissingPackageError: the package that writes this format is not installed.
      ValueError: as in `lanas_jax.trainer.language.write_text`.
    """
    directory = local_path(directory).absolute()
    refuse_used(directory)
    refuse_incomplete(folder)
    training, record, final = _language(folder.source, folder.record), folder.record, folder.final or {}
    if (params := trained_params(training, folder)) is None:
        raise RunError(f"none of the checkpoints in {folder.checkpoints} is intact, so there are no weights to export")
    about = {
        "name": record["name"],
        "code": record["code"],
        **describe_network(training.network.space, np.array(record["code"], np.int32)),
        **{name: final[name] for name in ("multiply_adds", "parameters", "trained_parameters")},
        **{name: final[name] for name in ("validation_bits", "test_bits")},
        "weights": "last",
        "data": record["data"],
        **{name: record[name] for name in ("source", "home", "config", "settings", "recipe", "software")},
        "working_folder": record.get("working_folder"),
        "format": kind,
    }
    text = TrainedLanguageModel(about, training.network, params).write(sample)
    directory.mkdir(parents=True, exist_ok=True)
    write_weights(directory, params, kind)
    shutil.copyfile(folder.source, directory / SOURCE)
    (directory / SAMPLE).write_text(text + "\n", encoding="utf-8")
    (directory / "load.py").write_text(LOAD, encoding="utf-8")
    (directory / ARCHITECTURE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return directory, text


@in_32_bits
def load_language(directory: Path | str) -> TrainedLanguageModel:
    """Loads the language model in a folder written by ``lanas export``. The text is not needed.

    Raises:
      RunError: the folder holds no language model, or its weights do not fit the network.
      ExperimentError, ConfigError: experiment.py no longer builds the network.
      MissingPackageError: the package that reads the weights is not installed.
    """
    directory = local_path(directory).absolute()
    architecture = EITHER.read(directory)
    network = _language(directory / SOURCE, architecture).network
    like = jax.eval_shape(network.init, jax.random.key(0))
    try:
        params = by_name.filled(like, read_weights(directory))
    except ValueError as error:
        raise RunError(f"the weights in {directory} do not fit its network: {error}") from error
    return TrainedLanguageModel(architecture, network, params)


def _language(source: Path, record: Mapping[str, Any]) -> LanguageTraining:
    training = recorded_training(source, record)
    if not isinstance(training, LanguageTraining):
        raise RunError(f"{source.parent} holds a network of images; expected a language model")
    return training
