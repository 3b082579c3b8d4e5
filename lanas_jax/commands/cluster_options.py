"""Where the trials of ``lanas search`` and ``lanas resume`` run: the arguments, and the workers they stand for."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import tyro

from lanas_jax.cluster import connection
from lanas_jax.cluster.settings import Settings

if TYPE_CHECKING:
    from lanas_jax.study import Experiment
    from lanas_jax.study.experiment import Progress
    from lanas_jax.study.loop import Workers
    from lanas_jax.study.run_folder import Run


@dataclasses.dataclass(frozen=True)
class Where:
    """Arguments of a command that evaluates trials.

    Attributes:
      cluster: local: this process. ray: the Ray cluster that runs here, or this machine as one. ray:HOST:PORT: the one
        whose head is there. ray://HOST:PORT: the same through Ray's client server.
      ray: what a worker is, and what its trials may cost.
    """

    cluster: Annotated[str, tyro.conf.arg(metavar="local|ray|ray:HOST:PORT|ray://HOST:PORT")] = "local"
    ray: Settings = dataclasses.field(default_factory=Settings)

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Within it, `workers` can be had.

        Raises:
          ClusterError: an address that is none, Ray is not installed, or no cluster answers.
        """
        if connection.check(self.cluster) == "local":
            yield
            return
        with connection.connected(self.cluster):
            yield

    @contextlib.contextmanager
    def workers(self, experiment: "Experiment", run: "Run", progress: "Progress") -> Iterator["Workers | None"]:
        """The workers of a run; None: this process."""
        if self.cluster == "local":
            yield None
            return
        import ray

        from lanas_jax.cluster.cluster import Cluster

        with Cluster(ray, experiment, run, self.ray, progress) as cluster:
            yield cluster
