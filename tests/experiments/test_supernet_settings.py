"""Variants of the supernet's training differ in what they say, and in nothing else; nothing is trained."""

import dataclasses
from pathlib import Path

from lanas_jax.experiments import supernet_settings
from lanas_jax.experiments.supernet_settings import DEVICES, Config


def test_a_variant_differs_in_what_it_says_alone():
    config = Config(Path("unused"), epochs=2)
    first, count = supernet_settings.training(config, "mean", 1)
    assert (count, first.recipe.epochs, first.seed) == (1, 2, 1)
    assert (first.sandwich.gradient, first.recipe.normalize_over, first.watched) == ("mean", "all", 0)
    other = {
        variant: supernet_settings.training(config, variant, 1) for variant in Config.variants if variant != "mean"
    }
    changed = {
        "sum": {"sandwich": dataclasses.replace(first.sandwich, gradient="sum")},
        "device": {"recipe": dataclasses.replace(first.recipe, normalize_over="device")},
        "watched": {"watched": 500},
    }
    names = [field.name for field in dataclasses.fields(first) if field.name not in ("supernet", "codes")]
    for variant, (found, devices) in other.items():
        assert devices == (DEVICES if variant == "device" else 1)
        assert (found.codes == first.codes).all()
        expected = dataclasses.replace(first, **changed[variant])
        for name in names:
            assert getattr(found, name) == getattr(expected, name)
