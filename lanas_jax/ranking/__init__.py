"""Rank correlation between cheap estimates of architectures and their accuracies after training from scratch."""

from lanas_jax.ranking.base import Ranking

__all__ = ["Ranking"]
