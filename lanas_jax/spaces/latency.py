"""Measured latencies of layers on one device.

The latency of a network is modelled as the sum of the latencies of its layers, as in once-for-all (arXiv 1908.09791)
and ProxylessNAS (arXiv 1812.00332). It is in whole nanoseconds, so that a hard limit on it is exact. The table is a
JSON file whose keys are the layer names of `mobilenet_layers.py`; `models/mobilenet/latency.py` measures it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lanas_jax.runtime.paths import local_path

SHOWN = 200  # maximum number of characters of a wrong entry in an error message


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyTable:
    """Latency of each layer on a device.

    Tables are compared and hashed by a digest, in constant time, because spaces with a table are static arguments of
    compiled programs.

    Args:
      device: description of the device.
      batch: number of images per batch.
      nanoseconds: latency of each layer per batch, by layer name.

    Raises:
      ValueError: if the batch is below one, or a time is not a positive integer.
    """

    device: str
    batch: int
    nanoseconds: Mapping[str, int]
    digest: str = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1; got {self.batch}")
        for name, time in self.nanoseconds.items():
            if type(time) is not int or time < 1:
                raise ValueError(f"the latency of {name!r} must be whole nanoseconds, at least one; got {time!r}")
        object.__setattr__(self, "nanoseconds", dict(self.nanoseconds))
        text = json.dumps(self._content(), sort_keys=True)
        object.__setattr__(self, "digest", hashlib.sha256(text.encode()).hexdigest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LatencyTable) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def check(self, names: Iterable[str]) -> None:
        """Checks that the table has all layers of a space.

        Raises:
          ValueError: if layers are missing; names their number and the first one.
        """
        wanted = list(dict.fromkeys(names))
        missing = [name for name in wanted if name not in self.nanoseconds]
        if missing:
            raise ValueError(
                f"the latency table of {self.device} lacks {len(missing)} of the {len(wanted)} layers of the space, "
                f"the first is {missing[0]!r}; measure them too, or remove their choices from the space"
            )

    def definition(self) -> dict[str, object]:
        """Returns what identifies the table in the definition of a space: not the times, which are too many."""
        return {"class": type(self).__qualname__, "device": self.device, "digest": self.digest}

    def write(self, path: Path) -> None:
        """Writes the table as JSON."""
        local_path(path).write_text(json.dumps(self._content(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "LatencyTable":
        """Reads a table written by `write`.

        Raises:
          ValueError: if the file is not a latency table.
        """
        try:
            found = json.loads(local_path(path).read_text(encoding="utf-8"))
            return cls(str(found["device"]), int(found["batch"]), dict(found["nanoseconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a latency table; expected JSON with device, batch and nanoseconds: {str(error)[:SHOWN]}"
            ) from error

    def _content(self) -> dict[str, object]:
        return {"device": self.device, "batch": self.batch, "nanoseconds": dict(self.nanoseconds)}
