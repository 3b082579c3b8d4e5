"""The networks that `lanas_jax.experiments.benchmarks.candidates` trains in PyTorch are the networks it trains here."""

import jax
import numpy as np
import pytest

from lanas_jax.experiments import digits
from lanas_jax.models.nasnet import NASNet
from lanas_jax.models.nasnet.network import network_state

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")


@pytest.mark.parametrize("seed", range(3))
def test_the_twin_gives_the_same_outputs_from_the_same_weights(seed):
    from lanas_jax.experiments.benchmarks import torch_nasnet

    space = digits.space(digits.Config())
    network = NASNet(space)
    code = np.asarray(space.random(jax.random.key(seed), 1))[0]
    params, stats = jax.jit(network.init)(jax.random.key(5), code)
    random = np.random.default_rng(seed)
    stats = jax.tree.map(lambda x: np.asarray(x) + random.uniform(0, 0.5, x.shape).astype(np.float32), stats)
    images = random.normal(size=(5, 8, 8, 1)).astype(np.float32)
    ours, _ = jax.jit(network.apply, static_argnames="train")(params, stats, code, images, train=False)

    twin = torch_nasnet.TorchNetwork(space, code)
    torch_nasnet.load_flax_weights(twin, network_state(space, params, stats, code))
    theirs = twin.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert sum(weight.numel() for weight in twin.parameters()) == space.cost(code[None]).parameters[0]
