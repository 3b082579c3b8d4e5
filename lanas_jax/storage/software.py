"""Which software made a trial: the versions that stand beside every trial and in a run's config.json."""

import functools
import importlib.metadata
import platform

PACKAGES = {"lanas_jax": "lanas-jax", "jax": "jax", "flax": "flax", "optax": "optax", "numpy": "numpy"}


@functools.cache
def versions() -> dict[str, str]:
    """Versions by name: Python's and those of the packages that decide what a trial comes to."""
    return {"python": platform.python_version()} | {name: _version(package) for name, package in PACKAGES.items()}


def differences(recorded: dict[str, str]) -> str:
    """What differs between recorded versions and the present ones, in words; empty where nothing does."""
    now = versions()
    changed = [
        f"{name} {recorded.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in sorted(recorded.keys() | now.keys())
        if recorded.get(name) != now.get(name)
    ]
    return "; ".join(changed)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # lanas_jax used from a source tree
