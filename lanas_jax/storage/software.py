"""Software versions, recorded with every trial and in a run's config.json."""

import functools
import importlib.metadata
import itertools
import platform
from collections.abc import Iterable, Mapping, Sequence

RANGES = 4  # ranges of trials that are listed per version

PACKAGES = {"lanas_jax": "lanas-jax", "jax": "jax", "flax": "flax", "optax": "optax", "numpy": "numpy"}


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect the outcome of a trial, by name."""
    return {"python": platform.python_version()} | {name: _version(package) for name, package in PACKAGES.items()}


def differences(recorded: Mapping[str, str]) -> str:
    """Describes the differences between recorded and current versions; empty if there are none."""
    now = versions()
    changed = [
        f"{name} {recorded.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in sorted(recorded.keys() | now.keys())
        if recorded.get(name) != now.get(name)
    ]
    return "; ".join(changed)


def versions_by_trial(recorded: Mapping[int, Mapping[str, str]]) -> str:
    """Says which trials ran with which version of a package; empty if all trials ran with the same versions.

    Args:
      recorded: versions by package, for each trial number.
    """
    packages = dict.fromkeys(name for versions in recorded.values() for name in versions)
    lines = []
    for package in packages:
        trials: dict[str, list[int]] = {}
        for number, versions in recorded.items():
            trials.setdefault(versions.get(package, "absent"), []).append(number)
        if len(trials) > 1:
            lines.append(f"{package} {', '.join(f'{version} ({_ranges(ids)})' for version, ids in trials.items())}")
    return "; ".join(lines)


def versions_in_common(recorded: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Returns the packages, and their versions, that are the same in all records."""
    first, *others = [dict(versions) for versions in recorded] or [{}]
    return {name: version for name, version in first.items() if all(one.get(name) == version for one in others)}


def _ranges(numbers: Sequence[int]) -> str:
    """Returns ascending trial numbers as ranges, such as ``trials 0-11, 16``."""
    groups = itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    more = f" and {len(texts) - RANGES} more ranges" if len(texts) > RANGES else ""
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(texts[:RANGES])}{more}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # lanas_jax runs from a source tree
