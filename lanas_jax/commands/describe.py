"""``lanas describe``: what a code builds, drawn in text, and what it costs.

A name stands for a space, of which a code picks a network, or for a published network, which needs no code.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from lanas_jax.commands import codes
from lanas_jax.commands.base import RefusedError
from lanas_jax.commands.codes import CodeError
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.inverted_residuals import PUBLISHED
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_layers import layers
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.study import discovery, run_folder

SETTINGS = {
    "nasnet": ("blocks", "two_cells", "channels", "cells", "image_size", "image_channels", "classes"),
    "mobilenet": ("width", "resolution", "image_channels", "classes"),
} | dict.fromkeys(PUBLISHED, ("resolution", "classes"))

NAMES = f"nasnet, mobilenet, {', '.join(PUBLISHED)}, an experiment, or the folder of a run"


def describe(arguments: Sequence[str]) -> int:
    """Draws a network."""
    try:
        return _describe(arguments)
    except CodeError as error:
        raise RefusedError(str(error)) from error


def _describe(arguments: Sequence[str]) -> int:
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
        about = published(name, settings)
    else:
        space = find_space(name, settings)
        if code is None:
            raise CodeError(f"{name} is a space: --code says which of its networks, {space.dims} integers with commas")
        about = describe_code(space, codes.read_code(code, space))
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


def find_space(name: str, settings: dict[str, Any]) -> SearchSpace:
    """The space of that name.

    Args:
      name: ``nasnet``, ``mobilenet``, an experiment, or a run directory.
      settings: of `NASNetSpace` or `MobileNetSpace`; of the latter, one resolution and one width.

    Raises:
      CodeError: settings that the space does not take, or impossible ones.
      ExperimentError: no experiment of that name either.
    """
    _check_settings(name, settings)
    try:
        if name == "nasnet":
            return NASNetSpace(**settings)
        if name == "mobilenet":
            one = {"width": "widths", "resolution": "resolutions"}
            many: dict[str, Any] = {one[key]: (value,) for key, value in settings.items() if key in one}
            return MobileNetSpace(**many, **{key: value for key, value in settings.items() if key not in one})
    except ValueError as error:
        raise CodeError(str(error)) from error
    if run_folder.exists(Path(name)):
        return run_folder.open_run(Path(name)).experiment().space
    try:
        module = discovery.load(discovery.find(name))
    except discovery.ExperimentError as error:
        raise discovery.ExperimentError(
            f"{error}. For NASNet cells of any size: nasnet; for MobileNets: mobilenet, {', '.join(PUBLISHED)}"
        ) from error
    return run_folder.build(module, module.Config()).space


def _check_settings(name: str, settings: dict[str, Any]) -> None:
    """Whether settings go with a name.

    Raises:
      CodeError: names those that do not, and with what they go.
    """
    wrong = [setting for setting in settings if setting not in SETTINGS.get(name, ())]
    if not wrong:
        return
    flags = ", ".join(f"--{setting.replace('_', '-')}" for setting in wrong)
    goes = [other for other, taken in SETTINGS.items() if wrong[0] in taken]
    raise CodeError(f"{flags} goes with {' and '.join(goes)}; {name} has its own settings")


def published(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What there is to say of a published network, ready for JSON.

    Args:
      name: one of `PUBLISHED`.
      settings: ``resolution`` and ``classes``.

    Raises:
      CodeError: settings that it does not take, or impossible ones.
    """
    _check_settings(name, settings)
    try:
        network = PUBLISHED[name](**settings)
    except ValueError as error:
        raise CodeError(str(error)) from error
    listed = layers(network)
    return {
        "name": name,
        "resolution": network.resolution,
        "classes": network.classes,
        **network.cost._asdict(),
        "layers": [{"layer": layer.name, **layer.cost._asdict()} for layer in listed],
        "description": "\n".join(layer.name for layer in listed),
    }


def describe_code(space: SearchSpace, code: np.ndarray) -> dict[str, Any]:
    """What there is to say of a code, ready for JSON; costs are None where the space does not know them."""
    about: dict[str, Any] = {
        "space": type(space).__name__,
        "code": code.tolist(),
        "canonical": np.asarray(space.canonical(code[None]))[0].tolist(),
        "multiply_adds": None,
        "parameters": None,
        "description": space.describe(code),
    }
    try:
        cost = space.cost(code[None])
    except NotImplementedError:
        return about
    about |= {"multiply_adds": int(cost.multiply_adds[0]), "parameters": int(cost.parameters[0])}
    if isinstance(space, MobileNetSpace) and space.latency is not None:
        about["nanoseconds"] = int(space.nanoseconds(code[None])[0])
    return about
