"""Configurations as pytrees: which numbers are leaves, of which dtypes, and what shares a program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.runtime.pytrees import register_config


@register_config(data=("rate", "count", "is_on", "clip", "betas"))
@dataclasses.dataclass(frozen=True)
class Settings:
    size: int = 3
    rate: float = 0.1
    count: int = 2
    is_on: bool = True
    clip: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError("rate must be positive")


def test_numbers_are_leaves_of_the_declared_dtypes():
    leaves = jax.tree.leaves(Settings(rate=1, clip=5, betas=(0, 1)))
    assert [leaf.dtype for leaf in leaves] == [np.float32, np.int32, np.bool_, *[np.float32] * 3]
    np.testing.assert_array_equal(np.float32(leaves), [1, 2, 1, 5, 0, 1])
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(Settings())]
    assert paths == [".rate", ".count", ".is_on", ".betas[0]", ".betas[1]"]


def test_settings_come_back_equal_and_are_as_hashable_as_before():
    settings = Settings(rate=0.5, count=7)
    leaves, structure = jax.tree.flatten(settings)
    assert jax.tree.unflatten(structure, leaves) == settings
    assert len({settings, Settings(rate=0.5, count=7), Settings()}) == 2


def test_only_static_fields_and_what_is_none_make_another_program():
    traced = []

    @jax.jit
    def program(settings):
        traced.append(settings.size)
        return jnp.ones(settings.size) * settings.rate * jnp.float32(settings.count)

    for settings in (Settings(), Settings(rate=2), Settings(count=9, is_on=False), Settings(betas=(0.1, 0.2))):
        np.testing.assert_allclose(program(settings), np.full(3, settings.rate * settings.count), rtol=1e-6)
    assert traced == [3]
    program(Settings(clip=1.0))
    program(Settings(size=4))
    assert traced == [3, 3, 4]


def test_settings_are_checked_where_they_are_made_not_where_they_are_traced():
    with pytest.raises(ValueError, match="rate must be positive"):
        Settings(rate=0.0)
    assert float(jax.jit(lambda settings: settings.rate - 1)(Settings(rate=1))) == 0
