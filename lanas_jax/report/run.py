"""From a run directory to its report: reads the trials, replays them for the tree, writes the page."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from lanas_jax import partition, runs
from lanas_jax.partition import NodeSummary, PartitionTree
from lanas_jax.report.formatting import plural
from lanas_jax.report.page import Run, render
from lanas_jax.searchers.base import Searcher
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.trials import Status, Trial, TrialStore

if TYPE_CHECKING:
    from lanas_jax.study import Experiment

TOP = 3  # features named per split


def write(run_directory: Path, experiment: "Experiment | None" = None) -> Path:
    """Writes the report of a run, finished or not, into its folder.

    Args:
      run_directory: a run directory.
      experiment: what was run; without it, it is built anew from the copy of its file in the folder.

    Returns:
      The path of the report: one HTML file that needs nothing else.

    Raises:
      RunError: the folder holds no run, or one that was started from Python while `experiment` is not given.
      ExperimentError: the experiment's file no longer builds.
      TrialStoreError: the trials file is foreign or damaged.
    """
    here = runs.open_run(run_directory)
    with TrialStore.open(here.trials, read_only=True) as store:
        trials, final = store.trials(), store.final()
    experiment = here.experiment() if experiment is None else experiment
    # A tree does not depend on the key that its searcher draws codes with.
    tree, note = learned_tree(experiment.searcher, jax.random.key(experiment.seed), trials)
    page = render(
        Run(
            name=experiment.name,
            space=experiment.space,
            trials=trials,
            budget=experiment.budget,
            final=final,
            config=_settings(here.record),
            tree=tree,
            tree_note=note,
        )
    )
    partial = here.report.with_suffix(".html.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(here.report)
    return here.report


def learned_tree(
    searcher: Searcher, key: PRNGKeyArray, trials: Sequence[Trial]
) -> tuple[list[NodeSummary] | None, str]:
    """The tree that a searcher has learned from the trials of a run.

    Nothing but the trials is needed: a searcher's state follows from what it was told.

    Args:
      searcher: of the run.
      key: for `Searcher.init`; consumed.
      trials: of the run; pending ones are left out.

    Returns:
      The nodes, with means in the units of the values, and "" -- or None and why there is no tree.
    """
    finished = [trial for trial in trials if trial.status != Status.PENDING]
    state = searcher.init(key)
    if not isinstance(getattr(state, "tree", None), PartitionTree):
        return None, f"{type(searcher).__name__} learns no tree, so there is none to show."
    if not any(trial.status == Status.DONE for trial in finished):
        return None, "No trial has a value yet, so there is no tree to show."
    for _, batch in itertools.groupby(finished, key=lambda trial: trial.batch):
        told = list(batch)
        state = searcher.tell(state, _codes(told), _values(told))
    nodes = partition.explain(state.tree, searcher.space.feature_names, TOP)
    if len(nodes) == 1:
        return None, f"After {plural(len(finished), 'trial')} the tree has not split the space yet."
    return _in_values(nodes, state.tree, searcher.space, finished), ""


def _in_values(
    nodes: Sequence[NodeSummary], tree: PartitionTree, space: SearchSpace, trials: Sequence[Trial]
) -> list[NodeSummary]:
    """Nodes with the mean of their trials' values: a searcher may have learned from ranks or scores instead."""
    values = np.asarray(_values(trials))
    node = np.asarray(partition.route(tree, space.features(space.canonical(_codes(trials)))))
    members: dict[int, list[float]] = {}
    for leaf, value in zip(node.tolist(), values.tolist(), strict=True):
        for ancestor in _path(leaf):
            members.setdefault(ancestor, []).append(value)
    means = {i: float(np.nanmean(found)) for i, found in members.items() if not np.isnan(found).all()}
    return [dataclasses.replace(summary, mean_value=means.get(summary.node)) for summary in nodes]


def _path(node: int) -> list[int]:
    """A node of a heap and those above it."""
    path = [node]
    while path[-1]:
        path.append((path[-1] - 1) // 2)
    return path


def _codes(trials: Sequence[Trial]) -> jax.Array:
    return jnp.asarray([trial.code for trial in trials], jnp.int32)


def _values(trials: Sequence[Trial]) -> jax.Array:
    """What a searcher is told: NaN for a failed trial."""
    return jnp.asarray([jnp.nan if trial.value is None else trial.value for trial in trials], jnp.float32)


def _settings(record: Mapping[str, Any]) -> dict[str, str]:
    """What config.json records of what was asked for, a line per setting."""
    settings = {name: record[name] for name in ("experiment", "source", "created", "seed", "budget", "batch")}
    settings |= record["config"] or {}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in settings.items()
        if value is not None
    }
