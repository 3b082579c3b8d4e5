"""Deliberate faults in the library: the default tests have to notice each of them.

Every fault is one that a programmer could make, a replacement in one place that breaks one of the library's promises::

    python tests/faults.py                       # all
    python tests/faults.py replay-order limits   # these

The tests that should notice them first have to pass in an unchanged copy of the repository. Then each fault is put into
a copy of its own and its tests run there until the first one fails, which the table names. The exit code is 1 where a
fault goes unnoticed.
"""

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ".pytest_cache/programs"  # compiled programs (tests/conftest.py), which all copies share
PASSED, FAILED = 0, 1  # exit codes of pytest


@dataclasses.dataclass(frozen=True)
class Fault:
    """A replacement in one file.

    Attributes:
      name: name on the command line.
      breaks: promise that no longer holds.
      file: path of the file in the repository.
      old: correct text, which occurs once in the file.
      new: faulty text.
      tests: files or node ids of tests, one of which has to fail.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        "split-predicate",
        "a prediction at the threshold is on the good side",
        "lanas_jax/searchers/partition.py",
        'precision="highest") >= thresholds[:, None]',
        'precision="highest") > thresholds[:, None]',
        ("tests/searchers/test_partition.py::test_a_prediction_at_the_threshold_is_on_the_good_side",),
    ),
    Fault(
        "virtual-loss",
        "a pending trial is a visit, also after others were told",
        "lanas_jax/searchers/lanas.py",
        "done, current = history.done, history.used & (history.status != hist.PAST)",
        "done, current = history.done, (history.status == hist.DONE) | (history.status == hist.FAILED)",
        ("tests/searchers/test_lanas.py::test_a_pending_trial_stays_a_visit_when_others_are_told",),
    ),
    Fault(
        "canonical-codes",
        "equivalent codes are one trial",
        "lanas_jax/searchers/history.py",
        "    codes = space.canonical(codes)\n\n    def one(",
        "    codes = jnp.asarray(codes, jnp.int32)\n\n    def one(",
        ("tests/searchers/test_history.py",),
    ),
    Fault(
        "trial-keys",
        "a trial's key is that of the seed, folded with its number",
        "lanas_jax/study/replay.py",
        "return _fold_in(jax.random.key(seed), np.asarray(ids, np.uint32))",
        "return jax.random.split(jax.random.key(seed), len(ids))",
        ("tests/study/test_loop.py::test_trial_keys_are_folded_from_seed_and_number",),
    ),
    Fault(
        "replay-order",
        "a resumed search replays its events in the order in which they were",
        "lanas_jax/study/replay.py",
        "return [found[number] for number in sorted(found)]",
        "return list(found.values())",
        ("tests/study/test_replay.py::test_a_search_interrupted_anywhere_continues_to_the_same_trials",),
    ),
    Fault(
        "failed-trials",
        "a failed trial is told as failed, and a value of zero as a value",
        "lanas_jax/study/objectives.py",
        "[np.nan if trial.value is None or x is None else x for x in row]",
        "[x or np.nan for x in row]",
        ("tests/study/test_replay.py::test_a_value_of_zero_is_a_result_and_a_failure_is_none",),
    ),
    Fault(
        "evaluation-split",
        "test images are read once per network",
        "lanas_jax/trainer/train.py",
        "same = next((result.final for result in results if result.digest == folders.digest(record)), None)",
        "same = None",
        ("tests/commands/test_train.py::test_test_images_are_read_once_per_network_of_a_run",),
    ),
    Fault(
        "batch-norm",
        "running statistics move by the published momentum",
        "models/nasbench/nasbench101_network.py",
        "CONSTANTS = NormConstants(momentum=0.997)",
        "CONSTANTS = NormConstants(momentum=1 - 0.997)",  # as PyTorch counts it
        ("tests/models/nasbench/test_nasbench101.py::test_running_statistics_move_by_three_thousandths",),
    ),
    Fault(
        "extraction",
        "an extracted network gives the logits by which its code was valued",
        "lanas_jax/evaluators/one_shot.py",
        "valuation.supernet.extract(addressable(weights.params), statistics, code)",
        "valuation.supernet.extract(addressable(weights.params), addressable(weights.batch_stats), code)",
        ("tests/evaluators/test_one_shot.py::test_extracted_weights_give_the_logits_by_which_a_code_is_valued",),
    ),
    Fault(
        "checkpoints",
        "a checkpoint with other arrays than were saved is passed over",
        "lanas_jax/storage/saving.py",
        "total.update(np.ascontiguousarray(array).tobytes())",
        "total.update(str(array).encode())",  # which leaves out most of a large array
        ("tests/storage/test_checkpoints.py",),
    ),
    Fault(
        "limits",
        "a drawn code keeps every hard limit",
        "lanas_jax/searchers/selection.py",
        "return space.valid(codes) & partition.inside(tree, leaf, space.features(codes))",
        "return partition.inside(tree, leaf, space.features(codes))",
        ("tests/searchers/test_selection.py::test_a_draw_is_uniform_over_the_unseen_valid_codes_of_its_leaf[0.0]",),
    ),
    Fault(
        "trial-store",
        "a finished trial is never told again",
        "lanas_jax/storage/trials.py",
        'row["status"] != Status.PENDING',
        'row["status"] == Status.DONE',
        ("tests/storage/test_trials.py::test_finish_needs_pending_trials_and_an_outcome_for_each",),
    ),
)


def copy_repository(folder: Path) -> Path:
    """Copies what git tracks or would track into a new folder, which shares the compiled programs."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source = ROOT / name
        if source.is_file() or source.is_symlink():  # a tracked file may have been deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name, follow_symlinks=False)
    for place in (ROOT / PROGRAMS, folder / PROGRAMS):
        place.parent.mkdir(parents=True, exist_ok=True)
    (ROOT / PROGRAMS).mkdir(exist_ok=True)
    (folder / PROGRAMS).symlink_to(ROOT / PROGRAMS, target_is_directory=True)
    return folder


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a copy, whose packages it imports before any that are installed."""
    environment = os.environ | {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def run_tests(folder: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """Runs tests in a copy until one fails: the exit code of pytest, and the first failing test or the output."""
    done = python(folder, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", *tests)
    failing = re.search(r"^(?:FAILED|ERROR) (tests/.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return done.returncode, failing[1] if failing else done.stdout


def check_faults(faults: tuple[Fault, ...]) -> None:
    """Exits where a fault cannot be put in its place."""
    for fault in faults:
        found = (ROOT / fault.file).read_text().count(fault.old)
        if found != 1:
            sys.exit(f"{fault.name}: {fault.old!r} occurs {found} times in {fault.file}; expected it once")


def check_unchanged(faults: tuple[Fault, ...]) -> None:
    """Exits where tests fail, or run another library, without any fault."""
    with tempfile.TemporaryDirectory() as name:
        folder = copy_repository(Path(name).resolve())
        imported = python(folder, "-c", "from lanas_jax import models; print(models.__file__)").stdout
        if imported.strip() != str(folder / "lanas_jax" / "models" / "__init__.py"):
            sys.exit(f"the copy in {folder} is not what Python imports:\n{imported}")
        code, output = run_tests(folder, tuple(dict.fromkeys(test for fault in faults for test in fault.tests)))
        if code != PASSED:
            sys.exit(f"the tests do not pass without a fault: {output}")


def catch(fault: Fault) -> str | None:
    """Returns the first test that fails with the fault, or None."""
    with tempfile.TemporaryDirectory() as name:
        folder = copy_repository(Path(name).resolve())
        file = folder / fault.file
        file.write_text(file.read_text().replace(fault.old, fault.new))
        code, output = run_tests(folder, fault.tests)
        if code not in (PASSED, FAILED):
            sys.exit(f"{fault.name}: pytest ended with exit code {code}:\n{output}")
        return output if code == FAILED else None


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known = {fault.name: fault for fault in FAULTS}
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"faults to try; default: all ({', '.join(known)})")
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no fault {', '.join(unknown)}; choose from {', '.join(known)}")
    faults = tuple(known[name] for name in names) or FAULTS
    check_faults(faults)
    check_unchanged(faults)
    width, missed = max(len(fault.name) for fault in faults), 0
    print(f"{'fault':<{width}}  caught by")
    for fault in faults:
        test = catch(fault)
        missed += test is None
        print(f"{fault.name:<{width}}  {test or f'NOT CAUGHT: {fault.breaks}'}", flush=True)
    print(f"{len(faults) - missed} of {len(faults)} faults caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
