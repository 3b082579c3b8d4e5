"""Software versions, recorded with every trial and in a run's config.json."""

import functools
import importlib.metadata
import platform

PACKAGES = {"lanas_jax": "lanas-jax", "jax": "jax", "flax": "flax", "optax": "optax", "numpy": "numpy"}


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect the outcome of a trial, by name."""
    return {"python": platform.python_version()} | {name: _version(package) for name, package in PACKAGES.items()}


def differences(recorded: dict[str, str]) -> str:
    """Describes the differences between recorded and current versions; empty if there are none."""
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
        return "not installed"  # lanas_jax runs from a source tree
