"""64-bit mode and other settings of JAX, as users set them for code of their own."""

import concurrent.futures
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data, transfers_allowed
from lanas_jax.storage import software

ROOT = Path(__file__).parents[2]


@in_32_bits
def doubled(x):
    """A function of this package."""
    return 2 * jnp.asarray(x, jnp.float32) + jnp.arange(3).astype(jnp.float32)


def test_a_function_runs_in_32_bits_also_inside_a_program_of_64():
    with jax.enable_x64(True):
        assert jnp.arange(3).dtype == jnp.int64
        for function in (doubled, jax.jit(doubled)):
            assert function(np.zeros(3, np.float64)).dtype == jnp.float32
        assert jnp.arange(3).dtype == jnp.int64  # the mode is that of before


def test_the_mode_is_left_as_it_was_after_an_error_and_in_other_threads():
    @in_32_bits
    def failing():
        raise ValueError(jnp.arange(3).dtype)

    with jax.enable_x64(True):
        with pytest.raises(ValueError, match="int32"):
            failing()
        assert jnp.arange(3).dtype == jnp.int64
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        assert threads.submit(in_32_bits(lambda: jnp.arange(3).dtype)).result() == jnp.int32


def test_nan_is_data_where_it_is_declared_to_be():
    root = jax.jit(lambda x: jnp.sqrt(x))
    with jax.debug_nans(True):
        assert np.isnan(nan_is_data(root)(jnp.float32(-1.0)))
        with pytest.raises(FloatingPointError):
            root(jnp.float32(-1.0))


def test_programs_are_compiled_although_jit_is_disabled():
    """The user's own code is not, so that it can be debugged."""
    traced = jax.jit(lambda x: jnp.asarray(isinstance(x, jax.core.Tracer)))
    with jax.disable_jit():
        assert not traced(1.0)
        assert in_32_bits(traced)(1.0)
        assert not traced(1.0)


def test_implicit_transfers_are_disallowed_in_the_users_own_code_alone():
    space, key, values = lx.SearchSpace([lx.Choice("a", (1, 2, 3))]), jax.random.key(0), np.ones(2, np.float32)
    with jax.transfer_guard("disallow"):
        assert doubled(np.zeros(3)).shape == (3,)
        searcher = lx.RandomSearch(space)  # lists the codes of the space
        state, codes = searcher.ask(searcher.init(key), 2)
        searcher.tell(state, codes, values)
        assert transfers_allowed(lambda: jnp.asarray(values) + 1)().tolist() == [2, 2]
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            jnp.asarray(values)


def test_settings_that_change_numbers_are_recorded_where_they_are_not_the_defaults():
    usual = software.versions()
    assert not [name for name in usual if name.startswith("jax_")]
    with jax.default_matmul_precision("highest"), jax.threefry_partitionable(False):
        unusual = software.versions()
        assert unusual == usual | {"jax_default_matmul_precision": "highest", "jax_threefry_partitionable": "False"}
        assert software.differences(usual) == (
            "jax_default_matmul_precision None, now highest; jax_threefry_partitionable True, now False"
        )
        assert software.differences(usual, software.DRAWS) == "jax_threefry_partitionable True, now False"
        assert software.differences(unusual) == ""
    assert software.differences(unusual, software.DRAWS) == "jax_threefry_partitionable False, now True"


@pytest.mark.slow
def test_studies_pass_their_tests_in_a_process_of_64_bits():
    """What runs in 32 bits, with what tests compare it with in 64; test_conformance.py has such tests of searchers."""
    files = ("study/test_replay.py", "study/test_objectives.py", "evaluators/test_from_table.py")
    of_stops = "not interrupted_anywhere or stops1"  # one row for each searcher and batch
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", of_stops]
    done = subprocess.run(
        [*command, *(f"tests/{file}" for file in files)],
        cwd=ROOT,
        env=os.environ | {"JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_DEBUG_NANS": "1", "JAX_DEBUG_INFS": "1"},
        {
            "JAX_THREEFRY_PARTITIONABLE": "0",
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
        },
        {"JAX_ENABLE_X64": "1", "JAX_NUMPY_RANK_PROMOTION": "warn", "JAX_TRANSFER_GUARD": "disallow"},
    ],
    ids=lambda setting: "-".join(setting),
)
def test_a_search_with_failed_trials_and_its_resume_run_under_other_settings(setting, tmp_path):
    experiment, run = ROOT / "tests" / "quick_experiment.py", tmp_path / "run"

    def python(code, *arguments, **more):
        environment = os.environ | {"PYTHONPATH": str(ROOT), **setting, **more}
        environment["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} {setting.get('XLA_FLAGS', '')}"
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    lanas = functools.partial(python, "from lanas_jax.cli import run_and_exit; run_and_exit()")

    settings = ("--searcher", "lanas", "--budget", "16", "--fail-below", "4")
    assert lanas("search", experiment, "--out", run, *settings, KILL="tell 2").returncode == -9
    resumed = lanas("resume", run)
    assert resumed.returncode == 0, resumed.stderr
    reading = (
        "import sys; from lanas_jax.cli import main; sys.exit(max(main([command, sys.argv[1]]) for command in {}))"
    )
    assert python(reading.format(("trials", "tree", "report")), run).returncode == 0
    if "JAX_DEFAULT_PRNG_IMPL" in setting or "JAX_THREEFRY_PARTITIONABLE" in setting:
        usual = {"JAX_DEFAULT_PRNG_IMPL": "threefry2x32", "JAX_THREEFRY_PARTITIONABLE": "1"}
        undone = {name: usual[name] for name in setting.keys() & usual.keys()}
        other = lanas("resume", run, **undone)
        assert other.returncode == 2
        assert "was started with other random numbers" in other.stderr
        assert "Traceback" not in other.stderr
