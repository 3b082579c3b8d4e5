"""Networks built for one code, looked at from outside: what they compute, and what they cost."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# These programs run for milliseconds: compiling them well is a waste of time.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def only(kind, state):
    """The entries of a network's pure state that are parameters, or batch statistics."""
    names = {"mean", "var"} if kind is nnx.BatchStat else {"kernel", "scale", "bias"}
    kept = {key: only(kind, value) if isinstance(value, dict) else value for key, value in state.items()}
    return {key: value for key, value in kept.items() if key in names or (isinstance(value, dict) and value)}


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def assert_near(ours, theirs, tolerance):
    """Equal trees of float32 but for differences of each array, norm over norm.

    Arrays smaller than a hundredth of all together, whose gradients may be nothing but roundings, count as if they
    were that large.
    """
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert {x.dtype for x in jax.tree.leaves((ours, theirs))} == {jnp.dtype(jnp.float32)}
    least = np.linalg.norm(flat(theirs)) / 100
    for (path, one), other in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        difference = np.linalg.norm(one - other) / max(np.linalg.norm(other), least)
        assert difference <= tolerance, jax.tree_util.keystr(path)


def run_network(network, x, weights):
    """Logits, batch statistics and gradient of the network built for one code, as the `gradient` fixture gives them."""
    graph, variables, stats = nnx.split(network, nnx.Param, nnx.BatchStat)

    def loss(variables):
        network = nnx.merge(graph, variables, stats, copy=True)
        logits = network(x)
        return jnp.sum(logits * weights), (logits, nnx.state(network, nnx.BatchStat))

    (_, (logits, stats)), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(variables)
    return logits, nnx.to_pure_dict(stats), nnx.to_pure_dict(gradient)


def infer(network, x):
    """Logits of a network, in one program: operation by operation each of them is compiled by itself."""
    graph, state = nnx.split(network)
    return quick_jit(lambda state: nnx.merge(graph, state)(x))(state)


def counted(network, x):
    """Multiply-adds of a forward pass of one image, and trainable parameters; `network` may be abstract."""
    graph, state = nnx.split(network)
    program = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, x)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(network, nnx.Param)))
    return multiply_adds(program.jaxpr), parameters


def multiply_adds(jaxpr):
    """Multiply-adds of the convolutions and matrix products of a program, all branches of conditionals included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # height, width, inputs per group, outputs
            total += math.prod(equation.outvars[0].aval.shape[:3]) * math.prod(kernel)
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            total += math.prod(equation.outvars[0].aval.shape) * inner
        total += sum(multiply_adds(inner) for inner in inner_programs(equation.params))
    return total


def inner_programs(params):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else [value]:
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
