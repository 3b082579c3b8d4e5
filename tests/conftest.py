"""Test-run settings: several virtual devices, strict promotion, shapes checked at every call, no cache of programs."""

import os

import jax
from jaxtyping import install_import_hook

os.environ["LANAS_COMPILE_CACHE"] = "off"  # of the commands that tests start, too

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook(["lanas_jax", "models"], "beartype.beartype")
