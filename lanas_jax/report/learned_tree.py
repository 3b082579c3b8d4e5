"""The tree that a search has learned, fitted again from its trials and drawn in the terminal."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.text import Text
from rich.tree import Tree

from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.searchers import partition
from lanas_jax.searchers.base import Searcher
from lanas_jax.searchers.lanas import LaNAS
from lanas_jax.searchers.partition import NodeSummary, PartitionTree
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.trial import Status, Trial, by_tell
from lanas_jax.study.objectives import values_to_tell

TOP = 3  # number of features named per split


@in_32_bits
@nan_is_data
def learned_tree(
    searcher: Searcher, seed: int, trials: Sequence[Trial], top: int = TOP
) -> tuple[list[NodeSummary] | None, str]:
    """Returns the tree that a searcher has learned from the trials of a run.

    Only the trials are needed, since the searcher's state follows from its tells.

    Args:
      searcher: searcher of the run.
      seed: seed of the run, on which the tree depends only if the searcher's own state does.
      trials: trials of the run; pending ones are ignored.
      top: number of features named per split.

    Returns:
      The nodes, with means in the units of the values, or with several objectives shares of the hypervolume, and an
      empty string; or None and the reason why there is no tree.
    """
    names = getattr(searcher, "objectives", ())
    names = names if isinstance(names, tuple) else ()
    finished = [trial for trial in trials if trial.status != Status.PENDING]
    if isinstance(searcher, LaNAS):
        searcher = dataclasses.replace(searcher, patience=0)  # the tree of all trials, not only of the current round
    state = searcher.init(jax.random.key(seed))
    if not isinstance(getattr(state, "tree", None), PartitionTree):
        return None, f"{type(searcher).__name__} learns no tree, so there is none to show."
    if not any(trial.status == Status.DONE for trial in finished):
        return None, "No trial has a value yet, so there is no tree to show."
    for told in by_tell(finished):
        state = searcher.tell(state, _codes(told), jax.device_put(values_to_tell(told, names)))
    nodes = partition.explain(state.tree, searcher.space.feature_names, top)
    if len(nodes) == 1:
        return None, f"After {len(finished)} trial{'s' * (len(finished) != 1)} the tree has not split the space yet."
    return nodes if names else _in_values(nodes, state.tree, searcher.space, finished), ""


def _in_values(
    nodes: Sequence[NodeSummary], tree: PartitionTree, space: SearchSpace, trials: Sequence[Trial]
) -> list[NodeSummary]:
    """Replaces the means of nodes by means of trial values, since a searcher may learn from ranks or scores."""
    values = values_to_tell(trials)
    node = np.asarray(_leaves(space, tree, _codes(trials)))
    members: dict[int, list[float]] = {}
    for leaf, value in zip(node.tolist(), values.tolist(), strict=True):
        for ancestor in _path(leaf):
            members.setdefault(ancestor, []).append(value)
    means = {i: float(np.nanmean(found)) for i, found in members.items() if not np.isnan(found).all()}
    return [dataclasses.replace(summary, mean_value=means.get(summary.node)) for summary in nodes]


@jax.jit(static_argnames="space")
def _leaves(space: SearchSpace, tree: PartitionTree, codes: jax.Array) -> jax.Array:
    """Returns the leaf of each code, by one program in place of one for each operation."""
    return partition.route(tree, space.features(space.canonical(codes)))


def _path(node: int) -> list[int]:
    """Returns a heap node and its ancestors."""
    path = [node]
    while path[-1]:
        path.append((path[-1] - 1) // 2)
    return path


def _codes(trials: Sequence[Trial]) -> jax.Array:
    return jax.device_put(np.array([trial.code for trial in trials], np.int32))


def drawing(nodes: Sequence[NodeSummary], measure: str = "mean") -> Tree:
    """Draws the tree as text; each split lists the features that push to its good side and to its bad side.

    Args:
      nodes: nodes of the tree.
      measure: name of the numbers of the nodes.
    """
    by_index = {node.node: node for node in nodes}

    def grow(i: int, side: str, parent: Tree | None) -> Tree:
        node = by_index[i]
        mean = "no result" if node.mean_value is None else f"{measure} {node.mean_value:.4f}"
        label = Text(f"{side}{node.samples} trial{'s' * (node.samples != 1)}, {mean}")
        for names, style in ((_pushing(node, 1), "green"), (_pushing(node, -1), "red")):
            if names:
                label.append(f"\n  {names}", style=style)
        branch = Tree(label, guide_style="dim") if parent is None else parent.add(label)
        if not node.is_leaf:
            grow(2 * i + 1, "good: ", branch)
            grow(2 * i + 2, "bad: ", branch)
        return branch

    return grow(0, "", None)


def _pushing(node: NodeSummary, sign: int) -> str:
    """Formats the features that push to one side, strongest first."""
    names = [f"{name} ({weight:+.2f})" for name, weight in node.drivers if weight * sign > 0]
    return f"to the {'good' if sign > 0 else 'bad'} side: {', '.join(names)}" if names else ""


def as_json(nodes: Sequence[NodeSummary]) -> list[dict[str, Any]]:
    """Returns the nodes as dictionaries, root first; node i has the children 2 i + 1 (good) and 2 i + 2 (bad)."""
    return [dataclasses.asdict(node) for node in nodes]
