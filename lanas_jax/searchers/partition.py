"""Learning phase: a tree that splits the space into regions of different value (section 3.1 of arXiv 1906.06832).

All trials with a value start at the root. A node fits a ridge regression from the features of its trials to their
targets and splits at the mean: trials predicted at or above it go to the good child (left), the others to the bad
child (right). The splits are the latent actions. The path to a leaf, a conjunction of half-spaces ``w @ phi >= t`` or
``w @ phi < t``, is its region.

The tree is a complete binary tree stored as a struct of arrays. The children of node ``i`` are ``2 i + 1`` (good) and
``2 i + 2`` (bad), so the leaves are ordered from promising to poor, left to right. Nodes are fitted in index order,
each by solving its linear equations.

Splits and regions use the same predicate for trials, unseen codes and samplers. Weights are rounded so that for integer
features every prediction is an exact float32, independent of the batch, the order of summation and the device.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

EXACT_BITS = 24  # float32 holds every integer up to 2**24
FEATURE_BITS = 4  # features are integers of at most 2**4
FEW = 4  # with fewer than FEW * d trials, the dual equations are cheaper than the normal equations
TOLERANCE = 1e-6  # tolerance of conjugate gradients, relative to the targets


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PartitionTree:
    """Splits and statistics of a complete binary tree: `splits` = 2**height - 1 nodes above 2**height lowest leaves.

    Attributes:
      weights: regression weights of each node that may split; meaningful where `is_split`.
      thresholds: prediction at which each node splits.
      is_split: mask of the nodes that have children.
      visits: number of trials in each node's region, including pending and failed ones.
      results: number of trials with a value in each node's region.
      sums: sum of the targets of these results.
    """

    weights: Float[Array, "splits d"]
    thresholds: Float[Array, " splits"]
    is_split: Bool[Array, " splits"]
    visits: Int[Array, " nodes"]
    results: Int[Array, " nodes"]
    sums: Float[Array, " nodes"]

    @property
    def height(self) -> int:
        """Number of splits on the longest possible path; 0 is a lone root."""
        return self.visits.shape[0].bit_length() - 1

    @property
    def means(self) -> Float[Array, " nodes"]:
        """Mean target of each node's results; 0 where it has none."""
        return self.sums / jnp.maximum(self.results, 1).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class NodeSummary:
    """Human-readable summary of one node of a learned tree.

    Attributes:
      node: heap index; children are 2 node + 1 (good) and 2 node + 2 (bad).
      depth: distance from the root.
      samples: number of trials in the node's region, including pending and failed ones.
      mean_value: mean target of the node's results, or None if it has no results.
      is_leaf: True for a node without children.
      drivers: features of largest weight in the split, with their weights; positive weights favour the good side.
    """

    node: int
    depth: int
    samples: int
    mean_value: float | None
    is_leaf: bool
    drivers: tuple[tuple[str, float], ...]


def lone_root(height: int, d: int) -> PartitionTree:
    """Returns an unsplit tree of the given height without trials."""
    splits, nodes = 2**height - 1, 2 ** (height + 1) - 1
    weights, thresholds, is_split, visits, results, sums = jax.device_put(  # compiles nothing, unlike `jnp.zeros`
        (
            np.zeros((splits, d), np.float32),
            np.zeros(splits, np.float32),
            np.zeros(splits, bool),
            np.zeros(nodes, np.int32),
            np.zeros(nodes, np.int32),
            np.zeros(nodes, np.float32),
        )
    )
    return PartitionTree(weights, thresholds, is_split, visits, results, sums)


def fit_tree(
    features: Float[Array, "n d"],
    targets: Float[Array, " n"],
    done: Bool[Array, " n"],
    used: Bool[Array, " n"],
    *,
    height: int,
    min_samples: int | Int[Array, ""],
    ridge: float | Float[Array, ""],
) -> PartitionTree:
    """Learns the splits of the tree from results, and the statistics of its nodes from all trials.

    Args:
      features: features of every row; rows that are not `used` are ignored.
      targets: targets of the regressions; ignored where not `done`.
      done: mask of the rows with a result.
      used: mask of the rows with a trial; these count as visits.
      height: number of levels that may split.
      min_samples: least number of results in a node that is split. A node whose split would leave one side without
        results also stays a leaf.
      ridge: penalty on the weights; the intercept is not penalised.
    """
    tree = learn_splits(features, targets, done, height=height, min_samples=min_samples, ridge=ridge)
    return count_trials(tree, features, targets, done, used)


def learn_splits(
    features: Float[Array, "n d"],
    targets: Float[Array, " n"],
    done: Bool[Array, " n"],
    *,
    height: int,
    min_samples: int | Int[Array, ""],
    ridge: float | Float[Array, ""],
) -> PartitionTree:
    """Learns only the splits, node by node. Arguments as in `fit_tree`."""
    root = lone_root(height, features.shape[1])
    regress = _Regression(features, targets, ridge)

    def learn_node(i: Array, carry: tuple[PartitionTree, Array]) -> tuple[PartitionTree, Array]:
        here = carry[1] == i
        member = here & done
        results = jnp.sum(member)

        def split() -> tuple[PartitionTree, Array]:
            tree, node = carry
            weights, threshold = regress(member)
            good = _at_least(features, weights[None], threshold[None])[0]
            upper = jnp.sum(member & good)
            is_split = (upper > 0) & (upper < results) & jnp.any(weights != 0)
            tree = dataclasses.replace(
                tree,
                weights=tree.weights.at[i].set(jnp.where(is_split, weights, 0.0)),
                thresholds=tree.thresholds.at[i].set(jnp.where(is_split, threshold, 0.0)),
                is_split=tree.is_split.at[i].set(is_split),
            )
            return tree, jnp.where(here & is_split, 2 * i + jnp.where(good, 1, 2), node)

        return jax.lax.cond(results >= min_samples, split, lambda: carry)

    start = (root, jnp.zeros(features.shape[0], jnp.int32))
    return jax.lax.fori_loop(0, root.is_split.shape[0], learn_node, start)[0]


def count_trials(
    tree: PartitionTree,
    features: Float[Array, "n d"],
    targets: Float[Array, " n"],
    done: Bool[Array, " n"],
    used: Bool[Array, " n"],
) -> PartitionTree:
    """Returns the tree with unchanged splits and recomputed statistics. Arguments as in `fit_tree`."""
    member = members(tree, features)
    return dataclasses.replace(
        tree,
        visits=jnp.sum(member & used[None], axis=1, dtype=jnp.int32),
        results=jnp.sum(member & done[None], axis=1, dtype=jnp.int32),
        sums=jnp.sum(jnp.where(member & done[None], targets[None], 0.0), axis=1),
    )


def members(tree: PartitionTree, features: Float[Array, "n d"]) -> Bool[Array, "nodes n"]:
    """Returns which rows lie in the region of each node."""
    leaf = route(tree, features)
    on_path = [ancestor == jnp.arange(tree.visits.shape[0])[:, None] for ancestor in _ancestors(tree, leaf)]
    return jnp.any(jnp.stack(on_path), axis=0)


class _Regression:
    """Ridge regression of targets on features over any subset of the rows, solved by its linear equations.

    Args:
      features: features of all rows.
      targets: targets of all rows.
      ridge: penalty on the weights; the intercept is not penalised.
    """

    def __init__(self, features: Float[Array, "n d"], targets: Float[Array, " n"], ridge: float | Float[Array, ""]):
        self.features, self.targets, self.ridge = features, targets, ridge
        n, d = features.shape
        self.few_rows = n < FEW * d
        rows = features if self.few_rows else features[:0]
        self.inner = jnp.matmul(rows, rows.T, precision="highest")

    def __call__(self, member: Bool[Array, " n"]) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """Returns the rounded weights and the mean prediction of the regression over the members."""
        weight = member.astype(jnp.float32)
        count = jnp.maximum(jnp.sum(weight), 1.0)
        mean = jnp.matmul(weight, self.features, precision="highest") / count
        targets = weight * (self.targets - jnp.sum(weight * self.targets) / count)
        solve = self._by_rows if self.few_rows else self._by_columns
        weights = _rounded(solve(weight, targets, mean, count)[None])[0]
        return weights, jnp.sum(weights * mean)

    def _by_columns(self, weight: Array, targets: Array, mean: Array, count: Array) -> Float[Array, " d"]:
        """Solves the normal equations (one per feature) by Cholesky factorisation."""
        own = weight[:, None] * self.features
        gram = jnp.matmul(own.T, own, precision="highest") - count * mean[:, None] * mean[None]
        factor = jnp.linalg.cholesky(gram + self.ridge * jnp.eye(mean.shape[0]))
        return jax.scipy.linalg.cho_solve((factor, True), jnp.matmul(targets, own, precision="highest"))

    def _by_rows(self, weight: Array, targets: Array, mean: Array, count: Array) -> Float[Array, " d"]:
        """Solves the dual equations (one per row) by conjugate gradients; the penalty keeps them well conditioned."""
        to_mean = jnp.matmul(self.inner, weight, precision="highest") / count
        inner = self.inner - to_mean[:, None] - to_mean[None] + jnp.sum(mean * mean)
        inner = weight[:, None] * weight[None] * inner

        def multiply(dual: Array) -> Array:
            return jnp.matmul(inner, dual, precision="highest") + self.ridge * dual

        dual, _ = jax.scipy.sparse.linalg.cg(multiply, targets, tol=TOLERANCE, maxiter=weight.shape[0])
        return jnp.matmul(dual, self.features, precision="highest") - jnp.sum(dual) * mean


def _rounded(weights: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Rounds weights to a grid so coarse that sums over features of up to 2**FEATURE_BITS are exact in float32."""
    _, exponent = jnp.frexp(jnp.sum(jnp.abs(weights), axis=1, keepdims=True))
    quantum = jnp.ldexp(jnp.ones_like(weights[:, :1]), exponent - (EXACT_BITS - FEATURE_BITS))
    return jnp.round(weights / quantum) * quantum


def _at_least(
    features: Float[Array, "n d"], weights: Float[Array, "k d"], thresholds: Float[Array, " k"]
) -> Bool[Array, "k n"]:
    """Returns whether each row is on the good side of each of `k` splits; the only predicate for splits and regions."""
    return jnp.matmul(weights, features.T, precision="highest") >= thresholds[:, None]


def _ancestors(tree: PartitionTree, leaf: Int[Array, " n"]) -> list[Int[Array, "1 n"]]:
    """Returns the nodes from each leaf up to the root; -1 above the root."""
    path = [leaf[None]]
    for _ in range(tree.height):
        path.append(jnp.where(path[-1] > 0, (path[-1] - 1) // 2, -1))
    return path


def route(tree: PartitionTree, features: Float[Array, "n d"]) -> Int[Array, " n"]:
    """Returns the node index of the leaf whose region contains each row of features."""
    node = jnp.zeros(features.shape[0], jnp.int32)
    if tree.height == 0:
        return node
    good = _at_least(features, tree.weights, tree.thresholds)
    for level in range(tree.height):  # no gathers, which are slow for many rows
        nodes = 2**level - 1 + np.arange(2**level)
        here = node[None] == nodes[:, None]
        inner = jnp.any(here & tree.is_split[nodes][:, None], axis=0)
        is_good = jnp.any(here & good[nodes], axis=0)
        node = jnp.where(inner, 2 * node + jnp.where(is_good, 1, 2), node)
    return node


def inside(tree: PartitionTree, node: Int[Array, ""], features: Float[Array, "n d"]) -> Bool[Array, " n"]:
    """Returns whether each row lies in the region of one node: all half-spaces on the path from the root hold.

    Agrees with `route` and evaluates only the splits on the path.
    """
    if tree.height == 0:
        return jnp.ones(features.shape[0], bool)
    path = jnp.concatenate(_ancestors(tree, node[None]))[:, 0]
    child, parent = path[:-1], jnp.maximum(path[1:], 0)
    good = _at_least(features, tree.weights[parent], tree.thresholds[parent])
    holds = good == (child % 2 == 1)[:, None]
    return jnp.all(holds | (child <= 0)[:, None], axis=0)


def subtotals(tree: PartitionTree, leaf: Int[Array, " n"], counted: Bool[Array, " n"]) -> Int[Array, " nodes"]:
    """Returns, for each node, the number of counted rows whose leaf is the node or lies below it."""
    nodes = jnp.arange(tree.visits.shape[0])
    totals = jnp.sum((leaf[None] == nodes[:, None]) & counted[None], axis=1, dtype=jnp.int32)
    for node in range(tree.is_split.shape[0] - 1, -1, -1):
        totals = totals.at[node].add(totals[2 * node + 1] + totals[2 * node + 2])
    return totals


def with_visits(tree: PartitionTree, features: Float[Array, "n d"], counted: Bool[Array, " n"]) -> PartitionTree:
    """Returns the tree with one visit more for each counted row, in its leaf and above."""
    return dataclasses.replace(tree, visits=tree.visits + subtotals(tree, route(tree, features), counted))


def backup(tree: PartitionTree, leaf: Int[Array, ""]) -> PartitionTree:
    """Adds one pending trial as a visit to the leaf and to every node above it (virtual loss)."""
    path = jnp.concatenate(_ancestors(tree, leaf[None]))[:, 0]
    visits = tree.visits.at[jnp.where(path < 0, tree.visits.shape[0], path)].add(1, mode="drop")
    return dataclasses.replace(tree, visits=visits)


def explain(tree: PartitionTree, feature_names: Sequence[str], top: int = 3) -> list[NodeSummary]:
    """Returns summaries of the reachable nodes of a tree, root first, with the features that drive each split.

    A weight is the change of the predicted target per unit of the feature. Means are mean targets of `count_trials`.
    """
    # as NumPy arrays, so that no program runs for each number that is read
    split, all_weights, means = np.asarray(tree.is_split), np.asarray(tree.weights), np.asarray(tree.means)
    results, visits = np.asarray(tree.results), np.asarray(tree.visits)
    summaries, queue = [], [(0, 0)]
    while queue:
        node, depth = queue.pop(0)
        is_leaf = node >= len(split) or not bool(split[node])
        drivers: list[tuple[str, float]] = []
        if not is_leaf:
            weights = all_weights[node]
            order = np.argsort(-np.abs(weights), kind="stable")[:top]
            drivers = [(feature_names[i], float(weights[i])) for i in order]
            queue += [(2 * node + 1, depth + 1), (2 * node + 2, depth + 1)]
        mean = float(means[node]) if int(results[node]) else None
        summaries.append(NodeSummary(node, depth, int(visits[node]), mean, is_leaf, tuple(drivers)))
    return summaries
