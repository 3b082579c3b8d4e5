"""Software versions and settings of JAX, recorded with every trial, in a run's config.json and in training.json."""

import functools
import importlib.metadata
import itertools
import platform
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence

RANGES = 4  # maximum number of trial ranges listed per version

PACKAGES = {"lanas_jax": "lanas-jax", "jax": "jax", "flax": "flax", "optax": "optax", "numpy": "numpy"}
DRAWS = {"jax_default_prng_impl": "threefry2x32", "jax_threefry_partitionable": True}  # decisive for random numbers
SETTINGS = DRAWS | {"jax_default_matmul_precision": None}  # with their defaults


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect the outcome of a trial, by name.

    JAX settings that affect the outcome too are included only if they differ from their defaults. A record without
    them, such as that of a process that does not use JAX, therefore means the defaults.
    """
    return _packages() | _jax_settings()


def differences(recorded: Mapping[str, str], names: Collection[str] | None = None) -> str:
    """Describes the differences between recorded and current versions and settings; empty if there are none.

    Args:
      recorded: earlier result of `versions`.
      names: names to compare; default: all.
    """
    now = versions()
    compared = recorded.keys() | now.keys() if names is None else names
    return "; ".join(
        f"{name} {recorded.get(name, _absent(name))}, now {now.get(name, _absent(name))}"
        for name in sorted(compared)
        if recorded.get(name) != now.get(name)
    )


def versions_by_trial(recorded: Mapping[int, Mapping[str, str]]) -> str:
    """Describes which trials ran with which version of a package; empty if all trials ran with the same versions.

    Args:
      recorded: versions by package, for each trial number.
    """
    packages = dict.fromkeys(name for versions in recorded.values() for name in versions)
    lines = []
    for package in packages:
        trials: dict[str, list[int]] = {}
        for number, versions in recorded.items():
            trials.setdefault(versions.get(package, _absent(package)), []).append(number)
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


def _absent(name: str) -> str:
    return f"{SETTINGS[name]}" if name in SETTINGS else "absent"


@functools.cache
def _packages() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version(package) for name, package in PACKAGES.items()}


def _jax_settings() -> dict[str, str]:
    """Returns the settings that differ from their defaults; none before JAX is imported."""
    jax = sys.modules.get("jax")
    if jax is None:
        return {}
    found = {name: getattr(jax.config, name) for name in SETTINGS}
    return {name: str(value) for name, value in found.items() if value != SETTINGS[name]}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # lanas_jax runs from a source tree
