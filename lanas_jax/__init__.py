"""LaNAS in JAX: sample-efficient neural architecture search by learning the action space.

Names are imported on first use, so that commands without arrays do not import JAX.
"""

from typing import TYPE_CHECKING

from lanas_jax.runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from lanas_jax.comparison.simulated_workers import WorkersTrace as WorkersTrace
    from lanas_jax.comparison.simulated_workers import simulate_workers as simulate_workers
    from lanas_jax.comparison.simulation import Trace as Trace
    from lanas_jax.comparison.simulation import simulate as simulate
    from lanas_jax.evaluators.base import Evaluator as Evaluator
    from lanas_jax.evaluators.base import Outcome as Outcome
    from lanas_jax.one_call.result import Study as Study
    from lanas_jax.one_call.search import load as load
    from lanas_jax.one_call.search import search as search
    from lanas_jax.searchers.action_mcts import ActionMCTS as ActionMCTS
    from lanas_jax.searchers.bayesian_optimization import BayesianOptimization as BayesianOptimization
    from lanas_jax.searchers.evolution import RegularizedEvolution as RegularizedEvolution
    from lanas_jax.searchers.lanas import LaNAS as LaNAS
    from lanas_jax.searchers.local_search import LocalSearch as LocalSearch
    from lanas_jax.searchers.nsga2 import NSGA2 as NSGA2
    from lanas_jax.searchers.pareto_lanas import ParetoLaNAS as ParetoLaNAS
    from lanas_jax.searchers.random_search import RandomSearch as RandomSearch
    from lanas_jax.spaces.base import SearchSpace as SearchSpace
    from lanas_jax.spaces.choices import Choice as Choice
    from lanas_jax.spaces.choices import Range as Range
    from lanas_jax.spaces.mnasnet import MnasNetSpace as MnasNetSpace
    from lanas_jax.spaces.nasbench101 import NASBench101Space as NASBench101Space
    from lanas_jax.spaces.nasbench201 import NASBench201Space as NASBench201Space
    from lanas_jax.spaces.natsbench_size import NATSBenchSizeSpace as NATSBenchSizeSpace
    from lanas_jax.tables.base import Table as Table
    from lanas_jax.tables.benchmark import Benchmark as Benchmark

__version__ = "0.1.0"  # pyproject.toml reads it

_HOMES = {
    "ActionMCTS": "searchers.action_mcts",
    "BayesianOptimization": "searchers.bayesian_optimization",
    "Benchmark": "tables.benchmark",
    "Choice": "spaces.choices",
    "Evaluator": "evaluators.base",
    "LaNAS": "searchers.lanas",
    "LocalSearch": "searchers.local_search",
    "MnasNetSpace": "spaces.mnasnet",
    "NASBench101Space": "spaces.nasbench101",
    "NASBench201Space": "spaces.nasbench201",
    "NATSBenchSizeSpace": "spaces.natsbench_size",
    "NSGA2": "searchers.nsga2",
    "Outcome": "evaluators.base",
    "ParetoLaNAS": "searchers.pareto_lanas",
    "RandomSearch": "searchers.random_search",
    "Range": "spaces.choices",
    "RegularizedEvolution": "searchers.evolution",
    "SearchSpace": "spaces.base",
    "Study": "one_call.result",
    "Table": "tables.base",
    "Trace": "comparison.simulation",
    "WorkersTrace": "comparison.simulated_workers",
    "load": "one_call.search",
    "search": "one_call.search",
    "simulate": "comparison.simulation",
    "simulate_workers": "comparison.simulated_workers",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
