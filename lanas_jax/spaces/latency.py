"""Measured latencies of layers: a table from one device, of which the latency of a network is a sum.

The latency of a network is taken to be the sum of those of its layers, as in once-for-all (arXiv 1908.09791) and
ProxylessNAS (arXiv 1812.00332), and in whole nanoseconds, so that a hard limit on it is exact. The table is a file of
JSON, keyed by the names of `mobilenet_layers.py`; `models/mobilenet/latency.py` measures it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

SHOWN = 200  # characters of a wrong entry that an error repeats


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyTable:
    """How long each layer takes on a device.

    Equal tables are told by a digest, so that comparing and hashing one takes no longer the more layers it has: spaces
    that hold one are static arguments of compiled programs.

    Args:
      device: what was measured, in words.
      batch: images that a layer reads at once.
      nanoseconds: of a layer on such a batch, by the layer's name.

    Raises:
      ValueError: a batch below one, or a time that is no positive integer.
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
        """Whether the table has all layers of a space.

        Raises:
          ValueError: it lacks some; names the first, and how many.
        """
        wanted = list(dict.fromkeys(names))
        missing = [name for name in wanted if name not in self.nanoseconds]
        if missing:
            raise ValueError(
                f"the latency table of {self.device} lacks {len(missing)} of the {len(wanted)} layers of the space, "
                f"the first of them {missing[0]!r}: measure them too, or take their choices out of the space"
            )

    def write(self, path: Path) -> None:
        """Writes the table as JSON."""
        path.write_text(json.dumps(self._content(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "LatencyTable":
        """The table that `write` wrote.

        Raises:
          ValueError: not such a file.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(found["device"]), int(found["batch"]), dict(found["nanoseconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} holds no latency table, which is JSON with device, batch and nanoseconds: {str(error)[:SHOWN]}"
            ) from error

    def _content(self) -> dict[str, object]:
        return {"device": self.device, "batch": self.batch, "nanoseconds": dict(self.nanoseconds)}
