"""A space of gated recurrent cells, which contains the LSTM, the GRU and simple recurrent networks.

The third task of arXiv 1906.06832 searches recurrent cells for language modelling, but its space was never released.
This space is a graph of at most four gates around a memory c and an output h. With the symbol x_t, the logistic gates r
(reset), i (input), f (forget), o (output), and the products ``*`` by element::

    a   = W x_t + after * U (before * h)        before, after: r or 1
    c'  = f * c + i * candidate(a)              f: a gate, 1 - i, 1 or 0
    y   = output(c')
    h'  = y, o * y, or o * y + (1 - o) * h

Each gate is ``sigmoid(W x_t + U h + p * c + b)``, in which U h and the peephole p * c may be absent. Symbols are
one-hot, so that W x_t is a row of a table. `models/recurrent.py` builds the networks.

- The LSTM (with the gates f, i, o of x and h; both functions tanh) is one of the codes; so is the LSTM with peepholes,
  in which all three gates read the previous memory.
- The GRU has a reset gate of x and h, an input gate of x and h, and f = 1 - i; its output is the memory.
- The Elman network has no gate at all, and f = 0.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lanas_jax.spaces.base import CellGraph, Codes, Cost, SearchSpace
from lanas_jax.spaces.choices import Choice

READS = ("x", "x, h", "x, h, c")  # what a gate is computed from
RESET = ("none", *(f"before {reads}" for reads in READS[:2]), *(f"after {reads}" for reads in READS[:2]))
INPUT = ("none", *READS)
FORGET = (*READS, "1 - input", "one", "zero")
OUTPUT = ("none", *READS, *(f"mix {reads}" for reads in READS))
FUNCTIONS = ("tanh", "relu", "identity")  # of the candidate and of the output
GATES = ("reset", "input", "forget", "output")
COUPLED, ONE, ZERO = range(3, 6)  # of FORGET
TANH, RELU, IDENTITY = range(3)
MIX = 3  # of OUTPUT, later options mix the output with the previous one
RESETS, INPUTS, FORGETS, OUTPUTS, CANDIDATE, FUNCTION = range(6)  # positions in a code


@dataclasses.dataclass(frozen=True, init=False)
class RecurrentSpace(SearchSpace):
    """Gated recurrent cells of one layer, as language models of symbols.

    Args:
      units: size of the memory, of the output and of each gate.
      symbols: number of different symbols.

    Raises:
      ValueError: if a size is below one.
    """

    units: int
    symbols: int

    def __init__(self, *, units: int = 24, symbols: int = 32) -> None:
        self._set_sizes(units=units, symbols=symbols)
        super().__init__(
            (
                Choice("reset gate", RESET),
                Choice("input gate", INPUT),
                Choice("forget gate", FORGET),
                Choice("output gate", OUTPUT),
                Choice("candidate function", FUNCTIONS),
                Choice("output function", FUNCTIONS),
            )
        )

    def canonical(self, codes: Codes) -> Int[Array, "n dims"]:
        """Returns one code for all cells that compute the same function, with the same weights up to their names.

        - Without an input gate, f = 1 - i is 0.
        - The memory of a ReLU is nonnegative, so that ReLU as the output function is the identity.
        - If f is 0 and no gate has a peephole, the memory serves the output alone. Then ReLU after the input gate is
          ReLU before it. Without an input gate, so is tanh, and ReLU and tanh commute. Unless the output function is
          tanh or the output is mixed, input gate and output gate can change places: they multiply the same numbers.
        - A mixed output of such a memory without an input gate, ``o * y + (1 - o) * h``, is a memory with f = 1 - i.
        """
        codes = jnp.asarray(codes, jnp.int32)
        reset, enter, forget, leave, candidate, function = codes.T
        forget = jnp.where((enter == 0) & (forget == COUPLED), ZERO, forget)
        function = jnp.where((function == RELU) & (candidate == RELU), IDENTITY, function)
        serves = (forget == ZERO) & (enter < 3) & (leave != MIX) & (leave < 2 * MIX)
        moves = serves & (candidate == IDENTITY) & ((function == RELU) | ((function == TANH) & (enter == 0)))
        candidate, function = jnp.where(moves, function, candidate), jnp.where(moves, IDENTITY, function)
        orders = serves & (enter == 0) & (candidate == RELU) & (function == TANH)
        candidate, function = jnp.where(orders, TANH, candidate), jnp.where(orders, RELU, function)
        swaps = serves & (leave <= MIX) & (function != TANH) & (enter > leave)
        enter, leave = jnp.where(swaps, leave, enter), jnp.where(swaps, enter, leave)
        couples = serves & (enter == 0) & (leave > MIX) & (function == IDENTITY)
        enter, leave = jnp.where(couples, leave - MIX, enter), jnp.where(couples, 0, leave)
        return jnp.stack([reset, enter, jnp.where(couples, COUPLED, forget), leave, candidate, function], axis=1)

    def cost(self, codes: Codes) -> Cost:
        """Returns exact multiply-adds per symbol (matrix products and peepholes) and trainable parameters.

        Rows of tables are looked up, not multiplied.
        """
        there, of_h, of_c = gates_of(np.asarray(codes))
        units, symbols = self.units, self.symbols
        products = units**2 * (of_h.sum(axis=1) + 1) + units * of_c.sum(axis=1) + units * symbols
        tables = units * (symbols + 1) * (there.sum(axis=1) + 1) + symbols
        return Cost(products.astype(np.int64), (products + tables).astype(np.int64))

    @property
    def named_codes(self) -> Mapping[str, tuple[int, ...]]:
        """The LSTM, the LSTM with peepholes, the GRU (reset before or after the product) and the Elman network."""
        return {
            "lstm": (0, 2, 1, 2, TANH, TANH),
            "peephole-lstm": (0, 3, 2, 3, TANH, TANH),
            "gru": (2, 2, COUPLED, 0, TANH, IDENTITY),
            "gru-after": (4, 2, COUPLED, 0, TANH, IDENTITY),
            "elman": (0, 0, ZERO, 0, TANH, IDENTITY),
        }

    def graphs(self, code: Int[Array | np.ndarray, " dims"]) -> tuple[CellGraph, ...]:
        """Returns the cell as a graph: the inputs x, h and c, the gates, the candidate, the memory and the output."""
        array = self.check(np.asarray(code)[None])
        there, of_h, of_c = (found[0] for found in gates_of(array))
        reset, _, forget, leave, candidate, function = array[0]
        nodes = ["x", "h", "c", *(gate for gate, is_there in zip(GATES, there, strict=True) if is_there)]
        nodes += [f"candidate: {FUNCTIONS[candidate]}", "memory", f"output: {FUNCTIONS[function]}"]
        last = len(nodes)
        of, memory, output = last - 3, last - 2, last - 1
        at = {gate: nodes.index(gate) for gate in GATES if gate in nodes}
        edges = [(0, of, ""), (1, of, ""), (of, memory, ""), (memory, output, "")]
        if forget != ZERO:
            edges.append((2, memory, ""))
        targets = {"reset": of, "input": memory, "forget": memory, "output": output}
        labels = {"reset": RESET[reset].split()[0], "output": "mix" if leave > MIX else ""}
        for i, gate in enumerate(GATES):
            if gate in at:
                read = [v for v, is_read in enumerate((True, of_h[i], of_c[i])) if is_read]
                edges += [(v, at[gate], "") for v in read]
                edges.append((at[gate], targets[gate], labels.get(gate, "")))
        if leave > MIX:
            edges.append((1, output, ""))
        return (CellGraph("cell", tuple(nodes), tuple((int(i), int(j), text) for i, j, text in edges)),)


def gates_of(
    codes: Int[np.ndarray, "n dims"],
) -> tuple[Bool[np.ndarray, "n 4"], Bool[np.ndarray, "n 4"], Bool[np.ndarray, "n 4"]]:
    """Returns, for each of `GATES`, whether the cell has it, whether it reads h, and whether it reads c."""
    reset, enter, forget, leave = np.asarray(codes)[:, :4].T
    there = np.stack([reset > 0, enter > 0, forget < COUPLED, leave > 0], axis=1)
    reads = np.stack([(reset - 1) % 2, enter - 1, forget, (leave - 1) % 3], axis=1)
    return there, there & (reads >= 1), there & (reads >= 2)
