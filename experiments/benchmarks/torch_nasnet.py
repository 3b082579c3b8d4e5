"""The networks of `models/nasnet/network.py` in PyTorch, trained as `lanas_jax/candidates/step.py` trains them.

For comparison only (`candidates.py`, and a test that both give the same outputs from the same weights): same layers,
initial weights, batch size, steps, optimiser and schedule, in eager mode. Needs torch, which is not a dependency of the
project.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lanas_jax.data.splits import SearchData, Split
from lanas_jax.spaces.nasnet import MAX_POOL_3X3, SEP_CONV_3X3, SKIP_CONNECT, NASNetSpace
from lanas_jax.training.sgd import TrainConfig

WARM_UP = 3  # number of steps before timing starts


def norm(channels: int) -> nn.BatchNorm2d:
    """Returns batch normalisation; torch's momentum is the weight of the new batch."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)


class TorchSeparableConv(nn.Module):
    """ReLU, depthwise convolution, 1x1 convolution and normalisation, applied twice."""

    def __init__(self, channels: int, size: int, stride: int):
        super().__init__()
        self.depthwise = nn.ModuleList(
            nn.Conv2d(channels, channels, size, s, size // 2, groups=channels, bias=False) for s in (stride, 1)
        )
        self.pointwise = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))
        self.norm = nn.ModuleList(norm(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Runs both halves."""
        for depthwise, pointwise, normalise in zip(self.depthwise, self.pointwise, self.norm, strict=True):
            x = normalise(pointwise(depthwise(functional.relu(x))))
        return x


class TorchPreprocess(nn.Module):
    """ReLU, 1x1 convolution, normalisation."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.pointwise = nn.Conv2d(inputs, channels, 1, bias=False)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps the input to the given number of channels."""
        return self.norm(self.pointwise(functional.relu(x)))


class TorchFactorisedReduce(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2 on pixels of different parity, normalisation."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.even = nn.Conv2d(inputs, channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, channels - channels // 2, 1, stride=2, bias=False)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Halves the resolution."""
        x = functional.relu(x)
        shifted = functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=1))


def operation(index: int, channels: int, stride: int) -> nn.Module:
    """Returns the operation with the given index and stride."""
    if index == MAX_POOL_3X3:
        return nn.MaxPool2d(3, stride, 1)
    if index == SKIP_CONNECT:
        return TorchFactorisedReduce(channels, channels) if stride == 2 else nn.Identity()
    return TorchSeparableConv(channels, 3 if index == SEP_CONV_3X3 else 5, stride)


class TorchCell(nn.Module):
    """A cell: two preprocessed inputs, blocks of two branches, and concatenation of the blocks that no block reads."""

    def __init__(self, space: NASNetSpace, code: np.ndarray, shape: Any, inputs: list[int]):
        super().__init__()
        self.sources = space.inputs(code[None])[0, shape.cell].reshape(-1).tolist()
        self.ends = np.flatnonzero(space.concatenated(code[None])[0, shape.cell]).tolist()
        kinds = (TorchFactorisedReduce if shape.after_reduction else TorchPreprocess, TorchPreprocess)
        self.inputs = nn.ModuleList(kind(n, shape.channels) for kind, n in zip(kinds, inputs, strict=True))
        operations = space.operations(code[None])[0, shape.cell].reshape(-1).tolist()
        self.branches = nn.ModuleList(
            operation(index, shape.channels, 2 if shape.reduction and source < 2 else 1)
            for index, source in zip(operations, self.sources, strict=True)
        )

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        """Runs the cell on the outputs of the two cells before it."""
        states = [self.inputs[0](before_last), self.inputs[1](last)]
        for i in range(0, len(self.branches), 2):
            left, right = (self.branches[j](states[self.sources[j]]) for j in (i, i + 1))
            states.append(left + right)
        return torch.cat([states[2 + block] for block in self.ends], dim=1)


class TorchNetwork(nn.Module):
    """The network of one code."""

    def __init__(self, space: NASNetSpace, code: np.ndarray):
        super().__init__()
        channels = {-1: space.stem_multiplier * space.channels}
        self.sources = [shape.sources for shape in space.shapes]
        self.stem = nn.Conv2d(space.image_channels, channels[-1], 3, padding=1, bias=False)
        self.stem_norm = norm(channels[-1])
        self.cells = nn.ModuleList()
        for i, shape in enumerate(space.shapes):
            cell = TorchCell(space, code, shape, [channels[source] for source in shape.sources])
            channels[i] = len(cell.ends) * shape.channels
            self.cells.append(cell)
        self.head = nn.Linear(channels[len(self.cells) - 1], space.classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``[n, channels, height, width]``."""
        outputs = {-1: self.stem_norm(self.stem(images))}
        for i, (cell, (before_last, last)) in enumerate(zip(self.cells, self.sources, strict=True)):
            outputs[i] = cell(outputs[before_last], outputs[last])
        return self.head(outputs[len(self.cells) - 1].mean(dim=(2, 3)))


def initialise(module: nn.Module) -> None:
    """Draws normal weights of variance ``2 / fan_in`` in convolutions and ``1 / fan_in`` in the head."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        fan_in = module.weight[0].numel()
        nn.init.normal_(module.weight, std=math.sqrt((2 if isinstance(module, nn.Conv2d) else 1) / fan_in))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def load_flax_weights(network: nn.Module, state: Mapping[Any, Any]) -> None:
    """Loads the weights and statistics of the Flax network of the same code: nested names, channels-last arrays."""
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    flat = {}

    def collect(tree: Mapping[Any, Any], path: tuple[str, ...]) -> None:
        for name, value in tree.items():
            if isinstance(value, Mapping):
                collect(value, (*path, str(name)))
            else:
                flat[".".join((*path, names[name]))] = torch.from_numpy(np.array(value))

    collect(state, ())
    for name, old in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            flat[name] = old
        elif flat[name].ndim == 4:
            flat[name] = flat[name].permute(3, 2, 0, 1)
        elif flat[name].ndim == 2:
            flat[name] = flat[name].T.reshape(old.shape)
    network.load_state_dict(flat)


def train_torch_candidate(
    space: NASNetSpace,
    code: np.ndarray,
    data: SearchData,
    config: TrainConfig,
    seed: int,
    device: str = "cpu",
    dtype: str = "float32",
) -> float:
    """Trains one candidate from scratch in eager mode and returns its accuracy on the validation split."""
    torch.manual_seed(seed)
    network = TorchNetwork(space, code).to(device)
    (images, labels), (held_out, answers) = _tensors(data.train, device), _tensors(data.validation, device)
    steps = config.steps(len(labels))
    epochs = -(-steps * config.batch_size // len(labels))
    order = torch.cat([torch.randperm(len(labels)) for _ in range(epochs)]).to(device)
    sgd, schedule = _optimizer(network, config, steps)
    network.train()
    for rows in order[: steps * config.batch_size].split(config.batch_size):
        _step(network, sgd, config, images[rows], labels[rows], device, dtype)
        schedule.step()
    network.eval()
    with torch.no_grad(), _autocast(device, dtype):
        right = sum(
            int((network(x).argmax(1) == y).sum())
            for x, y in zip(held_out.split(config.batch_size), answers.split(config.batch_size), strict=True)
        )
    return right / len(answers)


def step_seconds(
    space: NASNetSpace,
    code: np.ndarray,
    data: SearchData,
    config: TrainConfig,
    seed: int,
    steps: int,
    device: str = "cpu",
    dtype: str = "float32",
) -> float:
    """Returns the mean seconds per training step over `steps` steps, after three uncounted steps."""
    torch.manual_seed(seed)
    network = TorchNetwork(space, code).to(device).train()
    images, labels = _tensors(data.train, device)
    sgd, schedule = _optimizer(network, config, steps + WARM_UP)
    began = 0.0
    for i in range(steps + WARM_UP):
        if i == WARM_UP:
            _finish(device)
            began = time.perf_counter()
        rows = torch.randint(len(labels), (config.batch_size,), device=device)
        _step(network, sgd, config, images[rows], labels[rows], device, dtype)
        schedule.step()
    _finish(device)
    return (time.perf_counter() - began) / steps


def _tensors(split: Split, device: str) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(split.images).permute(0, 3, 1, 2).to(device)
    return images, torch.from_numpy(split.labels).long().to(device)


def _optimizer(
    network: nn.Module, config: TrainConfig, steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.CosineAnnealingLR]:
    sgd = torch.optim.SGD(
        network.parameters(),
        config.learning_rate,
        config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    return sgd, torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)


def _step(
    network: nn.Module,
    sgd: torch.optim.SGD,
    config: TrainConfig,
    images: Tensor,
    labels: Tensor,
    device: str,
    dtype: str,
) -> None:
    with _autocast(device, dtype):
        loss = functional.cross_entropy(network(images), labels, label_smoothing=config.label_smoothing)
    sgd.zero_grad()
    loss.backward()
    if config.clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    sgd.step()


def _autocast(device: str, dtype: str) -> torch.autocast:
    """Returns a context with bfloat16 products and float32 parameters; no effect for float32."""
    return torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")


def _finish(device: str) -> None:
    """Waits for all work queued on the device."""
    if device == "cuda":
        torch.cuda.synchronize()
