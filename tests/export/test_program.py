"""Programs that are handed to converters."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from lanas_jax.export.program import without_platforms
from lanas_jax.models import layers


def test_a_program_for_converters_has_one_form_and_no_calls():
    def function(x):
        return jax.nn.relu6(layers.max_pool(layers.convolution(x, kernel), 2)).sum((1, 2))

    kernel = jax.random.normal(jax.random.key(0), (3, 3, 1, 4))
    (batch,) = export.symbolic_shape("batch")
    replaced = without_platforms(function, (6, 6, 1), jnp.float32)
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 1))
    assert "platform_index" in str(jax.make_jaxpr(function)(x))
    program = export.export(jax.jit(replaced))(jax.ShapeDtypeStruct((batch, 6, 6, 1), jnp.float32))
    np.testing.assert_allclose(program.call(x), function(x), rtol=1e-5, atol=1e-5)
    names = {equation.primitive.name for equation in jax.make_jaxpr(replaced)(x).eqns}
    assert not names & {"platform_index", "cond", "jit", "custom_jvp_call", "custom_vjp_call", "pad"}
    assert not any(name.startswith("reduce_window") for name in names)
