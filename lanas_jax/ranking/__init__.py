"""Does a supernet rank? Cheap estimates of architectures against what they come to when trained from scratch."""

from lanas_jax.ranking.base import Ranking

__all__ = ["Ranking"]
