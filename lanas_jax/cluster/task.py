"""What a worker has to know to evaluate trials of an experiment, and the fingerprint of the code it does so by.

A task is plain data, so that any version of this package can read it. Its fingerprint is a digest of all Python source
that decides what a trial comes to, of the experiment's file, of its settings and of the versions of other packages:
workers with another one would give values of something else, and are refused.
"""

import dataclasses
import functools
import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lanas_jax
from lanas_jax.storage import config_json, software
from lanas_jax.storage.folder import RunError
from lanas_jax.study import discovery, run_folder
from lanas_jax.study.run_folder import Run

if TYPE_CHECKING:
    from lanas_jax.study import Experiment

PACKAGES = ("lanas_jax", "models", "experiments")


@dataclasses.dataclass(frozen=True)
class ClusterTask:
    """An experiment on its way to the workers.

    Attributes:
      source: the text of its file.
      beside: folder from which the file may import; has to be on every node where it is used.
      config: its settings, as `config_json.encode_value` wrote them.
      directory: of the run, on the driver's machine; evaluators that are prepared need it on every node.
      fingerprint: of what evaluates its trials.
    """

    source: str
    beside: str
    config: Any
    directory: str
    fingerprint: str

    @classmethod
    def of(cls, run: Run) -> "ClusterTask":
        """The task of a run.

        Raises:
          RunError: the run was started from Python and has no file that workers could build its experiment from.
        """
        if not run.source.exists():
            raise RunError(
                f"{run.directory} was started from Python, so there is no file from which workers could build its "
                f"experiment: give study.run the workers of one that was made with a source"
            )
        source, config = run.source.read_text(encoding="utf-8"), run.record["config"]
        beside = str(Path(run.record["source"]).parent)
        return cls(source, beside, config, str(run.directory), experiment_fingerprint(source, config))

    def experiment(self) -> "Experiment":
        """The experiment, built in this process.

        Raises:
          ExperimentError, ConfigError: the file cannot be run here, or does not build.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "experiment.py"
            path.write_text(self.source, encoding="utf-8")
            module = discovery.load_experiment(path, beside=Path(self.beside))
            return run_folder.build_experiment(module, config_json.read_config(module.Config, self.config))


def experiment_fingerprint(source: str, config: Any) -> str:
    """The digest of what evaluates an experiment's trials in this process, SHA-256 in hexadecimal."""
    parts = [code_digest(), source, json.dumps(config, sort_keys=True), json.dumps(software.versions(), sort_keys=True)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def code_digest() -> str:
    """The digest of every Python file of this package, and of the packages of models and experiments beside it."""
    total, home = hashlib.sha256(), Path(lanas_jax.__file__).parent.parent
    for package in PACKAGES:
        for file in sorted((home / package).rglob("*.py")):
            total.update(f"{file.relative_to(home).as_posix()}\n".encode())
            total.update(file.read_bytes())
    return total.hexdigest()
