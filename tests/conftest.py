"""Settings of a test run: several virtual devices, strict promotion, one cache of compiled programs, no optimisations.

Most of the suite's time is compilation. So XLA's optimizations are off, and compiled programs are cached in
``.pytest_cache``, where all workers, the processes that tests start, and later runs find them. With
``LANAS_CHECK_SHAPES=1``, as continuous integration runs the default tests, beartype checks shapes and dtypes at every
call.
"""

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import threading
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / ".pytest_cache" / "programs"
_RELEASE = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
QUICK_COMPILATION = " ".join(
    (
        # Programs are compiled in one piece, not in one for each thread: a sixth less processor time, and as many
        # processes as processors compile at once.
        "--xla_cpu_parallel_codegen_split_count=1",
        # The older code generator for fused operations compiles a network or a searcher in about half the time. jax
        # 0.12 has only the newer one, and refuses the flag.
        *(["--xla_cpu_use_fusion_emitters=false"] if _RELEASE < (0, 11) else []),
    )
)
# In the environment, so that processes which tests start share them; before JAX is imported, which reads them.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(PROGRAMS),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",  # which line of Python an operation comes from: 3 % of the time
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILATION}".strip(),
    "OPENBLAS_NUM_THREADS": "1",  # its threads wait for one another by spinning: 15 s in place of 0.5 on a busy machine
}

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from jax._src.interpreters import mlir  # noqa: E402
from jax._src.lib.mlir import ir  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

if os.environ.get("LANAS_CHECK_SHAPES") == "1":
    # Integers are floats to users, and to type checkers.
    install_import_hook(["lanas_jax"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

from lanas_jax.candidates.population import forget_programs  # noqa: E402

# A busy machine is no failure.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")
# Tracing makes many small objects that live long: the default thresholds look through them again and again.
gc.set_threshold(50_000, 20, 50)
jax.config.update("jax_num_cpu_devices", 4)
if not jax.config.jax_enable_x64:  # with it, what tests themselves compute has 64 bits, and what they test 32
    jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def reusing_contexts(make_context, times=10):
    """Returns a function that makes an MLIR context and gives it to the calling thread this many times.

    A program that is lowered within the lowering of another gets a context of its own: copies of it would be inserted
    where the other one stands.
    """
    last = threading.local()

    def context():
        if ir.Context.current is not None:
            return make_context()
        last.uses = getattr(last, "uses", times) + 1
        if last.uses > times:
            last.context, last.uses = make_context(), 1
        return last.context

    return context


# Each lowered program gets a context of its own, which takes 2 ms; jax 0.12 reuses them in the same way.
if _RELEASE < (0, 11):
    mlir.make_ir_context = reusing_contexts(mlir.make_ir_context)

MAPPINGS = 40_000  # of memory; Linux allows a process 65,530, and beyond them LLVM ends in a segmentation fault
RESIDENT = 3 << 30  # bytes of memory of a process, more where the machine has more
TESTS, EVERY = pytest.StashKey[int](), 50  # tests so far in this process, and tests between two counts of its mappings
SLOW_TIMEOUT = 1800  # seconds; of other tests see pyproject.toml
# Most of their tests wait for processes, and share nothing but programs in the cache: a function is a family.
APART = (
    "tests/commands/test_search_on_hosts.py",
    "tests/runtime/test_arithmetic.py",
    "tests/study/test_resume.py",
)
LONGEST = (  # families, and files of several, that take longest: workers begin with them, so that all end together
    "LaNAS on other spaces",
    "tests/models/nasnet/test_networks.py",
    "tests/runtime/test_arithmetic.py",
    "tests/commands/test_search_on_hosts.py",
    "searchers on pools",
    "tests/commands/test_supernet.py",
    "searchers on the lattice",
    "tests/trainer/test_hosts.py",
    "tests/test_packaging.py",
    "tests/study/test_resume.py",
    "ActionMCTS on other spaces",
    "tests/examples/test_notebooks.py",
    "tests/models/nasnet/test_supernet.py",
    "ParetoLaNAS on other spaces",
    "NSGA2 on other spaces",
    "LaNAS.paper on other spaces",
    "tests/experiments/test_fashion_one_shot.py",
    "tests/experiments/benchmarks/test_accelerators.py",
    "tests/evaluators/test_from_scratch.py",
    "tests/models/nasbench/test_nasbench201.py",
    "tests/models/mobilenet/test_supernet.py",
    "BayesianOptimization on other spaces",
    "LocalSearch on other spaces",
    "RegularizedEvolution on other spaces",
    "tests/trainer/test_kill.py",
    "tests/supernet/test_supernet_kill.py",
    "tests/cluster/test_ray_search.py",
    "tests/candidates/test_specialised.py",
    "tests/commands/test_left_runs.py",
)


def family(test):
    """The tests that run in one process because they share programs: those of a file, or searchers on one space.

    Of searchers on spaces that no other file has, those of one kind; of files whose tests share nothing, a function.
    """
    file, _, name = test.partition("::")
    if file in APART:
        return test.partition("[")[0]
    if not test.startswith("tests/searchers/"):
        return file
    if "lattice" in name:
        return "searchers on the lattice"
    kind, _, space = name.partition("[")[2].removesuffix("]").partition("-")
    elsewhere = file == "tests/searchers/test_conformance.py" and space not in ("", "pool")
    return f"{kind} on other spaces" if elsewhere else "searchers on pools"


def pytest_collection_modifyitems(items):
    """Puts the longest families first, and gives slow tests a longer timeout."""
    places = {name: place for place, name in enumerate(LONGEST)}

    def place(item):
        file = item.nodeid.partition("::")[0]
        return places.get(family(item.nodeid), places.get(file, len(places)))

    items.sort(key=place)
    for item in items:
        if item.get_closest_marker("slow") and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Gives the slow tests one worker more than there are processors: many wait for processes that they started."""
    return (os.cpu_count() or 1) + 1 if config.option.markexpr == "slow" else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hands out whole families."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFamily(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return family(nodeid)

    return ByFamily(config, log)


@pytest.fixture
def unchecked():
    """Without the checks of shapes: for tests of what users are told who hand over something of another type."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module", autouse=True)
def _few_programs():
    """Lets go of compiled programs where many are held: each takes several mappings of memory, and megabytes."""
    yield
    if _mappings() > MAPPINGS or _resident() > _most_resident():
        _forget_programs()


@pytest.fixture(autouse=True)
def _mappings_left(request):
    """Lets go of compiled programs within a long file, too, before there are no mappings left."""
    yield
    counted = request.config.stash.get(TESTS, 0) + 1
    request.config.stash[TESTS] = counted
    if counted % EVERY == 0 and _mappings() > MAPPINGS:
        _forget_programs()


def _forget_programs():
    jax.clear_caches()
    forget_programs()
    gc.collect()
    with contextlib.suppress(AttributeError):  # of other C libraries than glibc, which keeps what was freed
        ctypes.CDLL(None).malloc_trim(0)


def _mappings():
    """Returns the number of mappings of this process, or 0 where the system does not tell."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


def _most_resident() -> int:
    """Returns how much memory this process may take before it lets go of programs: half of its share, in bytes."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return max(RESIDENT, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (2 * workers))


def _resident() -> int:
    """Returns the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
