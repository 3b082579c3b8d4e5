"""Networks of the NASNet space: candidates, the winner, the supernet."""

from lanas_jax.models.nasnet.candidate import NASNet
from lanas_jax.models.nasnet.final import FinalNASNet
from lanas_jax.models.nasnet.supernet import NASNetSupernet

__all__ = ["FinalNASNet", "NASNet", "NASNetSupernet"]
