"""Language models with one gated recurrent cell, in two forms that give the same outputs from the same weights.

`RecurrentModels.apply` takes the code of `lanas_jax.spaces.recurrent` as data: one compiled program trains any cells,
many of them vmapped. `RecurrentModels.specialise` returns the module of one code, which has only the parameters of that
code. The code-as-data form holds the union of the weights that codes may need. It computes all gates with one matrix
product and selects; weights that a code does not use have zero gradient.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.spaces.recurrent import (
    CANDIDATE,
    COUPLED,
    FORGETS,
    FUNCTION,
    GATES,
    IDENTITY,
    INPUTS,
    MIX,
    ONE,
    OUTPUTS,
    RELU,
    RESETS,
    RecurrentSpace,
    gates_of,
)

Tree = dict[str, Any]
Code = Int[Array | np.ndarray, " dims"]


class CellState(NamedTuple):
    """What a cell remembers of the symbols before."""

    output: Float[Array, "n units"]
    memory: Float[Array, "n units"]


@dataclasses.dataclass(frozen=True)
class RecurrentModels:
    """The family of all language models of a space.

    Args:
      space: search space, which defines the sizes of the models.
    """

    space: RecurrentSpace

    def init(self, key: PRNGKeyArray) -> Tree:
        """Returns initial weights for any code. The key is consumed.

        Rows of tables are uniform within 1 of zero, all other weights within ``1 / sqrt(units)``. The forget gate has
        the bias 1, all others 0.
        """
        units, symbols = self.space.units, self.space.symbols
        keys = jax.random.split(key, 5)

        def uniform(i: int, *shape: int, bound: float = units**-0.5) -> Array:
            return jax.random.uniform(keys[i], shape, minval=-bound, maxval=bound)

        return {
            "table": uniform(0, symbols, len(GATES) + 1, units, bound=1.0),  # the last one is the candidate's
            "bias": jnp.zeros((len(GATES) + 1, units)).at[GATES.index("forget")].set(1.0),
            "gates": uniform(1, units, len(GATES), units),
            "candidate": uniform(2, units, units),
            "peepholes": uniform(3, len(GATES), units),
            "head": {"kernel": uniform(4, units, symbols), "bias": jnp.zeros(symbols)},
        }

    def state(self, n: int) -> CellState:
        """Returns the state of `n` sequences before their first symbol: zeros."""
        return CellState(*jnp.zeros((2, n, self.space.units)))

    def apply(
        self, params: Tree, code: Code, symbols: Int[Array, "length n"], state: CellState
    ) -> tuple[Float[Array, "length n symbols"], CellState]:
        """Returns logits of the symbols that follow, and the state after the last one; `code` may be traced.

        Args:
          params: weights from `init` or from a later step.
          code: architecture, ``int32[dims]``.
          symbols: sequences of symbols, one per column.
          state: state before the first symbols.
        """
        code = jnp.asarray(code)
        reset, enter, forget, leave = code[RESETS], code[INPUTS], code[FORGETS], code[OUTPUTS]
        reads = jnp.stack([(reset - 1) % 2, enter - 1, forget, (leave - 1) % 3])[None, :, None]
        is_before, is_after = (reset == 1) | (reset == 2), reset > 2
        gates = params["gates"].reshape(self.space.units, -1)
        peepholes = jnp.where(reads >= 2, params["peepholes"][None], 0.0)
        # Products with one-hot symbols: their gradient is a product too, not a scattered sum.
        rows = jnp.tensordot(jax.nn.one_hot(symbols, self.space.symbols), params["table"], 1)
        rows = rows + params["bias"][None, None]

        def step(state: CellState, row: Float[Array, "n 5 units"]) -> tuple[CellState, Float[Array, "n units"]]:
            h, c = state
            products = (h @ gates).reshape(len(h), *peepholes.shape[1:])
            opened = jax.nn.sigmoid(row[:, :-1] + jnp.where(reads >= 1, products, 0.0) + c[:, None] * peepholes)
            r, i, f, o = jnp.moveaxis(opened, 1, 0)
            product = (h * jnp.where(is_before, r, 1.0)) @ params["candidate"]
            candidate = _select(code[CANDIDATE], row[:, -1] + product * jnp.where(is_after, r, 1.0))
            i = jnp.where(enter > 0, i, 1.0)
            f = jnp.where(forget < COUPLED, f, jnp.where(forget == COUPLED, 1 - i, jnp.where(forget == ONE, 1.0, 0.0)))
            c = f * c + i * candidate
            y = _select(code[FUNCTION], c)
            gated = o * y + jnp.where(leave > MIX, (1 - o) * h, 0.0)
            h = jnp.where(leave > 0, gated, y)
            return CellState(h, c), h

        state, outputs = jax.lax.scan(step, state, rows)
        return outputs @ params["head"]["kernel"] + params["head"]["bias"][None, None], state

    def specialise(self, params: Tree, code: Code) -> "RecurrentNetwork":
        """Returns the module of one code, with the weights that the code uses.

        Raises:
          ValueError: the code has the wrong length or an integer out of range.
        """
        return RecurrentNetwork(self.space.check(np.asarray(code)[None])[0], params)


class RecurrentNetwork(nnx.Module):
    """The language model of one code.

    Args:
      code: architecture, ``int32[dims]``.
      params: weights in the form of `RecurrentModels.init`; those that the code does not use are left out.
    """

    def __init__(self, code: Int[np.ndarray, " dims"], params: Tree) -> None:
        there, of_h, of_c = (found[0] for found in gates_of(code[None]))
        self.code = tuple(map(int, code))
        gates: Tree = {}
        for g, name in enumerate(GATES):
            if there[g]:
                parts: Tree = {"table": params["table"][:, g], "bias": params["bias"][g]}
                parts |= {"kernel": params["gates"][:, g]} if of_h[g] else {}
                parts |= {"peephole": params["peepholes"][g]} if of_c[g] else {}
                gates[name] = {part: nnx.Param(array) for part, array in parts.items()}
        self.gates = nnx.data(gates)
        self.table, self.bias = nnx.Param(params["table"][:, -1]), nnx.Param(params["bias"][-1])
        self.kernel = nnx.Param(params["candidate"])
        self.head, self.head_bias = nnx.Param(params["head"]["kernel"]), nnx.Param(params["head"]["bias"])

    def step(self, symbols: Int[Array, " n"], state: CellState) -> tuple[Float[Array, "n symbols"], CellState]:
        """Returns logits of the symbols that follow, and the state after one symbol of each sequence."""
        h, c = state
        reset, _, forget, leave, candidate, function = self.code
        opened = {name: self._gate(name, symbols, h, c) for name in self.gates}
        r, i = opened.get("reset", 1.0), opened.get("input", 1.0)
        before, after = (r, 1.0) if reset <= 2 else (1.0, r)
        product = (h * before) @ self.kernel[...]
        new = i * _function(candidate, self.table[...][symbols] + self.bias[...][None] + product * after)
        if forget < COUPLED:
            new = opened["forget"] * c + new
        elif forget == COUPLED:
            new = (1 - i) * c + new
        elif forget == ONE:
            new = c + new
        y = _function(function, new)
        if leave:
            o = opened["output"]
            y = o * y + (1 - o) * h if leave > MIX else o * y
        return y @ self.head[...] + self.head_bias[...][None], CellState(y, new)

    def __call__(
        self, symbols: Int[Array, "length n"], state: CellState
    ) -> tuple[Float[Array, "length n symbols"], CellState]:
        """Returns logits of the symbols that follow, and the state after the last one."""

        def step(state: CellState, now: Int[Array, " n"]) -> tuple[CellState, Float[Array, "n symbols"]]:
            logits, state = self.step(now, state)
            return state, logits

        state, logits = jax.lax.scan(step, state, symbols)
        return logits, state

    def _gate(self, name: str, symbols: Int[Array, " n"], h: Array, c: Array) -> Float[Array, "n units"]:
        parts = {part: weight[...] for part, weight in self.gates[name].items()}
        total = parts["table"][symbols] + parts["bias"][None]
        if "kernel" in parts:
            total = total + h @ parts["kernel"]
        if "peephole" in parts:
            total = total + c * parts["peephole"][None]
        return jax.nn.sigmoid(total)


@dataclasses.dataclass(frozen=True)
class FinalRecurrent:
    """The language model of one code for long trainings, with the parameters of `RecurrentNetwork` alone.

    Args:
      space: search space, which defines the size of the model.
      code: architecture.
    """

    space: RecurrentSpace
    code: tuple[int, ...]

    def init(self, key: PRNGKeyArray) -> Tree:
        """Returns initial parameters, distributed as those of `RecurrentModels`. The key is consumed."""
        params: Tree = nnx.to_pure_dict(nnx.state(self._network(RecurrentModels(self.space).init(key))))
        return params

    def state(self, n: int) -> CellState:
        """Returns the state of `n` sequences before their first symbol: zeros."""
        return RecurrentModels(self.space).state(n)

    def apply(
        self, params: Tree, symbols: Int[Array, "length n"], state: CellState
    ) -> tuple[Float[Array, "length n symbols"], CellState]:
        """Returns logits of the symbols that follow, and the state after the last one.

        Args:
          params: parameters from `init` or from a later step.
          symbols: sequences of symbols, one per column.
          state: state before the first symbols.
        """
        network = self._network(RecurrentModels(self.space).init(jax.random.key(0)))
        nnx.update(network, params)
        return network(symbols, state)

    def _network(self, params: Tree) -> RecurrentNetwork:
        return RecurrentModels(self.space).specialise(params, np.array(self.code, np.int32))


def _function(kind: int, x: Float[Array, "n units"]) -> Float[Array, "n units"]:
    return x if kind == IDENTITY else jnp.maximum(x, 0.0) if kind == RELU else jnp.tanh(x)


def _select(kind: Int[Array, ""], x: Float[Array, "n units"]) -> Float[Array, "n units"]:
    return jnp.where(kind == IDENTITY, x, jnp.where(kind == RELU, jnp.maximum(x, 0.0), jnp.tanh(x)))
