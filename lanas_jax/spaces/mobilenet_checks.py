"""Whether networks can be made of the settings of a `MobileNetSpace`: looked at once, where it is made."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanas_jax.spaces.mobilenet import MobileNetSpace


def check_settings(space: "MobileNetSpace") -> None:
    """Whether networks can be made of them.

    Raises:
      ValueError: names the setting.
    """
    if not space.stages:
        raise ValueError("stages must name at least one")
    for name in ("depths", "kernels", "expansions", "widths", "resolutions"):
        options = getattr(space, name)
        if not options or options[0] <= 0 or list(options) != sorted(set(options)):
            raise ValueError(f"{name} must be ascending numbers above 0, at least one; got {options}")
    for name in ("stem", "last", "hidden", "stem_stride", "image_channels", "classes"):
        if getattr(space, name) < 1:
            raise ValueError(f"{name} must be at least 1; got {getattr(space, name)}")
    if space.max_latency is not None and space.latency is None:
        raise ValueError("max_latency needs a table of latencies: latency=LatencyTable.read(path)")


def check_limits(space: "MobileNetSpace") -> None:
    """Whether some network is within each.

    Raises:
      ValueError: names the limit, the smallest and the largest possible.
    """
    names = ("max_multiply_adds", "max_parameters", "max_latency")
    if space.limits == (None, None, None) and space.latency is None:
        return
    for name, limit, least, most in zip(names, space.limits, space.smallest, space.largest, strict=True):
        if limit is not None and least is not None and limit < least:
            raise ValueError(
                f"{name} of {limit:,} is below the smallest network of the space, which has {least:,}; "
                f"the largest has {most:,}"
            )
