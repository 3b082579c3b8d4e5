"""The auxiliary head of DARTS (arXiv 1806.09055): a small classifier in the middle of a network, for training only.

The trainer adds its weighted loss to the loss of the network; the network chooses the cell that it reads. Weights are
normal with variance ``2 / fan_in`` in convolutions and ``1 / fan_in`` in the last layer, as in
`models/nasnet/candidate.py`. Weight standardisation, an option of the cells, does not apply to the head.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from lanas_jax.models import layers
from lanas_jax.models.layers.norm import Norm

CHANNELS = (128, 768)  # output channels of the two convolutions


class AuxiliaryHead(nnx.Module):
    """ReLU, average pool to 2x2, 1x1 convolution, norm, ReLU, 2x2 convolution, norm, ReLU, linear.

    Args:
      channels: number of input channels.
      classes: number of classes.
      size: height and width of the input; see `pool_window`.
      dtype: dtype of the operands of convolutions; pooling, the last layer and parameters are float32.
      rngs: keys for the initial weights.

    Raises:
      ValueError: the size is less than 2.
    """

    def __init__(self, channels: int, classes: int, size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        narrow, wide = CHANNELS
        self.window, self.stride = pool_window(size)
        self.pointwise = nnx.Linear(channels, narrow, use_bias=False, dtype=dtype, kernel_init=_normal(2.0), rngs=rngs)
        self.pointwise_norm = Norm(narrow, rngs=rngs)
        self.conv = nnx.Conv(
            narrow, wide, (2, 2), padding="VALID", use_bias=False, dtype=dtype, kernel_init=_normal(2.0), rngs=rngs
        )
        self.conv_norm = Norm(wide, rngs=rngs)
        self.head = nnx.Linear(wide, classes, kernel_init=_normal(1.0), rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float32[Array, "n classes"]:
        """Returns logits."""
        x = jax.nn.relu(x.astype(jnp.float32))
        x = layers.average_pool_within(x, self.window, self.stride)
        x = jax.nn.relu(self.pointwise_norm(self.pointwise(x)))
        x = jax.nn.relu(self.conv_norm(self.conv(x)))
        return self.head(x[:, 0, 0].astype(jnp.float32))


def pool_window(size: int) -> tuple[int, int]:
    """Returns window and stride of the average pooling that reduces images of that size to 2x2.

    For 8x8 images, as after two reductions of CIFAR images, they are those of DARTS: 5 and 3. For other sizes the
    stride is the same fraction of the size, rounded down, and two windows cover the size.

    Raises:
      ValueError: the size is less than 2.
    """
    if size < 2:
        raise ValueError(f"the auxiliary head needs at least 2x2 pixels; got {size}x{size}; use auxiliary=False")
    stride = max(3 * size // 8, 1)
    return size - stride, stride


def _normal(scale: float) -> nnx.Initializer:
    """Returns a normal initializer with variance ``scale / fan_in``."""
    return nnx.initializers.variance_scaling(scale, "fan_in", "normal")
