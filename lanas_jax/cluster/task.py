"""The description of an experiment that is sent to workers, and the fingerprint of the code that evaluates it.

A task is plain data, so that any version of this package can read it. Its fingerprint is a digest of all Python source
that affects a trial, the experiment's file, its settings, and the versions of other packages. Workers with another
fingerprint are refused, since they would evaluate something else.
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


@dataclasses.dataclass(frozen=True)
class ClusterTask:
    """An experiment, in the form that is sent to workers.

    Attributes:
      source: source text of the experiment's file.
      original: path of the experiment's file when the search started. If it imports or reads files next to it, every
        node must have them.
      working_folder: folder in which the search was started; relative paths start there if the node has it.
      config: settings of the experiment, as `config_json.encode_value` wrote them.
      directory: run folder on the driver's machine; evaluators that need preparation need it on every node.
      fingerprint: digest of the code, settings and package versions that evaluate the trials.
    """

    source: str
    original: str
    working_folder: str | None
    config: Any
    directory: str
    fingerprint: str

    @classmethod
    def of(cls, run: Run) -> "ClusterTask":
        """Returns the task of a run.

        Raises:
          RunError: the run was started from Python and has no experiment file for workers to build from.
        """
        if not run.source.exists():
            raise RunError(
                f"{run.directory} was started from Python, so it has no experiment file for workers to build from: "
                f"create the run folder with a source to use a cluster"
            )
        source, config = run.source.read_text(encoding="utf-8"), run.present_config
        original, started = run.record["source"], run.record.get("working_folder")
        return cls(source, original, started, config, str(run.directory), experiment_fingerprint(source, config))

    def experiment(self) -> "Experiment":
        """Builds the experiment in this process.

        Raises:
          ExperimentError, ConfigError: the file cannot be loaded here, or does not build.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "experiment.py"
            path.write_text(self.source, encoding="utf-8")
            module = discovery.load_experiment(path, original=Path(self.original))
            return run_folder.build_experiment(module, config_json.read_config(module.Config, self.config))


def experiment_fingerprint(source: str, config: Any) -> str:
    """Returns the digest of the code, settings and versions that evaluate trials here; SHA-256 in hexadecimal."""
    parts = [code_digest(), source, json.dumps(config, sort_keys=True), json.dumps(software.versions(), sort_keys=True)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def code_digest() -> str:
    """Returns the digest of all Python files of `lanas_jax`, its `models` and `experiments` included."""
    total, home = hashlib.sha256(), Path(lanas_jax.__file__).parent
    for folder in (home, home / "models", home / "experiments"):  # links in a checkout, which rglob does not follow
        for file in sorted(folder.rglob("*.py")):
            total.update(f"{file.relative_to(home).as_posix()}\n".encode())
            total.update(file.read_bytes())
    return total.hexdigest()
