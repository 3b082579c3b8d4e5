"""An inverted residual by PyTorch's functions, with the weights of the one in `models/mobilenet/network.py`."""

import numpy as np
import torch
from torch.nn import functional

TORCH = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hard_swish": functional.hardswish,
    "swish": functional.silu,
    "hard_sigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
}


def tensor(x):
    return torch.tensor(np.asarray(x))


def in_torch(params, stats, block, gate, x):
    """The block, written with PyTorch's functions."""

    def normalised(name, x, groups=1, stride=1):
        kernel = tensor(params[name]["convolution"]["kernel"]).permute(3, 2, 0, 1)
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        norm = stats[name]["norm"] | params[name]["norm"]
        return functional.batch_norm(x, *(tensor(norm[key]) for key in ("mean", "var", "scale", "bias")), eps=1e-5)

    activation, y = TORCH[block.activation], x
    if block.expanded != block.inputs:
        y = activation(normalised("expansion", y))
    y = activation(normalised("depthwise", y, block.expanded, block.stride))
    if block.squeezed:
        squeeze, excite = (
            (tensor(params["excitation"][name]["kernel"]).T, tensor(params["excitation"][name]["bias"]))
            for name in ("squeeze", "excite")
        )
        inside = functional.relu if gate == "hard_sigmoid" else functional.silu
        weights = TORCH[gate](functional.linear(inside(functional.linear(y.mean((2, 3)), *squeeze)), *excite))
        y = y * weights[:, :, None, None]
    y = normalised("projection", y)
    if block.stride == 1 and block.inputs == block.outputs:
        return x + y
    if not block.connected:
        return y
    x = functional.avg_pool2d(x, block.stride, padding=x.shape[-1] % block.stride)
    if block.inputs == block.outputs:
        return x + y
    return y + functional.conv2d(x, tensor(params["shortcut"]["kernel"]).permute(3, 2, 0, 1))
