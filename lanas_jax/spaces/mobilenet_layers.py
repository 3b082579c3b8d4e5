"""Named layers of MobileNets, as listed by `lanas describe` and used as keys of latency tables.

A name contains everything that determines a layer's cost and latency: channels, kernel, stride, activation, and after
the ``@`` the height and width of its input. An example is ``block 16-64-24, 3x3, stride 2, relu @ 112``.
"""

from typing import NamedTuple

from lanas_jax.spaces.inverted_residuals import Block, Gate, LayerCost, MobileNet, head_cost, stem_cost


class Layer(NamedTuple):
    """A block, the stem or the head of a network."""

    name: str
    cost: LayerCost


def layers(network: MobileNet) -> tuple[Layer, ...]:
    """Returns stem, blocks and head of a network, in order; the sum of their costs is the network's cost."""
    sizes = network.sizes
    between = (block_layer(block, size, network.gate) for block, size in zip(network.blocks, sizes, strict=False))
    return (_stem(network), *between, _head(network, sizes[-1]))


def block_layer(block: Block, size: int, gate: Gate) -> Layer:
    """Returns the layer of a block whose input has `size` by `size` pixels."""
    squeezes = f", squeeze {block.squeezed} {gate}" if block.squeezed else ""
    name = (
        f"block {block.inputs}-{block.expanded}-{block.outputs}, {block.kernel}x{block.kernel}, "
        f"stride {block.stride}, {block.activation}{squeezes} @ {size}"
    )
    return Layer(name, block.cost(size))


def _stem(network: MobileNet) -> Layer:
    name = (
        f"stem {network.image_channels}-{network.stem}, 3x3, stride {network.stem_stride}, "
        f"{network.activation} @ {network.resolution}"
    )
    return Layer(name, stem_cost(network.image_channels, network.stem, network.sizes[0]))


def _head(network: MobileNet, size: int) -> Layer:
    inputs = network.blocks[-1].outputs if network.blocks else network.stem
    hidden = f"-{network.hidden}" if network.hidden else ""
    bias = "" if network.hidden_bias or not network.hidden else ", no bias"
    name = f"head {inputs}-{network.last}{hidden}-{network.classes}, {network.activation}{bias} @ {size}"
    return Layer(name, head_cost(network, inputs, size))
