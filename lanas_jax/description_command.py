"""What ``lanas describe`` does: its arguments, and what it prints.

A name stands for a space, of which a code picks a network, or for a published network, which needs no code. What is
said of them is `description.py`'s.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from lanas_jax import description
from lanas_jax.description import CodeError
from lanas_jax.spaces.inverted_residuals import PUBLISHED

NAMES = f"nasnet, mobilenet, {', '.join(PUBLISHED)}, an experiment, or the folder of a run"


def describe(arguments: Sequence[str]) -> int:
    """Draws a network and counts what it costs.

    Returns:
      The exit code: 0.

    Raises:
      CodeError: a code or settings that do not go with the name.
      RunError, ExperimentError, ConfigError: an experiment or a run that is not there or does not build.
    """
    name, code, as_json, settings = _parse(arguments)
    if name in PUBLISHED:
        if code is not None:
            raise CodeError(f"{name} is one network: it takes no --code")
        about = description.published(name, settings)
    else:
        space = description.find_space(name, settings)
        if code is None:
            raise CodeError(f"{name} is a space: --code says which of its networks, {space.dims} integers with commas")
        about = description.describe(space, description.read_code(code, space))
    print(json.dumps(about) if as_json else _text(about))
    return 0


def _parse(arguments: Sequence[str]) -> tuple[str, str | None, bool, dict[str, Any]]:
    def size(text: str, names: str) -> Any:
        return tyro.conf.arg(metavar="N", help=text, help_behavior_hint=f"({names})")

    nasnet, mobile = "nasnet only; {} when not given", "mobilenet and published networks; {} when not given"
    both = "nasnet, mobilenet and published networks; {} when not given"

    def parse(
        space: Annotated[str, tyro.conf.arg(metavar="SPACE", help=NAMES)],
        /,
        code: Annotated[str | None, tyro.conf.arg(metavar="2,2,0,...", help="the integers, with commas")] = None,
        json: Annotated[bool, tyro.conf.arg(help="print JSON instead of a drawing")] = False,
        blocks: Annotated[int | None, size("blocks per cell", nasnet.format(7))] = None,
        two_cells: Annotated[bool, tyro.conf.arg(help="a normal and a reduction cell, nasnet only")] = False,
        channels: Annotated[int | None, size("channels of the first cell", nasnet.format(36))] = None,
        cells: Annotated[int | None, size("cells in the network", nasnet.format(20))] = None,
        image_size: Annotated[int | None, size("height and width of the images", nasnet.format(32))] = None,
        image_channels: Annotated[int | None, size("channels of the images", nasnet.format(3))] = None,
        resolution: Annotated[int | None, size("height and width of the images", mobile.format(224))] = None,
        width: Annotated[
            float | None,
            tyro.conf.arg(metavar="X", help="multiplier of all channels", help_behavior_hint="(mobilenet only; 1.0)"),
        ] = None,
        classes: Annotated[int | None, size("outputs of the network", both.format("10 or 1000"))] = None,
    ) -> Any:
        """Draw the network that a code stands for, or a published one, and count its multiply-adds and parameters."""
        settings: dict[str, Any] = {"blocks": blocks, "channels": channels, "cells": cells, "image_size": image_size}
        settings |= {"image_channels": image_channels, "two_cells": two_cells or None}
        settings |= {"resolution": resolution, "width": width, "classes": classes}
        return space, code, json, {name: value for name, value in settings.items() if value is not None}

    marks = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(parse, prog="lanas describe", args=list(arguments), config=marks)


def _text(about: dict[str, Any]) -> str:
    totals = [
        f"{name}: {'unknown' if about[name] is None else format(about[name], ',')}"
        for name in ("multiply_adds", "parameters", "nanoseconds")
        if name in about
    ]
    return "\n".join([about["description"], *totals])
