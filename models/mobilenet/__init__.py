"""Networks of inverted residual blocks: single codes, published networks, the supernet, latencies."""

from lanas_jax.models.mobilenet.attentive import AttentiveSupernet
from lanas_jax.models.mobilenet.final import FinalMobileNet
from lanas_jax.models.mobilenet.network import MobileNetNetwork
from lanas_jax.models.mobilenet.supernet import MobileNetSupernet

__all__ = ["AttentiveSupernet", "FinalMobileNet", "MobileNetNetwork", "MobileNetSupernet"]
