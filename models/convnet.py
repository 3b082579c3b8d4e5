"""Networks of `ConvNetSpace`, in two forms that give the same outputs from the same weights.

`ConvNet.apply` takes the code as data: one compiled program trains every network of the space, and under `jax.vmap`
many at once. `specialise`, `build` and `for_code` return the network of one code as a Flax module, which has only the
layers and weights of that code.

The code-as-data form holds the weights of the largest network. Weights that a code does not use are zero and have zero
gradient, so weight decay and clipping ignore them. Feature maps are small, so a convolution is a product with one
matrix from all input pixels to all output pixels, built from the kernel. XLA turns the vmapped convolutions of many
networks into grouped ones, which are slow on CPUs; products of matrices are not.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models.fixed import FixedNetwork, fixed_network
from lanas_jax.models.layers.conv import Conv
from lanas_jax.models.layers.initial import draw_weights
from lanas_jax.models.layers.norm import Norm, identity_norm, initial_stats, norm, norm_state
from lanas_jax.spaces.convnet import DEPTHS, KERNELS, WIDTHS, ConvNetSpace

Tree = dict[str, Any]
Code = Int[Array | np.ndarray, " dims"]
DEPTH, WIDTH, KERNEL = DEPTHS[-1], WIDTHS[-1], KERNELS[-1]  # of the largest network


class ConvNetModule(nnx.Module):
    """The network of one code, for images ``[n, height, width, channels]``.

    Args:
      space: space of the code, which defines the sizes.
      code: architecture, NumPy integers ``[dims]``.
      rngs: keys for Flax's default initial weights; `ConvNet.build` initialises like the code-as-data form.
    """

    def __init__(self, space: ConvNetSpace, code: Int[np.ndarray, " dims"], *, rngs: nnx.Rngs):
        convolutions, inputs = [], space.image_channels
        for i, (width, kernel) in enumerate(_layers(code)):
            convolutions.append(Conv(inputs, width, kernel, 1 if i else 2, dtype=jnp.float32, rngs=rngs))
            inputs = width
        self.convolutions = nnx.List(convolutions)
        self.norms = nnx.List([Norm(width, rngs=rngs) for width, _ in _layers(code)])
        self.head = nnx.Linear(inputs, space.classes, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float32[Array, "n classes"]:
        """Returns logits; normalises by batch statistics after `train()`, by running statistics after `eval()`."""
        x = images
        for convolution, normalisation in zip(self.convolutions, self.norms, strict=True):
            x = jax.nn.relu(normalisation(convolution(x)))
        return self.head(x.mean(axis=(1, 2)))


@dataclasses.dataclass(frozen=True)
class ConvNet:
    """The family of all networks of a space.

    Args:
      space: search space, which defines the sizes of the networks.
    """

    space: ConvNetSpace

    def init(self, key: PRNGKeyArray, code: Code) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics of one network; `code` may be traced.

        Kernels are normal with variance ``2 / fan_in``, the head's with ``1 / fan_in``; fan-in counts the inputs that
        the code uses. The key is consumed.

        Returns:
          Parameters with the keys ``layers`` (a list) and ``head``, and batch statistics with the key ``layers``.
        """
        inputs = [self.space.image_channels] + [WIDTH] * (DEPTH - 1)
        shapes = {
            "kernels": [(KERNEL, KERNEL, channels, WIDTH) for channels in inputs],
            "head": (WIDTH, self.space.classes),
        }
        noise, parts = draw_weights(key, shapes), _parts(jnp.asarray(code, jnp.int32))
        used, fan_in, layers = jnp.ones(self.space.image_channels, bool), jnp.int32(self.space.image_channels), []
        for kernel, (exists, window, channels) in zip(noise["kernels"], parts, strict=True):
            mask = window[:, :, None, None] & used[None, None, :, None] & channels[None, None, None] & exists
            scale = jnp.sqrt(2 / (window.sum() * fan_in).astype(jnp.float32))
            weights = identity_norm((WIDTH,))
            weights["scale"] = jnp.where(channels & exists, weights["scale"], 0)
            layers.append({"kernel": jnp.where(mask, kernel * scale, 0), **weights})
            used = jnp.where(exists, channels, used[:WIDTH] if len(used) == WIDTH else channels)
            fan_in = jnp.where(exists, channels.sum(), fan_in)
        head = jnp.where(used[:, None], noise["head"] / jnp.sqrt(fan_in.astype(jnp.float32)), 0)
        params = {"layers": layers, "head": {"kernel": head, "bias": jnp.zeros(self.space.classes)}}
        return params, {"layers": [initial_stats((WIDTH,)) for _ in range(DEPTH)]}

    def apply(
        self, params: Tree, batch_stats: Tree, code: Code, images: Float[Array, "n h w c"], *, train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of one code; `code` may be traced.

        Args:
          params: weights in the layout of `init`.
          batch_stats: running means and variances in the layout of `init`.
          code: architecture, ``int32[dims]``.
          images: batch with the image size and channels of the space.
          train: True to normalise by the statistics of the batch, False by running statistics.

        Returns:
          Logits and updated batch statistics (unchanged unless training).
        """
        n, size = len(images), self.space.map_size
        x, updated = images.reshape(n, -1), []
        trees = zip(params["layers"], batch_stats["layers"], _parts(jnp.asarray(code, jnp.int32)), strict=True)
        for i, (weights, stats, (exists, window, channels)) in enumerate(trees):
            matrix = _matrix(jnp.where(window[:, :, None, None], weights["kernel"], 0), size, 1 if i else 2)
            y, new = norm((x @ matrix).reshape(n, size, size, WIDTH), weights, stats, train)
            y = jnp.where(channels[None, None, None], jax.nn.relu(y), 0).reshape(n, -1)
            x = jnp.where(exists, y, x) if i else y
            updated.append(jax.tree.map(functools.partial(jnp.where, exists & channels), new, stats))
        pooled = x.reshape(n, size * size, WIDTH).mean(axis=1)
        logits = pooled @ params["head"]["kernel"] + params["head"]["bias"][None]
        return logits, {"layers": updated}

    def specialise(self, params: Tree, batch_stats: Tree, code: Code) -> ConvNetModule:
        """Returns the network of one code as a module, with the weights that the code uses.

        Raises:
          ValueError: the code has the wrong length or an integer out of range.
        """
        checked = self.space.check(np.asarray(code)[None])[0]
        module = nnx.eval_shape(lambda: ConvNetModule(self.space, checked, rngs=nnx.Rngs(0)))
        convolutions, norms, inputs = {}, {}, self.space.image_channels
        for i, (width, kernel) in enumerate(_layers(checked)):
            window = slice((KERNEL - kernel) // 2, (KERNEL + kernel) // 2)
            layer, stats = params["layers"][i], batch_stats["layers"][i]
            convolutions[i] = {"kernel": layer["kernel"][window, window, :inputs, :width]}
            names = ("scale", "bias")
            norms[i] = norm_state(
                {name: layer[name][:width] for name in names}, {name: array[:width] for name, array in stats.items()}
            )
            inputs = width
        head = {"kernel": params["head"]["kernel"][:inputs], "bias": params["head"]["bias"]}
        return nnx.merge(nnx.graphdef(module), {"convolutions": convolutions, "norms": norms, "head": head})

    def build(self, code: Code, rngs: nnx.Rngs) -> ConvNetModule:
        """Builds the network of one code, initialised as by `init`; consumes one key of the stream ``params``."""
        params, batch_stats = jax.jit(self.init)(rngs.params(), jnp.asarray(code, jnp.int32))
        return self.specialise(params, batch_stats, code)

    def for_code(self, code: Code) -> FixedNetwork:
        """Returns the network of one code with the interface of this class; the same key gives the same weights.

        Raises:
          ValueError: the code has the wrong length or an integer out of range.
        """
        return fixed_network(self, code)


def _layers(code: Int[np.ndarray, " dims"]) -> list[tuple[int, int]]:
    """Returns width and kernel of each layer of a code."""
    return [(WIDTHS[code[1 + 2 * i]], KERNELS[code[2 + 2 * i]]) for i in range(DEPTHS[code[0]])]


def _parts(code: Int[Array, " dims"]) -> list[tuple[Bool[Array, ""], Bool[Array, "k k"], Bool[Array, " width"]]]:
    """Returns of each layer whether it exists, which taps of the largest kernel and which channels it uses."""
    distance = jnp.abs(jnp.arange(KERNEL) - KERNEL // 2)
    reach = jnp.maximum(distance[:, None], distance[None])  # of each tap from the centre
    parts = []
    for layer in range(DEPTH):
        width, kernel = (
            jnp.asarray(options, jnp.int32)[code[1 + 2 * layer + i]] for i, options in enumerate((WIDTHS, KERNELS))
        )
        parts.append((code[0] >= layer, reach <= kernel // 2, jnp.arange(WIDTH) < width))
    return parts


def _matrix(kernel: Float[Array, "k k c d"], size: int, stride: int) -> Float[Array, "inputs outputs"]:
    """Returns the matrix of a convolution from maps of ``stride * size`` to maps of `size` pixels in both directions.

    Its rows are input pixels times channels, its columns output pixels times channels.
    """
    k, _, c, d = kernel.shape
    taps = _taps(k, size, stride)
    pixels = taps.shape[1:]
    product = jnp.matmul(taps.reshape(k * k, -1).T, kernel.reshape(k * k, -1))
    return product.reshape(*pixels, c, d).transpose(0, 2, 1, 3).reshape(pixels[0] * c, pixels[1] * d)


@functools.cache
def _taps(k: int, size: int, stride: int) -> Float[np.ndarray, "taps inputs outputs"]:
    """Returns which tap of a kernel leads from an input to an output pixel, one-hot; none if the pixels are apart."""
    before = np.arange(stride * size)
    offset = before[:, None] - stride * np.arange(size)[None] + k // 2
    line = (offset[None] == np.arange(k)[:, None, None]).astype(np.float32)  # [k, inputs, outputs] of one direction
    both = np.einsum("aio,bjp->abijop", line, line)
    return both.reshape(k * k, math.prod(both.shape[2:4]), math.prod(both.shape[4:]))
