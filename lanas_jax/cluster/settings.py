"""How a search uses a cluster."""

import dataclasses
from typing import Literal

Device = Literal["auto", "cpu", "gpu", "tpu"]


@dataclasses.dataclass(frozen=True)
class ClusterSettings:
    """What a worker is, and what its trials may cost.

    Attributes:
      workers: at most so many; default: as many as the nodes have room for, those that join later included.
      device: what a worker computes with: cores of a CPU, one GPU, or all TPU chips of a host. auto: TPUs where the
        cluster has some, else GPUs, else cores.
      cores: CPU cores that a worker reserves; one that computes with them has as many devices (a fraction: one).
      per_device: trials that a worker is handed at a time for each of its devices.
      calls: evaluations that a worker has under way at a time, in threads; more than 1 where it only waits for others.
      tries: evaluations begun of a trial whose worker is lost, before it counts as failed.
      seconds: after which a trial is cancelled and counts as failed, compilation included; default: no limit.
    """

    workers: int | None = None
    device: Device = "auto"
    cores: float = 1.0
    per_device: int = 1
    calls: int = 1
    tries: int = 3
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "per_device", "calls", "tries"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1; got {number}")
        for name in ("cores", "seconds"):
            number = getattr(self, name)
            if number is not None and not number > 0:
                raise ValueError(f"{name} must be greater than 0; got {number}")
        if self.cores > 1 and self.cores != int(self.cores):
            raise ValueError(f"cores must be a whole number, or a fraction of one; got {self.cores}")
