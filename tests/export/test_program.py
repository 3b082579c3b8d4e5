"""Programs that are handed to converters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from lanas_jax.export.load import Exported
from lanas_jax.export.program import stablehlo_program, without_platforms
from lanas_jax.models import layers
from lanas_jax.storage.folder import RunError
from lanas_jax.trainer.task import Weights


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


class Counts:
    """A network that computes with the number of its images."""

    space, code, auxiliary = None, None, False

    def init(self, key):
        """Has no weights."""
        return {}, {}

    def apply(self, params, batch_stats, images, *, train, key, drop_path):
        """Logits that need the number as a Python integer."""
        return images.reshape(len(images), -1)[:, :2] * np.ones(range(len(images))[-1]).sum(), None, batch_stats


@pytest.mark.usefixtures("unchecked")
def test_a_network_that_needs_the_number_of_images_is_refused_in_one_sentence():
    network = Exported({"image_shape": [2, 2, 1]}, Counts(), Weights({}, {}), None)
    assert network(np.ones((3, 2, 2, 1), np.float32)).shape == (3, 2)
    with pytest.raises(RunError, match=r"^the network cannot be exported for any number of images: .* line \d+\)$"):
        stablehlo_program(network)
