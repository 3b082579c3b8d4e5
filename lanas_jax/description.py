"""What a code builds, drawn in text, and what it costs; the same of published networks. For `lanas describe`."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from lanas_jax import discovery, runs
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.inverted_residuals import PUBLISHED
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_layers import layers
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks

SETTINGS = {
    "nasnet": ("blocks", "two_cells", "channels", "cells", "image_size", "image_channels", "classes"),
    "mobilenet": ("width", "resolution", "image_channels", "classes"),
} | dict.fromkeys(PUBLISHED, ("resolution", "classes"))


class CodeError(Exception):
    """A code that its space does not have, or a setting that it does not take."""


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
    if runs.exists(Path(name)):
        return runs.open_run(Path(name)).experiment().space
    try:
        module = discovery.load(discovery.find(name))
    except discovery.ExperimentError as error:
        raise discovery.ExperimentError(
            f"{error}. For NASNet cells of any size: nasnet; for MobileNets: mobilenet, {', '.join(PUBLISHED)}"
        ) from error
    return runs.build(module, module.Config()).space


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


def read_code(text: str, space: SearchSpace) -> np.ndarray:
    """A code from text such as ``2,2,0,1``, checked against its space; int32[dims].

    Where the space has masks, one of them may stand for its code: zeros and ones, as many as the mask has bits, with
    commas or as one word. So may a name of a code (`SearchSpace.named_codes`).

    Raises:
      CodeError: names the position, the value and the range.
    """
    words = [word for word in re.split(r"[\s,]+", text.strip("[]() \t")) if word]
    words = list(map(str, space.named_codes.get(text.strip(), words)))
    if isinstance(space, NASNetMasks) and len(words) == 1 and re.fullmatch("[01]+", words[0]):
        words = list(words[0])
    for position, word in enumerate(words):
        if not re.fullmatch(r"[+-]?\d{1,9}", word):
            raise CodeError(f"position {position} of the code holds {word!r}, which is not an integer")
    if isinstance(space, NASNetMasks) and len(words) == space.bits:
        words = _code_of_mask(words, space)
    if len(words) != space.dims:
        or_mask = f"; or the {space.bits} bits of a mask" if isinstance(space, NASNetMasks) else ""
        raise CodeError(
            f"the code has {len(words)} integers, expected {space.dims}: "
            f"positions 0 ({space.choices[0].name}) to {space.dims - 1} ({space.choices[-1].name}){or_mask}"
        )
    try:
        codes = space.check([[int(word) for word in words]])
    except ValueError as error:
        raise CodeError(str(error).removeprefix("code 0: ")) from error
    if not np.asarray(space.valid(codes))[0]:
        raise CodeError("every integer is in range, but the space does not allow this code (a rule or a cost limit)")
    return codes[0]


def _code_of_mask(bits: list[str], space: NASNetMasks) -> list[str]:
    """The integers of its code.

    Raises:
      CodeError: not a mask of the space; says what is wrong.
    """
    try:
        (code,) = space.codes_of([[int(bit) for bit in bits]])
    except ValueError as error:
        raise CodeError(str(error).removeprefix("mask 0: ")) from error
    return list(map(str, code))


def describe(space: SearchSpace, code: np.ndarray) -> dict[str, Any]:
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
