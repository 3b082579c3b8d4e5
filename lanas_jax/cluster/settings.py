"""Settings of a search on a cluster."""

import dataclasses
from typing import Literal

Device = Literal["auto", "cpu", "gpu", "tpu"]


@dataclasses.dataclass(frozen=True)
class ClusterSettings:
    """Resources of each worker and limits of its trials.

    Attributes:
      workers: maximum number of workers; None for as many as fit on the nodes, including nodes that join later.
      device: device kind of a worker: cpu for CPU cores, gpu for one GPU, tpu for all TPU chips of a host. auto: TPUs
        if the cluster has any, else GPUs, else CPU cores.
      cores: number of CPU cores reserved per worker. A CPU worker has one JAX device per core, at least one.
      per_device: number of trials sent to a worker at a time, per device.
      calls: number of concurrent evaluations per worker, in threads; more than 1 helps only evaluators that wait.
      tries: maximum number of evaluations of a trial whose worker is lost; then the trial counts as failed.
      seconds: time limit of a trial in seconds, compilation included; a slower trial counts as failed. None: no limit.
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
            raise ValueError(f"cores must be an integer, or between 0 and 1; got {self.cores}")
