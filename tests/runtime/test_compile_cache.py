"""Compiled programs on disk: what is kept, bounded, repaired, and told of."""

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from lanas_jax.candidates.population import Population, forget_programs
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.runtime import compile_cache
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.small_network import SmallNetwork, stripes

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder where programs go, in a process that caches none; JAX's settings are as before afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(compile_cache.SWITCH, raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    with warnings.catch_warnings():
        yield compile_cache.default_folder()
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def told(folder):
    """What is told, from the moment on that programs are kept."""
    said = []
    compile_cache.enable_compile_cache(said.append)
    return said


def program():
    """A program that is traced and compiled anew at each call."""
    jax.clear_caches()
    return jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x)).lower(jnp.ones((8, 8)))


def kept(folder):
    return sorted(path.name for path in folder.glob("*-cache"))


def hits(made):
    """How many programs are found in the cache while one is made."""
    found = []

    def listen(event, **more):
        found.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        made()
    finally:
        jax.monitoring.unregister_event_listener(listen)
    return found.count("/jax/compilation_cache/cache_hits")


def test_programs_are_cached_and_found_again(folder, told):
    assert hits(lambda: compile_cache.compile_cached(program(), {})) == 0
    assert any(name.startswith("jit__lambda") for name in kept(folder))
    assert hits(lambda: compile_cache.compile_cached(program(), {})) >= 1
    assert told == []
    if os.name == "posix":
        assert folder.stat().st_mode & 0o077 == 0  # what is in there is run


@pytest.mark.slow
def test_a_population_from_the_cache_trains_to_the_same_bits(folder, told):
    data = SearchData(Split(*stripes(24)), Split(*stripes(12, seed=1)), 3)
    codes, keys = np.array([[0, 0], [1, 1]], np.int32), jax.random.split(jax.random.key(0), 2)
    results = []

    def train():
        jax.clear_caches()
        forget_programs()
        population = Population(SmallNetwork(), TrainConfig(epochs=2, batch_size=8), jax.devices()[:2], per_device=1)
        results.append(population.compile(data).run(codes, keys))

    train()
    assert hits(train) >= 3
    fresh, found = results
    for name in ("accuracy", "loss", "steps", "train_loss"):
        np.testing.assert_array_equal(getattr(found, name), getattr(fresh, name))


def test_a_damaged_program_is_compiled_again_and_replaced(folder, told):
    compile_cache.compile_cached(program(), {})
    (damaged,) = folder.glob("jit__lambda*-cache")
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    made, saved = compile_cache.compile_cached(program(), {})
    np.testing.assert_allclose(made(jnp.ones((8, 8))), 8 * np.sin(1) * np.cos(1), rtol=1e-6)
    assert saved == 0
    (line,) = told
    assert "recompiled" in line
    assert str(folder) in line
    assert hits(lambda: compile_cache.compile_cached(program(), {})) >= 1  # the new one
    assert len(told) == 1


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_reported_and_not_used(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    said = []
    compile_cache.enable_compile_cache(said.append)
    assert "Permission denied" in said[0]
    assert jax.config.jax_compilation_cache_dir is None


def test_a_file_in_the_folders_place_is_reported_and_left(folder):
    folder.parent.mkdir(parents=True)
    folder.write_text("mine")
    said = []
    compile_cache.enable_compile_cache(said.append)
    (line,) = said
    assert f"cannot write to {folder}" in line
    assert jax.config.jax_compilation_cache_dir is None
    assert folder.read_text() == "mine"


def test_an_error_while_writing_is_reported_once_and_breaks_nothing(folder, told):
    folder.rmdir()
    folder.write_text("")
    for _ in range(2):
        compile_cache.compile_cached(program(), {})
    assert len(told) == 1


def test_other_warnings_are_shown_as_before(folder, told, monkeypatch):
    with pytest.warns(UserWarning, match="something else"):
        warnings.warn("something else", stacklevel=1)
    assert told == []


def test_what_was_set_already_stays(folder, tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    compile_cache.enable_compile_cache(pytest.fail)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv(compile_cache.SWITCH, "off")
    compile_cache.enable_compile_cache(pytest.fail)
    assert jax.config.jax_compilation_cache_dir is None
    assert not folder.exists()


def test_caches_are_at_home_without_a_folder_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert compile_cache.default_folder() == tmp_path / ".cache" / "lanas_jax" / "compiled"


def test_what_was_not_used_for_longest_is_removed(tmp_path):
    for name, used, written in (("a", 4, 0), ("b", 1, 1), ("c", 0, 3), ("d", 2, 0)):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (used, written))
    compile_cache.prune_cache(tmp_path, 40)
    assert len(list(tmp_path.iterdir())) == 4
    compile_cache.prune_cache(tmp_path, 25)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c"}


def test_saved_seconds_are_those_of_the_program_and_never_negative(monkeypatch):
    """Two threads compile at the same time; reading may take longer than the whole seconds that were recorded."""
    lowered, both = program(), threading.Barrier(2, timeout=60)
    ready = lowered.compile()

    def compile(self, options):
        both.wait()
        jax.monitoring.record_event_duration_secs("/jax/compilation_cache/compile_time_saved_sec", options["seconds"])
        both.wait()
        return ready

    monkeypatch.setattr(type(lowered), "compile", compile)
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(compile_cache.compile_cached, (lowered, lowered), ({"seconds": 12.5}, {"seconds": -0.5}))
        assert [saved for _, saved in made] == [12.5, 0.0]
