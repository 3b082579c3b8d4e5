"""Programs of a few operations, compiled for v5e chips, and the excerpts of their compiled texts in `compiled/`.

The excerpts were written by ``python -m tests.planning.toy_programs`` (jax 0.10.2, libtpu 0.0.52). They have all
instructions; of the compiler's settings of an instruction, only the estimated cycles are left.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

FOLDER = Path(__file__).with_name("compiled")
SIDE = 256
MATRIX = ((SIDE, SIDE), jnp.float32)
NUMBER = ((), jnp.int32)


def layer(x, w):
    return jnp.tanh(x @ w)


def layers(length):
    return lambda x, w: lax.scan(lambda x, _: (layer(x, w), None), x, None, length=length)[0]


def nested(x, w):
    return lax.scan(lambda x, _: (jnp.sin(layers(3)(x, w)), None), x, None, length=5)[0]


def slices(x, w):
    return lax.scan(lambda x, w: (layer(x, w), jnp.sum(x)), x, w)


def switch(i, x, w):
    return lax.switch(i, [lambda x: x, lambda x: layer(x, w), lambda x: layer(layer(x, w), w)], x)


def choice(i, x, w):
    return lax.cond(i > 0, lambda x: x, lambda x: layer(x, w), x)


def unknown(n, x, w):
    return lax.fori_loop(0, n, lambda i, x: layer(x, w), x)


def rows(table, rows):
    return table[rows]


def sums(x, w):
    return lax.scan(lambda x, _: (lax.psum(layer(x, w), "chip"), None), x, None, length=3)[0]


def exchanged(x):
    everything = lax.all_gather(x, "chip", tiled=True)
    return jnp.sum(lax.ppermute(x, "chip", [(0, 1), (1, 2), (2, 3), (3, 0)])) + jnp.sum(everything * 2)


# name: function, types of its arguments, number of chips
PROGRAMS = {
    "scan": (layers(5), (MATRIX, MATRIX), 1),
    "nested_scan": (nested, (MATRIX, MATRIX), 1),
    "slices": (slices, (MATRIX, ((7, SIDE, SIDE), jnp.float32)), 1),
    "switch": (switch, (NUMBER, MATRIX, MATRIX), 1),
    "choice": (choice, (NUMBER, MATRIX, MATRIX), 1),
    "unknown_length": (unknown, (NUMBER, MATRIX, MATRIX), 1),
    "gather": (rows, (((600_000, SIDE), jnp.float32), ((128,), jnp.int32)), 1),
    "all_reduce": (sums, (MATRIX, MATRIX), 4),
    "exchange": (exchanged, (((1024, SIDE), jnp.float32),), 4),
}


def compile_program(name, devices):
    """Compiles a program for as many of the devices as it takes; returns the text."""
    function, types, chips = PROGRAMS[name]
    mesh = Mesh(np.array(devices[:chips]), ("chip",))
    spec = PartitionSpec("chip") if name == "exchange" else PartitionSpec()
    if chips > 1:
        out = PartitionSpec()
        function = jax.shard_map(function, mesh=mesh, in_specs=(spec,) * len(types), out_specs=out, check_vma=False)
    arguments = [jax.ShapeDtypeStruct(*of, sharding=NamedSharding(mesh, spec)) for of in types]
    return jax.jit(function).lower(*arguments).compile().as_text()


def excerpt(text):
    """Drops tables of source lines, and settings of instructions except for estimates."""
    lines = [text.splitlines()[0].split(",")[0]]
    for line in text.splitlines()[1:]:
        if re.match(r"\d|FileNames|FunctionNames|FileLocations|StackFrames", line):
            continue
        cycles = re.search(r'"estimated_cycles":"\d+"', line)
        line = re.sub(r', frontend_attributes=\{[^"]*"[^"]*"\}', "", line)
        line = re.sub(r", (metadata|sharding)=\{.*?\}(?=, |$)", "", line)
        kept = f', backend_config={{"window_config":{{{cycles[0]}}}}}' if cycles else ""
        lines.append(re.sub(r", backend_config=\{.*$", kept, line))
    return "\n".join(line for line in lines if line) + "\n"


def main():
    from lanas_jax.planning.topology import find_topology

    machines = {1: find_topology("v5e:1x1").devices, 4: find_topology("v5e:2x2").devices}
    FOLDER.mkdir(exist_ok=True)
    for name, (*_, chips) in PROGRAMS.items():
        (FOLDER / f"{name}.hlo").write_text(excerpt(compile_program(name, machines[chips])))


if __name__ == "__main__":
    main()
