"""Settings of JAX without effect on this package: 64-bit types, disabled compilation, NaN checks, transfer guards.

With 64-bit types (``JAX_ENABLE_X64``), JAX counts, sorts and draws in other dtypes, so that programs would draw other
random numbers, need more memory, and mix dtypes. Searches, trainings and valuations therefore run in 32 bits, with the
same results as without the setting. Without compilation (``JAX_DISABLE_JIT``), one `ask` of LaNAS takes minutes. Where
implicit transfers are disallowed (``JAX_TRANSFER_GUARD``), JAX refuses even ``x + 1`` outside of compiled functions.
Other code of the process, such as a user's evaluator, still sees the settings. In JAX the override is local to a
thread, so functions that run in separate threads are decorated too.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def in_32_bits(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Returns a function that runs, traces and compiles in 32 bits, and always compiles and transfers what it needs."""

    @functools.wraps(function)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> Returned:
        with jax.enable_x64(False), jax.disable_jit(False), jax.transfer_guard("allow"):
            return function(*arguments, **named)

    return run


def transfers_allowed(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Returns a function in which ``JAX_TRANSFER_GUARD`` has no effect, for arrays of any number of bits."""

    @functools.wraps(function)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> Returned:
        with jax.transfer_guard("allow"):
            return function(*arguments, **named)

    return run


def nan_is_data(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Returns a function in which ``JAX_DEBUG_NANS`` and ``JAX_DEBUG_INFS`` have no effect.

    Searchers represent failed trials by NaN, and bounds that do not apply by infinity. Trainings check their losses and
    weights themselves, and report the step.
    """

    @functools.wraps(function)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> Returned:
        with jax.debug_nans(False), jax.debug_infs(False):
            return function(*arguments, **named)

    return run
