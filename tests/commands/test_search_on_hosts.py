"""`lanas search` by two real processes: the search that one process would make, through the loss of either of them."""

import json
import os
import re
import shutil
import signal
import time

import pytest

from lanas_jax.storage.trial_file import TrialStoreError
from lanas_jax.storage.trials import TrialStore
from tests.energy_experiment import outcome
from tests.several_hosts import PATIENCE, ROOT, ends, start, start_two, two_hosts

LINEAR, TOY = ROOT / "tests" / "supernet" / "linear_experiment.py", ROOT / "tests" / "toy_experiment.py"
SMALL = ROOT / "tests" / "candidates" / "small_experiment.py"
DIGITS, QUICK = ROOT / "tests" / "commands" / "digits_search.py", ROOT / "tests" / "quick_experiment.py"
ENERGY, LACKS = ROOT / "tests" / "energy_experiment.py", "the evaluator reports no energy"
DEVICES = 4  # of each of two processes


def search(out, *words):
    return ("search", *words, "--out", out)


def trials(run):
    """All of the trials that does not depend on the clock."""
    with TrialStore.open(run / "trials.sqlite", read_only=True) as store:
        found = store.trials()
    return [(t.id, t.batch, t.code, t.key, t.status, t.value, t.reason, t.multiply_adds, t.parameters) for t in found]


def wait_for(run, number, processes):
    """Waits until as many trials are finished, or a process ends."""

    def finished():
        try:
            return sum(trial[5] is not None for trial in trials(run))
        except (OSError, TrialStoreError):
            return 0

    while finished() < number and all(process.poll() is None for process in processes):
        time.sleep(0.05)


def succeeded(processes):
    codes, outs, errors = ends(processes, 600)
    assert set(codes) == {0}, errors
    return outs


def lost(processes, killed):
    """What the process says that is left."""
    processes[killed].kill()
    left = processes[1 - killed]
    assert left.wait(timeout=PATIENCE) != 0
    _, _, errors = ends(processes)
    return errors[1 - killed]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_find_the_trials_of_one(tmp_path):
    """A search of digits by LaNAS, by two processes of four devices and by one of eight."""
    outs = succeeded(start_two(*search(run := tmp_path / "two", DIGITS), devices=DEVICES))
    assert f"digits: 24 trials, in {run}, on 8 devices of 2 hosts" in outs[0]
    assert (run / "report.html").exists()
    assert not [line for line in outs[1].splitlines() if not re.search(r"\[Gloo\]|peer ranks", line)]
    succeeded([start(*search(tmp_path / "one", DIGITS), devices=2 * DEVICES)])
    assert len(trials(run)) == 24
    assert trials(run) == trials(tmp_path / "one")


@pytest.mark.slow
def test_outcomes_of_two_processes_are_objectives(tmp_path):
    succeeded(start_two(*search(tmp_path / "two", ENERGY)))
    succeeded([start(*search(tmp_path / "one", ENERGY), devices=2)])
    found = []
    for run in (tmp_path / "two", tmp_path / "one"):
        with TrialStore.open(run / "trials.sqlite", read_only=True) as store:
            found.append([(t.code, t.value, dict(t.outcomes), t.reason) for t in store.trials()])
    assert found[0] == found[1]
    assert len(found[0]) == 16
    for code, value, outcomes, reason in found[0]:
        expected = outcome(code)
        assert outcomes == {"energy": expected.outcomes.get("energy")}
        assert (value, reason) == ((expected.value, None) if expected.outcomes else (None, LACKS))
    assert {reason for *_, reason in found[0]} == {None, LACKS}


LONG = (SMALL, "--strategy", "shared", "--epochs", 60)  # a second or more for each of two batches, of 4 and 3 codes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search by one process that nothing interrupts."""
    run = tmp_path_factory.mktemp("small") / "run"
    succeeded([start(*search(run, *LONG), devices=2)])
    return run


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("killed", [0, 1])
def test_a_search_continues_to_the_same_trials_after_a_process_was_lost(whole, tmp_path, killed):
    processes = start_two(*search(run := tmp_path / "run", *LONG))
    wait_for(run, 4, processes)
    said = lost(processes, killed)
    assert "a process was lost" in said
    assert f"To continue: lanas resume {run} --hosts.coordinator" in said.splitlines()[-1]
    assert said.endswith(" (on every host)\n")
    assert sum(trial[5] is not None for trial in trials(run)) == 4
    succeeded(start_two("resume", run))
    assert len(trials(run)) == 7
    assert trials(run) == trials(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "halving"),
    [
        ("branchless", "--no-halving"),
        ("specialised", "--halving"),
        ("auto", "--no-halving"),
    ],  # the shared program is that of `LONG`
)
def test_each_strategy_finds_the_trials_of_one_process(tmp_path, strategy, halving):
    """With specialised programs each process trains the candidates of its own devices, and tells the other."""
    words = (SMALL, "--strategy", strategy, halving)
    outs = succeeded(start_two(*search(tmp_path / "two", *words)))
    said = [line for line in outs[0].splitlines() if line.startswith("one program")]
    assert len(said) == (strategy == "auto")  # once, by process 0
    assert "one program" not in outs[1]
    succeeded([start(*search(tmp_path / "one", *words), devices=2)])
    assert trials(tmp_path / "two") == trials(tmp_path / "one")


@pytest.mark.slow
def test_the_winner_is_trained_by_both(tmp_path):
    outs = succeeded(start_two(*search(run := tmp_path / "run", QUICK, "--budget", 6, "--winner-epochs", 2)))
    assert "training the winner" in outs[0]
    found = json.loads((run / "final" / "final.json").read_text())
    assert found["devices"] == "2 x cpu"
    assert found["code"] == list(max(trials(run), key=lambda trial: trial[5])[2])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["one_shot", "few_shot"])
def test_supernets_are_trained_by_both_and_value_codes_on_both(tmp_path, kind):
    """The values are those of one process with the same supernet; a search that was killed is resumed to them."""
    run, one, cut = tmp_path / "two", tmp_path / "one", tmp_path / "cut"
    succeeded(start_two(*search(run, LINEAR, "--values", kind), devices=DEVICES))
    assert len(trials(run)) == 6
    processes = start_two(*search(cut, LINEAR, "--values", kind), devices=DEVICES)
    while not (cut / "supernet" / "metrics.csv").exists() and processes[1].poll() is None:
        time.sleep(0.01)
    lost(processes, 1)
    succeeded(start_two("resume", cut, devices=DEVICES))
    assert trials(cut) == trials(run)
    assert (cut / "supernet" / "metrics.csv").read_bytes() == (run / "supernet" / "metrics.csv").read_bytes()
    one.mkdir()
    if kind == "one_shot":
        succeeded(
            [start(*search(one / "run", LINEAR, "--values", kind, "--supernet", run / "supernet"), devices=2 * DEVICES)]
        )
        assert trials(one / "run") == trials(run)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_after_a_search_run_on_both_or_on_one(tmp_path):
    """What two processes write is what one writes from the same run."""
    both, one = tmp_path / "both", tmp_path / "one"
    succeeded(start_two(*search(both, LINEAR), devices=DEVICES))
    shutil.copytree(both, one)
    for command in (("extract",), ("rank", "--networks", 6), ("train", "--code", "1,0")):
        devices = 1 if command[0] == "train" else DEVICES  # of which each batch of 12 images is a multiple
        outs = succeeded(start_two(command[0], both, *command[1:], devices=devices))
        assert not [line for line in outs[1].splitlines() if not re.search(r"\[Gloo\]|peer ranks", line)]
        alone = ("--one-host",) if command[0] != "train" else ()
        succeeded([start(command[0], one, *command[1:], *alone, devices=2 * DEVICES if command[0] == "rank" else 1)])
    succeeded([start("export", run, "--one-host") for run in (both, one)])
    assert ranked(both) == ranked(one)
    for name in ("extracted/architecture.json", "final/export/architecture.json"):
        ours, theirs = (json.loads((run / name).read_text()) for run in (both, one))
        assert [ours[key] for key in ("code", "test_accuracy", "validation_accuracy")] == [
            theirs[key] for key in ("code", "test_accuracy", "validation_accuracy")
        ]
    ours, theirs = ((run / "extracted" / "weights.safetensors").read_bytes() for run in (both, one))
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_imagenet_experiments_run_on_both(tmp_path):
    """The chain of docs/imagenet.md: several programs a step, streamed images, extracted weights, a teacher."""
    supernet, run, teacher, winner = (tmp_path / name for name in ("supernet", "run", "teacher", "winner"))
    varied = (LINEAR, "--values", "varied")
    succeeded(start_two("supernet", *varied, "--out", supernet, devices=2))
    succeeded(start_two(*search(run, *varied, "--supernet", supernet), devices=2))
    succeeded([start("extract", run, "--code", "0,0", "--out", teacher, "--one-host")])
    succeeded([start("extract", run, "--out", winner, "--one-host")])
    outs = succeeded(start_two("train", run, "--weights", winner, "--teacher", teacher, devices=2))
    assert "test accuracy" in outs[0]
    succeeded([start("export", run)])
    best = list(max(trials(run), key=lambda trial: trial[5])[2])
    recorded = [
        json.loads((run / "final" / name).read_text()) for name in ("training.json", "export/architecture.json")
    ]
    assert recorded[0]["devices"] == "4 x cpu"
    assert recorded[0]["code"] == recorded[1]["code"] == best


def ranked(run):
    """The rows of a ranking but for their seconds."""
    return [row.rsplit(",", 1)[0] for row in (run / "ranking" / "ranking.csv").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_candidates_that_do_not_fit_on_one_host_train_one_per_device_on_all(tmp_path):
    """The second process has no memory for several candidates on a device."""
    roomy, tight, hosts = tmp_path / "roomy", tmp_path / "tight", two_hosts()
    succeeded([start(*search(roomy, LINEAR), devices=1)])
    shutil.copytree(roomy, tight)
    succeeded([start("rank", roomy, "--networks", 6, devices=1)])
    before = """
import jax, lanas_jax.candidates.population as p
begin = p.CompiledPopulation.begin
def tight(self, *arguments):
    if self.population.per_device > 1:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too small")
    return begin(self, *arguments)
p.CompiledPopulation.begin = tight
"""
    processes = [
        start("rank", tight, "--networks", 6, *hosts, "--hosts.index", i, devices=2, before=before if i else "")
        for i in range(2)
    ]
    outs = succeeded(processes)
    assert [out.count("per device do not fit into memory") for out in outs] == [1, 0]
    assert ranked(tight) == ranked(roomy)


def refused(processes, seconds=60):
    """The messages of processes that all end with code 2, in time."""
    began = time.monotonic()
    codes, _, errors = ends(processes)
    assert time.monotonic() - began < seconds
    assert codes == [2] * len(processes), errors
    return errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "differs"),
    [
        ([(TOY, "--budget", "4"), (TOY, "--budget", "6")], "settings"),
        ([(TOY,), ("COPY",)], "the command and in the experiment's file"),
        ([(TOY, "--out", "a"), (TOY, "--out", "b")], "the run folder"),
    ],
)
def test_a_process_with_another_command_is_refused(tmp_path, words, differs):
    copy = tmp_path / "toy_experiment.py"
    copy.write_text(TOY.read_text() + "\n# changed\n")
    hosts = two_hosts()
    processes = [
        start("search", *[copy if word == "COPY" else word for word in own], *hosts, "--hosts.index", i, cwd=tmp_path)
        for i, own in enumerate(words)
    ]
    for error in refused(processes):
        assert f"process 1 of 2 differs from process 0 in {differs}" in error
    assert [path.name for path in tmp_path.iterdir()] == ["toy_experiment.py"]


@pytest.mark.slow
def test_a_process_of_other_code_versions_and_devices_is_refused(tmp_path):
    hosts, out = two_hosts(), tmp_path / "run"
    other = """
import lanas_jax.commands.hosts as h
h.code_digest, h.software.versions = lambda: "other", lambda: {"jax": "0.0"}
"""
    processes = [
        start(*search(out, TOY), *hosts, "--hosts.index", i, devices=1 + i, before=i * other) for i in range(2)
    ]
    for error in refused(processes):
        assert (
            "process 1 of 2 differs from process 0 in lanas_jax's source and in software versions and in devices:"
            in error
        )
    assert not out.exists()


@pytest.mark.slow
def test_an_error_of_one_process_is_reported_by_all(tmp_path):
    """Process 1 does not see the folder; then it cannot load the experiment."""
    hosts, out = two_hosts(), tmp_path / "new" / "run"
    blind = "import lanas_jax.runtime.distributed as d; d._appears = lambda path: False"
    processes = [start(*search(out, TOY), *hosts, "--hosts.index", i, before=blind if i else "") for i in range(2)]
    for error in refused(processes):
        assert f"process 1 of 2 does not see the files of process 0 in {out}" in error
    assert not (tmp_path / "new").exists()
    hosts = two_hosts()
    broken = "import os; os.environ['BROKEN'] = '1'"
    source = tmp_path / "experiment.py"
    source.write_text(
        "import os\nif 'BROKEN' in os.environ:\n    raise ImportError('no images here')\n" + TOY.read_text()
    )
    processes = [start(*search(out, source), *hosts, "--hosts.index", i, before=broken if i else "") for i in range(2)]
    errors = refused(processes)
    assert "ImportError: no images here" in errors[1]
    assert "process 1 of 2: " in errors[0]
    assert "ImportError: no images here" in errors[0]
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_whose_partner_was_not_started_says_so(tmp_path, index):
    hosts = two_hosts()
    (error,) = refused(
        [start(*search(tmp_path / "run", TOY), *hosts, "--hosts.index", index, "--hosts.join-seconds", 3)], 30
    )
    expected = ["all 2 processes did not connect within 3 s", "process 0 does not answer at 127.0.0.1:"][index]
    assert error.startswith(f"lanas search: {expected}")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_slurm_says_who_is_who(tmp_path):
    """With the variables that srun sets for one process on each of two nodes, both of which are this machine."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost,localhost", "SLURM_NTASKS": "2"}
    processes = [
        start(
            *search(tmp_path / "run", TOY),
            "--hosts.automatic",
            more=job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": "0", "JAX_LOCAL_DEVICE_IDS": "0"},
        )
        for i in range(2)
    ]
    outs = succeeded(processes)
    assert "toy: 4 trials" in outs[0]
    assert "on 2 devices of 2 hosts" in outs[0]
    assert len(trials(tmp_path / "run")) == 4


@pytest.mark.slow
def test_several_hosts_on_a_machine_alone_are_refused(tmp_path):
    (error,) = refused([start(*search(tmp_path / "run", TOY), "--hosts.automatic")])
    assert error.startswith("lanas search: the processes could not connect: ")
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_a_run_that_exists_is_refused_by_all_and_extended_by_both_or_by_one(tmp_path):
    succeeded(start_two(*search(run := tmp_path / "run", TOY)))
    for error in refused(start_two(*search(run, TOY))):
        assert f"{run} already contains a run. To continue it: lanas resume" in error
    for error in refused(start_two("resume", tmp_path / "none")):
        assert f"there is no folder {tmp_path / 'none'}" in error
    outs = succeeded(start_two("resume", run, "--budget", 6))
    assert "budget 4, now 6" in outs[0]
    assert len(trials(run)) == 6
    (out,) = succeeded([start("resume", run, "--budget", 8)])
    assert "budget 6, now 8" in out
    assert len(trials(run)) == 8


@pytest.mark.slow
def test_of_two_searches_that_start_in_one_folder_one_runs(tmp_path):
    """As on two hosts without the options for several."""
    codes, _, errors = ends([start(*search(run := tmp_path / "run", TOY)) for _ in range(2)])
    assert sorted(codes) == [0, 2]
    refusals = (
        "is in use by another process: wait until it ends",
        "already contains a run. To continue it: lanas resume",
    )
    assert any(f"lanas search: {run} {refusal}" in errors[codes.index(2)] for refusal in refusals)
    assert len(trials(run)) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("stopped", "by"), [(0, signal.SIGINT), (1, signal.SIGTERM)])
def test_a_signal_to_one_stops_all_and_both_say_how_to_continue(tmp_path, stopped, by):
    processes = start_two(*search(run := tmp_path / "run", LINEAR, "--epochs", 400))
    while not (run / "supernet" / "metrics.csv").exists() and processes[1].poll() is None:
        time.sleep(0.01)
    processes[stopped].send_signal(by)
    codes, _, errors = ends(processes)
    assert codes[stopped] == 128 + by
    assert codes[1 - stopped] != 0
    for error in errors:
        assert f"lanas resume {run} --hosts.coordinator" in error.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("silent", [0, 1])
def test_a_process_that_no_longer_answers_ends_the_others(tmp_path, silent):
    """Its connection stays, but it sends no heartbeats."""
    processes = start_two(*search(run := tmp_path / "run", LINEAR, "--epochs", 4000))
    while not (run / "supernet" / "metrics.csv").exists() and processes[1].poll() is None:
        time.sleep(0.01)
    processes[silent].send_signal(signal.SIGSTOP)
    try:
        assert processes[1 - silent].wait(timeout=PATIENCE) != 0
    finally:
        processes[silent].kill()
    _, _, errors = ends(processes)
    assert errors[1 - silent].splitlines()[-1].startswith("lanas search: a process was lost. To continue: lanas resume")


@pytest.mark.slow
def test_a_shared_cache_of_programs_is_written_once_by_process_0(tmp_path):
    """Which then reads all of its programs. On CPUs, JAX's keys of process 1 are others."""
    cache = tmp_path / "cache"
    shared = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    count = """
import atexit, collections, jax
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.split("/")[-1]]))
atexit.register(lambda: print("counted", counts["compile_requests_use_cache"], counts["cache_hits"]))
"""
    counted, written = [], []
    for name in ("first", "second"):
        words = (*search(tmp_path / name, LINEAR), *two_hosts(), "--hosts.index")
        processes = [start(*words, i, before=count, more=shared, devices=DEVICES, writes="") for i in range(2)]
        outs = succeeded(processes)
        counted.append([tuple(map(int, re.search(r"counted (\d+) (\d+)", out).groups())) for out in outs])
        written.append({path.name: path.stat().st_mtime_ns for path in cache.glob("*-cache")})
    assert written[0] == written[1]
    assert len(written[0]) > 10
    requests, hits = counted[1][0]
    assert requests == hits > 10


@pytest.mark.slow
def test_train_names_the_process_that_cannot_begin(tmp_path):
    hosts = two_hosts()
    waits = "lambda name: d.agree('anything', name)"
    fails = "lambda name: (_ for _ in ()).throw(ValueError('no such run here'))"
    before = "import lanas_jax.commands.train as t; import lanas_jax.runtime.distributed as d; t.find_target = "
    processes = [
        start("train", tmp_path / "run", *hosts, "--hosts.index", i, before=before + do)
        for i, do in enumerate((waits, fails))
    ]
    errors = refused(processes)
    assert "no such run here" in errors[1]
    assert "process 1 of 2: no such run here" in errors[0]
