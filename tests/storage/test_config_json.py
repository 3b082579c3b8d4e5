"""Configs on their way to config.json and back."""

import dataclasses
import enum
import json
from pathlib import Path

import pytest

from lanas_jax.storage import config_json


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Inner:
    rates: tuple[float, ...] = (0.1, 1.0)


@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int = 0
    rate: float = 1.0
    name: str | None = None
    data: Path = Path("a/b")
    colour: Colour = Colour.RED
    inner: Inner = Inner()
    sizes: tuple[int, int] = (3, 4)
    table: dict[str, list[int]] = dataclasses.field(default_factory=lambda: {"a": [1, 2]})
    either: int | float | str = 2.0


@pytest.mark.parametrize("changes", [{}, {"name": "x", "either": 3}, {"rate": 3, "inner": Inner(())}, {"either": "2"}])
def test_configs_survive_the_way_to_json_and_back(changes):
    config = Settings(**changes)
    config_json.check_config(config)
    assert config_json.decode_value(Settings, json.loads(json.dumps(config_json.encode_value(config)))) == config


def test_config_that_does_not_survive_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        thing: object = dataclasses.field(default_factory=object)

    with pytest.raises(config_json.ConfigError, match=r"Config.thing: .* cannot be written to config.json"):
        config_json.check_config(Odd())
    for changes, message in (
        ({"colour": None}, "Config.colour: None is not a member of Colour; choose from RED"),
        ({"rate": float("inf")}, "Config.rate: inf cannot be written to config.json: use None, or a finite number"),
        ({"inner": Inner((float("nan"),))}, "Config.inner: nan cannot be written"),
        ({"sizes": (1, 2, 3)}, r"Config.sizes = \(1, 2, 3\) cannot be restored: ValueError"),
    ):
        with pytest.raises(config_json.ConfigError, match=message):
            config_json.check_config(Settings(**changes))
    with pytest.raises(config_json.ConfigError, match="has no field gone"):
        config_json.decode_value(Settings, {"gone": 1})
    with pytest.raises(config_json.ConfigError, match="'1' is not int"):
        config_json.decode_value(Settings, {"seed": "1"})
    with pytest.raises(config_json.ConfigError, match=r"^'BLUE' is not a member of Colour; choose from RED"):
        config_json.read_config(Settings, {"colour": "BLUE"})


@dataclasses.dataclass(frozen=True)
class Computed:
    """Settings with a field that the class computes, and one of any type."""

    budget: int = 4
    anything: object = "x"
    batches: object = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "batches", range(self.budget))


def test_fields_that_the_class_computes_are_not_recorded():
    config = Computed(budget=3, anything=[1, None])
    config_json.check_config(config)
    recorded = config_json.encode_value(config)
    assert recorded == {"budget": 3, "anything": [1, None]}
    assert config_json.read_config(Computed, recorded) == config
