"""Operations with one form for CPUs and another one for accelerators."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax


@partial(jax.jit, static_argnames=("cpu", "default", "stride"))
def by_platform(*operands: Any, cpu: Callable[..., Any], default: Callable[..., Any], stride: int) -> Any:
    """Runs the form of the platform that the program is compiled for; the programs of others do not contain it.

    Both forms are traced once for all calls with equal shapes, which takes most of the time of tracing a network.

    Args:
      *operands: arrays.
      cpu: form for CPUs, `(*operands, stride=stride)`.
      default: form for all other platforms.
      stride: stride of the operation.
    """
    return lax.platform_dependent(*operands, cpu=partial(cpu, stride=stride), default=partial(default, stride=stride))
