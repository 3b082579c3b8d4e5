"""Arguments of ``lanas search`` and ``lanas resume`` that choose where trials run, and the workers they select."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import tyro

from lanas_jax.cluster import connection
from lanas_jax.cluster.settings import ClusterSettings

if TYPE_CHECKING:
    from lanas_jax.study import Experiment
    from lanas_jax.study.experiment import StudyProgress
    from lanas_jax.study.loop import Workers
    from lanas_jax.study.run_folder import Run


@dataclasses.dataclass(frozen=True)
class Where:
    """Arguments of a command that evaluates trials.

    Attributes:
      cluster: place where trials run. local: this process. ray: the Ray cluster running on this machine, else a new
        one of this machine alone. ray:HOST:PORT: the cluster whose head node has that address. ray://HOST:PORT: the
        cluster behind Ray's client server at that address.
      ray: resources of each Ray worker and limits of its trials.
    """

    cluster: Annotated[str, tyro.conf.arg(metavar="local|ray|ray:HOST:PORT|ray://HOST:PORT")] = "local"
    ray: ClusterSettings = dataclasses.field(default_factory=ClusterSettings)

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Connects to the cluster, if there is one; `workers` must be called inside this context.

        Raises:
          ClusterError: the address is malformed, Ray is not installed, or no cluster answers.
        """
        if connection.check_address(self.cluster) == "local":
            yield
            return
        with connection.connected(self.cluster):
            yield

    @contextlib.contextmanager
    def workers(self, experiment: "Experiment", run: "Run", progress: "StudyProgress") -> Iterator["Workers | None"]:
        """Yields the workers of a run, or None if this process evaluates the trials."""
        if self.cluster == "local":
            yield None
            return
        import ray

        from lanas_jax.cluster.cluster import Cluster

        with Cluster(ray, experiment, run, self.ray, progress) as cluster:
            yield cluster
