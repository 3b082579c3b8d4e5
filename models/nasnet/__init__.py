"""Networks of the NASNet space: candidates, the winner, the supernet."""

from models.nasnet.candidate import NASNet
from models.nasnet.final import FinalNASNet
from models.nasnet.supernet import NASNetSupernet

__all__ = ["FinalNASNet", "NASNet", "NASNetSupernet"]
