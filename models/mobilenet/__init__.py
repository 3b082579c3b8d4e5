"""Networks of inverted residual blocks: single codes, published networks, the supernet, latencies."""

from models.mobilenet.final import FinalMobileNet
from models.mobilenet.network import MobileNetNetwork
from models.mobilenet.supernet import MobileNetSupernet

__all__ = ["FinalMobileNet", "MobileNetNetwork", "MobileNetSupernet"]
