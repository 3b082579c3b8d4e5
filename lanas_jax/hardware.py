"""What this process may compute with."""

import os


def cores() -> int:
    """Processor cores that this process may use; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
