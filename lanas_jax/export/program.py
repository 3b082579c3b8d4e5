"""A trained network and its weights as one file, for programs that do not have lanas_jax.

=============  =========================================================================================
``stablehlo``  `jax.export`: read by `jax.export.deserialize` on CPUs, NVIDIA and AMD GPUs, and TPUs
``onnx``       ONNX, converted by the package jax2onnx: read by onnxruntime and others
=============  =========================================================================================

The number of images is free in both. The program reads images before scaling, as `Exported` does, and returns logits.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax import export, lax
from jax.extend import core
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lanas_jax.export.load import ARCHITECTURE, Exported, MissingPackageError
from lanas_jax.export.write import refuse_used
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.runtime.errors import explain_error, in_brackets
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.saving import not_read_back
from lanas_jax.trainer.step import compute_logits

FILES = {"stablehlo": "network.stablehlo", "onnx": "network.onnx"}
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
MESSAGE = 300  # maximum number of characters of another package's error
SAMPLE = 3  # number of images on which a converted program is compared with the network
TOLERANCE = 1e-3  # maximum difference of the logits of a converted program, relative to the largest logit

LOAD = {
    "stablehlo": '''\
"""Runs the network of this folder on images: python load.py IMAGES.npy LOGITS.npy

IMAGES.npy holds {dtype}[n, {shape}], LOGITS.npy will hold float32[n, {classes}]. The script needs only jax and
flatbuffers.
"""

import sys
from pathlib import Path

import numpy as np
from jax import export

network = export.deserialize(bytearray((Path(__file__).parent / "network.stablehlo").read_bytes()))
np.save(sys.argv[2], np.asarray(network.call(np.load(sys.argv[1]))))
''',
    "onnx": '''\
"""Runs the network of this folder on images: python load.py IMAGES.npy LOGITS.npy

IMAGES.npy holds {dtype}[n, {shape}], LOGITS.npy will hold float32[n, {classes}]. The script needs only onnxruntime.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

network = onnxruntime.InferenceSession(Path(__file__).parent / "network.onnx")
(logits,) = network.run(["logits"], {{"images": np.load(sys.argv[1])}})
np.save(sys.argv[2], logits)
''',
}


def write_program(network: Exported, directory: Path, kind: Literal["stablehlo", "onnx"]) -> Path:
    """Writes a network as one program, its architecture, and a script that runs the program.

    Args:
      network: trained network.
      directory: new or empty folder to write to.
      kind: format of the program.

    Returns:
      The absolute path of the written folder.

    Raises:
      RunError: `directory` is not empty; the network needs to know the number of images; or jax2onnx cannot convert it,
        or converts it to another one.
      MissingPackageError: a package that the format needs is not installed.
      CheckpointError: the program differs when it is read back.
    """
    directory = local_path(directory).absolute()
    refuse_used(directory)
    program = stablehlo_program(network) if kind == "stablehlo" else onnx_program(network)
    about = network.architecture
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / FILES[kind]
    file.write_bytes(program)
    if file.read_bytes() != program:
        raise not_read_back(file)
    shape = ", ".join(map(str, about["image_shape"]))
    script = LOAD[kind].format(dtype=network.dtype, shape=shape, classes=about["classes"])
    (directory / "load.py").write_text(script, encoding="utf-8")
    (directory / ARCHITECTURE).write_text(json.dumps({**about, "format": kind}, indent=2) + "\n", encoding="utf-8")
    return directory


@in_32_bits
def stablehlo_program(network: Exported) -> bytes:
    """Returns a serialized `jax.export.Exported` for all `PLATFORMS`, which contains the weights.

    Raises:
      MissingPackageError: flatbuffers is not installed.
      RunError: the network needs to know the number of images.
    """
    try:
        import flatbuffers  # noqa: F401 - jax.export imports it
    except ImportError as error:
        raise MissingPackageError("flatbuffers is not installed: pip install 'lanas-jax[export]'") from error
    try:
        program = export.export(jax.jit(_logits_of(network)), platforms=PLATFORMS)(_images(network))
    except Exception as error:  # raised by the network's own code, where a size is not a number
        raise RunError(f"the network cannot be exported for any number of images: {_one_line(error)}") from error
    return bytes(program.serialize())


@in_32_bits
def onnx_program(network: Exported) -> bytes:
    """Returns a serialized ONNX model with the input ``images`` and the output ``logits``, which contains the weights.

    The model has the convolutions for accelerators and the poolings for CPUs. onnxruntime runs it on random images, and
    its logits must be those of the network.

    Raises:
      MissingPackageError: jax2onnx is not installed.
      RunError: jax2onnx cannot convert the network, or converts it to another one, or to one that cannot run.
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            "jax2onnx is not installed: pip install 'lanas-jax[onnx]', or use --format stablehlo"
        ) from error
    try:
        images = _images(network)
        function = without_platforms(_logits_of(network), images.shape[1:], images.dtype)
        model = jax2onnx.to_onnx(function, [images], input_names=["images"], output_names=["logits"])
    except Exception as error:  # raised for an unknown operation, or by the network's own code as above
        raise RunError(f"jax2onnx cannot convert this network: {_one_line(error)}") from error
    program = model.SerializeToString()
    shape = (SAMPLE, *network.architecture["image_shape"])
    random = np.random.default_rng(0)
    sample = random.integers(0, 256, shape) if network.dtype == np.uint8 else random.normal(size=shape)
    sample = sample.astype(network.dtype)
    try:
        (found,) = onnxruntime.InferenceSession(program).run(["logits"], {"images": sample})
    except Exception as error:  # onnxruntime has a class for each of its codes
        raise RunError(
            f"onnxruntime cannot run the converted network: {_one_line(error)}; use --format stablehlo"
        ) from error
    expected = np.asarray(network(sample))
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference <= TOLERANCE:
        raise RunError(
            f"the logits of the converted network differ by {difference:.1g} of the largest; use --format stablehlo"
        )
    return bytes(program)


def _one_line(error: Exception) -> str:
    return f"{' '.join(explain_error(error).split())[:MESSAGE]}{in_brackets(error)}"


def _logits_of(network: Exported) -> Callable[[Array], Float[Array, "n classes"]]:
    return lambda images: compute_logits(network.network, network.weights, images, network.scaling)


def _images(network: Exported) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a batch of any number of images."""
    (batch,) = export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *network.architecture["image_shape"]), network.dtype)


def without_platforms(
    function: Callable[[Array], Array], shape: tuple[int, ...], dtype: DTypeLike
) -> Callable[[Array], Array]:
    """Returns a function of primitives alone, without `jax.lax.platform_dependent`, which jax2onnx does not know.

    Args:
      function: function of a batch of images, each of which gives its own row of the result.
      shape: shape of an image.
      dtype: dtype of the images.
    """
    # Traced here and for one image, since jax2onnx replaces functions of JAX and the batch dimension when it traces.
    program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((1, *shape), dtype))

    def of_one(image: Array) -> Array:
        (output,) = _evaluate(program.jaxpr, program.consts, [image[None]])
        row: Array = output[0]
        return row

    return jax.vmap(of_one)


# Primitives that call a program, each with the name of its parameter that holds the program.
CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a program; inlines calls, and one form where the form depends on the platform."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, [value(variable) for variable in equation.invars]
        platforms = equation.params.get("branches_platforms")
        if name in CALLS:
            called = equation.params[CALLS[name]]
            outputs = _evaluate(called.jaxpr, called.consts, inputs)
        elif name == "platform_index":
            outputs = [None]  # only read by the equation below
        elif name == "cond" and platforms is not None:
            forms: dict[Any, Any] = dict(zip(platforms, equation.params["branches"], strict=True))
            # jax2onnx makes a pooling over all axes of a windowed reduction, which onnxruntime does not have.
            form = forms.get(("cpu",), forms[None]) if "reduce_window" in str(forms[None].jaxpr) else forms[None]
            outputs = _evaluate(form.jaxpr, form.consts, inputs[1:])
        elif name == "pad" and all(min(low, high) >= 0 == gap for low, high, gap in equation.params["padding_config"]):
            widths = [(int(low), int(high)) for low, high, _ in equation.params["padding_config"]]
            outputs = [_padded(inputs[0], inputs[1], widths)]
        else:
            output = equation.primitive.bind(*inputs, **equation.params)
            outputs = output if equation.primitive.multiple_results else [output]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [value(variable) for variable in jaxpr.outvars]


def _padded(x: Any, fill: Any, padding: Sequence[tuple[int, int]]) -> Any:
    """Pads an array by concatenation, since jax2onnx 0.17 does not pad arrays of unknown length."""
    for axis, (low, high) in enumerate(padding):
        shapes = [(*x.shape[:axis], width, *x.shape[axis + 1 :]) for width in (low, high)]
        before, after = ([lax.broadcast(fill, shape)] if shape[axis] else [] for shape in shapes)
        x = lax.concatenate([*before, x, *after], axis)
    return x
