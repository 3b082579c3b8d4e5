"""Operations with one form for CPUs and another one for accelerators."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax


@partial(jax.jit, static_argnames=("cpu", "default", "stride"))
def by_platform(*operands: Any, cpu: Callable[..., Any], default: Callable[..., Any], **settings: int) -> Any:
    """Runs the form for the platform that the program is compiled for; the program does not contain the other form.

    Both forms are traced once for all calls with equal shapes, which takes most of the time of tracing a network.

    Args:
      *operands: arrays.
      cpu: form for CPUs, `(*operands, **settings)`.
      default: form for all other platforms.
      **settings: `stride`, for operations that have one.
    """
    return lax.platform_dependent(*operands, cpu=partial(cpu, **settings), default=partial(default, **settings))
