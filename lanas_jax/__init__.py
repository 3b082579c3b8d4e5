"""LaNAS in JAX: sample-efficient neural architecture search by learning the action space."""

from lanas_jax.evaluators.base import Evaluator as Evaluator
from lanas_jax.evaluators.base import Outcome as Outcome
from lanas_jax.searchers.evolution import RegularizedEvolution as RegularizedEvolution
from lanas_jax.searchers.lanas import LaNAS as LaNAS
from lanas_jax.searchers.random_search import RandomSearch as RandomSearch
from lanas_jax.spaces.base import Choice as Choice
from lanas_jax.spaces.base import SearchSpace as SearchSpace
