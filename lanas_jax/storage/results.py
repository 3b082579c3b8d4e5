"""The test results of a run's networks; the test images are read at most once for each network.

``results.jsonl`` in the run's folder has one line per network whose test accuracy was measured, regardless of where it
was trained. A line is added before the accuracy is shown, so that a second training of the same network reports the
recorded result, and a training of another network can warn that the test images have been read before.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lanas_jax.storage.folder import RunError

_FILE = "results.jsonl"


@dataclasses.dataclass(frozen=True)
class NetworkResult:
    """The result of one trained network.

    Attributes:
      digest: digest of everything that determines the weights.
      directory: folder of the training.
      final: content of the training's final.json.
    """

    digest: str
    directory: str
    final: Mapping[str, Any]


def network_results(run: Path) -> list[NetworkResult]:
    """Returns the results of a run's networks, in the order in which they were measured.

    Raises:
      RunError: the file is damaged.
    """
    path = run / _FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [NetworkResult(**json.loads(line)) for line in lines]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def add_network_result(run: Path, result: NetworkResult) -> None:
    """Appends the result of a network. Several processes may append at the same time."""
    line = json.dumps(dataclasses.asdict(result), allow_nan=False) + "\n"
    with (run / _FILE).open("ab", buffering=0) as file:
        file.write(line.encode("utf-8"))
        os.fsync(file.fileno())
