"""Networks of NAS-Bench-101 and NAS-Bench-201."""

from lanas_jax.models.nasbench.nasbench101 import NASBench101
from lanas_jax.models.nasbench.nasbench201 import NASBench201
from lanas_jax.models.nasbench.supernet import NASBench201Supernet

__all__ = ["NASBench101", "NASBench201", "NASBench201Supernet"]
