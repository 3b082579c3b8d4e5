"""``lanas describe``: a text drawing of a network and its cost.

The name is a space, from which a code selects a network, or a published network, which needs no code.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import tyro

from lanas_jax.commands import codes
from lanas_jax.commands.base import RefusedError, default_settings, parsed
from lanas_jax.commands.codes import CodeError
from lanas_jax.runtime.arithmetic import transfers_allowed
from lanas_jax.runtime.paths import local_path
from lanas_jax.spaces.attentive import AttentiveSpace
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.inverted_residuals import PUBLISHED
from lanas_jax.spaces.mnasnet import MnasNetSpace
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_layers import layers
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.study import discovery, run_folder

SETTINGS = {
    "nasnet": ("blocks", "two_cells", "channels", "cells", "image_size", "image_channels", "classes"),
    "mobilenet": ("width", "resolution", "image_channels", "classes"),
    "attentive": ("image_channels", "classes"),
} | dict.fromkeys(PUBLISHED, ("resolution", "classes"))

NAMES = f"nasnet, mobilenet, mnasnet, attentive, {', '.join(PUBLISHED)}, an experiment, or a run folder"


def describe(arguments: Sequence[str]) -> int:
    """Draws a network."""
    try:
        return _describe(arguments)
    except CodeError as error:
        raise RefusedError(str(error)) from error


@transfers_allowed
def _describe(arguments: Sequence[str]) -> int:
    """Draws a network and counts its cost; without a code, shows the settings and the history of a run.

    Returns:
      The exit code: 0.

    Raises:
      CodeError: the code or the settings do not fit the name.
      RunError, ExperimentError, ConfigError: the experiment or run does not exist or does not build.
    """
    name, code, as_json, settings = _parse(arguments)
    if name in PUBLISHED:
        if code is not None:
            raise CodeError(f"{name} is a single network and takes no --code: leave it out")
        about = published(name, settings)
    else:
        if code is None and not settings and run_folder.run_exists(local_path(name)):
            recorded = run_folder.open_run(local_path(name)).settings
            print(json.dumps(recorded) if as_json else "\n".join(f"{key}: {text}" for key, text in recorded.items()))
            return 0
        space = find_space(name, settings)
        if code is None:
            integers = f"{space.dims} integers separated by commas"
            raise CodeError(f"{name} is a space: choose a network with --code, {integers}")
        about = describe_code(space, codes.read_code(code, space))
    print(json.dumps(about) if as_json else _text(about))
    return 0


def _parse(arguments: Sequence[str]) -> tuple[str, str | None, bool, dict[str, Any]]:
    def size(text: str, names: str) -> Any:
        return tyro.conf.arg(metavar="N", help=text, help_behavior_hint=f"({names})")

    nasnet, mobile = "nasnet only; default: {}", "mobilenet and published networks; default: {}"
    both = "nasnet, mobilenet and published networks; default: {}"

    def parse(
        space: Annotated[str, tyro.conf.arg(metavar="SPACE", help=NAMES)],
        /,
        code: Annotated[
            str | None, tyro.conf.arg(metavar="2,2,0,...", help="code: integers separated by commas")
        ] = None,
        json: Annotated[bool, tyro.conf.arg(help="JSON output instead of a drawing")] = False,
        blocks: Annotated[int | None, size("number of blocks per cell", nasnet.format(7))] = None,
        two_cells: Annotated[bool, tyro.conf.arg(help="separate normal and reduction cells, nasnet only")] = False,
        channels: Annotated[int | None, size("number of channels of the first cell", nasnet.format(36))] = None,
        cells: Annotated[int | None, size("number of cells in the network", nasnet.format(20))] = None,
        image_size: Annotated[int | None, size("height and width of the images", nasnet.format(32))] = None,
        image_channels: Annotated[int | None, size("number of image channels", nasnet.format(3))] = None,
        resolution: Annotated[int | None, size("height and width of the images", mobile.format(224))] = None,
        width: Annotated[
            float | None,
            tyro.conf.arg(
                metavar="X", help="multiplier of all channels", help_behavior_hint="(mobilenet only; default: 1.0)"
            ),
        ] = None,
        classes: Annotated[int | None, size("number of network outputs", both.format("10 or 1000"))] = None,
    ) -> Any:
        """Draw the network of a code, or a published network, and count its multiply-adds and parameters.

        For a run without --code: show its settings and its history.
        """
        settings: dict[str, Any] = {"blocks": blocks, "channels": channels, "cells": cells, "image_size": image_size}
        settings |= {"image_channels": image_channels, "two_cells": two_cells or None}
        settings |= {"resolution": resolution, "width": width, "classes": classes}
        return space, code, json, {name: value for name, value in settings.items() if value is not None}

    found: tuple[str, str | None, bool, dict[str, Any]] = parsed(parse, "describe", arguments)
    return found


def _text(about: dict[str, Any]) -> str:
    totals = [
        f"{name}: {'unknown' if about[name] is None else format(about[name], ',')}"
        for name in ("multiply_adds", "parameters", "nanoseconds")
        if name in about
    ]
    return "\n".join([about["description"], *totals])


def find_space(name: str, settings: dict[str, Any]) -> SearchSpace:
    """Returns the space of that name.

    Args:
      name: ``nasnet``, ``mobilenet``, ``mnasnet``, ``attentive``, an experiment, or a run directory.
      settings: arguments of `NASNetSpace`, `AttentiveSpace` or `MobileNetSpace`; for the last one ``resolution`` and
        one ``width``.

    Raises:
      CodeError: the space does not take a setting, or its value is invalid.
      ExperimentError: there is no space, run or experiment of that name.
    """
    _check_settings(name, settings)
    try:
        if name == "nasnet":
            return NASNetSpace(**settings)
        if name == "mnasnet":
            return MnasNetSpace()
        if name == "attentive":
            return AttentiveSpace(**settings)
        if name == "mobilenet":
            one = {"width": "widths", "resolution": "resolutions"}
            many: dict[str, Any] = {one[key]: (value,) for key, value in settings.items() if key in one}
            return MobileNetSpace(**many, **{key: value for key, value in settings.items() if key not in one})
    except ValueError as error:
        raise CodeError(str(error)) from error
    if run_folder.run_exists(local_path(name)):
        return run_folder.open_run(local_path(name)).experiment().space
    try:
        module = discovery.load_experiment(discovery.find_experiment(name))
    except discovery.ExperimentError as error:
        raise discovery.ExperimentError(
            f"{error}. Names of spaces and networks: nasnet, mobilenet, mnasnet, attentive, {', '.join(PUBLISHED)}"
        ) from error
    return run_folder.build_experiment(module, default_settings(module.Config)).space


def _check_settings(name: str, settings: dict[str, Any]) -> None:
    """Checks that the named space or network takes the settings.

    Raises:
      CodeError: it does not take a setting; the message names the setting and the spaces that take it.
    """
    wrong = [setting for setting in settings if setting not in SETTINGS.get(name, ())]
    if not wrong:
        return
    flags = ", ".join(f"--{setting.replace('_', '-')}" for setting in wrong)
    goes = [other for other, taken in SETTINGS.items() if wrong[0] in taken]
    raise CodeError(f"{name} does not take {flags}: use it with {' or '.join(goes)}")


def published(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the description of a published network as a JSON-serializable dictionary.

    Args:
      name: name of the network, one of `PUBLISHED`.
      settings: values for ``resolution`` and ``classes``.

    Raises:
      CodeError: the network does not take a setting, or its value is invalid.
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
    """Returns the description of a code as a JSON-serializable dictionary; costs are None if the space has none."""
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
