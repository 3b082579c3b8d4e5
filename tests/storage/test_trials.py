"""The trial store: what goes in comes out, batches are whole or absent, files that are not ours stay as they are."""

import contextlib
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lanas_jax.evaluators.base import Outcome
from lanas_jax.storage.trial import Status, by_tell
from lanas_jax.storage.trial_file import TrialStoreError
from lanas_jax.storage.trials import TrialStore

SOFTWARE = {"python": "3.11.0", "jax": "0.10.0"}
CODES = [(0, 1, 2), (2, 1, 0), (1, 1, 1)]
KEYS = ["00000000deadbeef", "0000000100000000", "00000002ffffffff"]
OUTCOMES = [
    Outcome(0.1 + 0.2, multiply_adds=123_456_789_012, parameters=7, compile_seconds=1.5, train_seconds=0.25),
    Outcome(None, reason="the loss is NaN at step 3", train_seconds=0.1),
    Outcome(1e-300),
]


@pytest.fixture
def path(tmp_path):
    with TrialStore.create(tmp_path / "trials.sqlite") as store:
        store.add_pending(0, CODES, KEYS, SOFTWARE)
        store.finish([0, 1, 2], OUTCOMES, SOFTWARE, started=100.0)
        store.add_pending(1, [(0, 0, 0)], ["00"], SOFTWARE)
    return tmp_path / "trials.sqlite"


def test_what_goes_in_comes_out(path):
    with TrialStore.open(path) as store:
        done, failed, tiny, pending = store.trials()
    assert [trial.id for trial in (done, failed, tiny, pending)] == [0, 1, 2, 3]
    assert [trial.code for trial in (done, failed, tiny)] == CODES
    assert [trial.key for trial in (done, failed, tiny)] == KEYS
    assert done.value == 0.1 + 0.2  # to the last bit
    assert tiny.value == 1e-300
    assert (done.multiply_adds, done.parameters, done.compile_seconds, done.train_seconds) == (
        123456789012,
        7,
        1.5,
        0.25,
    )
    assert (done.status, done.reason, done.software, done.started) == (Status.DONE, None, SOFTWARE, 100.0)
    assert (failed.status, failed.value, failed.reason) == (Status.FAILED, None, "the loss is NaN at step 3")
    assert (pending.status, pending.value, pending.finished, pending.batch) == (Status.PENDING, None, None, 1)
    assert done.finished is not None
    assert done.finished > 100.0


@pytest.mark.parametrize(("names", "version"), [((), 4), (("energy", "order"), 5)])
def test_outcomes_have_columns_of_their_own_and_their_own_format(tmp_path, names, version):
    outcomes = {"energy": 0.1, "order": float("nan"), "other": 3.0}
    with TrialStore.create(tmp_path / "trials.sqlite", names) as store:
        store.add_pending(0, CODES[:2], KEYS[:2], SOFTWARE)
        store.finish([0], [Outcome(1.0, outcomes=outcomes)], SOFTWARE, started=0.0)
    with TrialStore.open(tmp_path / "trials.sqlite", read_only=True) as store:
        done, pending = store.trials()
    assert done.outcomes == ({"energy": 0.1, "order": None} if names else {})
    assert pending.outcomes == dict.fromkeys(names)
    with sqlite3.connect(tmp_path / "trials.sqlite") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
    connection.close()


def test_tables_without_outcomes_are_those_of_files_written_before(path):
    with contextlib.closing(sqlite3.connect(path)) as file:
        schema = [row[0] for row in file.execute("SELECT sql FROM sqlite_schema ORDER BY name")]
    assert zlib.crc32("\n".join(schema).encode()) == 69_204_320  # of files of format 4, letter by letter


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_value_that_is_not_finite_is_a_failure(tmp_path, value):
    with TrialStore.create(tmp_path / "trials.sqlite") as store:
        store.add_pending(0, CODES[:1], KEYS[:1], SOFTWARE)
        (trial,) = store.finish([0], [Outcome(value)], SOFTWARE, started=0.0)
        assert store.trials() == [trial]
    assert trial.status == Status.FAILED
    assert trial.value is None
    assert trial.reason == f"the value is {value}"


def test_finish_needs_pending_trials_and_an_outcome_for_each(path):
    with TrialStore.open(path) as store:
        before = store.trials()
        for trials, wrong in (([0, 3], "0"), ([1, 3], "1"), ([3, 7], "7")):  # done, failed, not there
            with pytest.raises(ValueError, match=f"trial {wrong} is not pending"):
                store.finish(trials, OUTCOMES[:2], SOFTWARE, started=0.0)
        with pytest.raises(ValueError, match="got 3 outcomes for 1 trials"):
            store.finish([3], OUTCOMES, SOFTWARE, started=0.0)
        assert store.trials() == before


def test_events_are_numbered_in_their_order_and_say_which_trials_were_told_together(path):
    with TrialStore.open(path) as store:
        store.add_pending(2, CODES[:2], KEYS[:2], SOFTWARE)
        store.finish([5], OUTCOMES[:1], SOFTWARE, started=0.0, tries=2, worker="node 1")
        store.finish([3, 4], OUTCOMES[:2], SOFTWARE, started=0.0)
        trials = store.trials()
    assert [trial.asked for trial in trials] == [0, 0, 0, 2, 3, 3]
    assert [trial.told for trial in trials] == [1, 1, 1, 5, 5, 4]
    assert [[trial.id for trial in group] for group in by_tell(trials)] == [[0, 1, 2], [5], [3, 4]]
    assert (trials[5].tries, trials[5].worker, trials[4].tries, trials[4].worker) == (2, "node 1", 1, None)


def write_batch_with_a_bad_second_row(store, trial):
    with store._transaction():
        store._write("INSERT", dataclasses.replace(trial, id=4, batch=2))
        store._write("INSERT", dataclasses.replace(trial, id=5, batch=2, value=0.5))  # pending, yet with a value


def test_batch_is_written_whole_or_not_at_all(path):
    with TrialStore.open(path) as store:
        before = store.trials()
        with pytest.raises(ValueError, match="zip"):
            store.add_pending(2, CODES, KEYS[:2], SOFTWARE)
        with pytest.raises(sqlite3.IntegrityError):
            write_batch_with_a_bad_second_row(store, before[3])
        assert store.trials() == before


def test_create_refuses_an_existing_file(path):
    before = path.read_bytes()
    with pytest.raises(TrialStoreError, match="already exists"):
        TrialStore.create(path)
    assert path.read_bytes() == before


def test_read_only_opens_in_a_folder_without_write_permission(path):
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with TrialStore.open(path, read_only=True) as store:
            assert len(store.trials()) == 4
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                store.add_pending(2, CODES[:1], KEYS[:1], SOFTWARE)
    finally:
        path.parent.chmod(0o755)


def test_paths_with_characters_that_mean_something_in_a_uri(tmp_path):
    path = tmp_path / "50% #1 ?mode=memory&" / "trials.sqlite"
    path.parent.mkdir()
    TrialStore.create(path).close()
    assert path.stat().st_size > 0
    with TrialStore.open(path) as store:
        assert store.trials() == []


def foreign_sqlite(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE trials (id INTEGER, mine TEXT)")
    connection.close()


def foreign_tables(path):
    """Our mark, but not our tables."""
    foreign_sqlite(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {0x4C614E41}")
        connection.execute("PRAGMA user_version = 4")
    connection.close()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("id,code,value\n0,1,0.5\n" * 20), "not a trials file of lanas_jax"),
        (lambda path: path.write_bytes(b""), "not a trials file of lanas_jax"),
        (lambda path: path.write_bytes(bytes(range(256)) * 64), "not a trials file of lanas_jax"),
        (lambda path: path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 8176), "SQLite file of another program"),
        (foreign_sqlite, "SQLite file of another program"),
        (foreign_tables, "damaged"),
    ],
    ids=["text", "empty", "garbage", "sqlite mark, then garbage", "foreign sqlite", "foreign tables"],
)
def test_foreign_file_is_named_and_untouched(tmp_path, write, message):
    path = tmp_path / "trials.sqlite"
    write(path)
    before = path.read_bytes()
    with pytest.raises(TrialStoreError, match=message) as error:
        TrialStore.open(path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["trials.sqlite"]


def test_missing_file_is_named_and_not_created(tmp_path):
    with pytest.raises(TrialStoreError, match="there is no trials file"):
        TrialStore.open(tmp_path / "trials.sqlite")
    assert os.listdir(tmp_path) == []


def test_newer_format_is_refused(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 6")
    connection.close()
    with pytest.raises(TrialStoreError, match="has format 6, but this lanas_jax reads formats 4 and 5"):
        TrialStore.open(path)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.75, 0.99])
def test_truncated_file_is_damaged_and_untouched(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    before = path.read_bytes()
    with pytest.raises(TrialStoreError, match="damaged"):
        TrialStore.open(path)
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "trials.sqlite"
    with TrialStore.create(path) as store:
        store.add_pending(0, CODES, KEYS, SOFTWARE)
        store.finish([0, 1, 2], OUTCOMES, SOFTWARE, started=100.0)
    return path


@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bits_are_noticed_or_harmless(written, tmp_path, position, flip):
    """Wherever one byte of the file changes: an error that says so, or exactly the trials that were written."""
    with TrialStore.open(written) as store:
        trials = store.trials()
    path, content = tmp_path / "trials.sqlite", bytearray(written.read_bytes())
    content[int(position * len(content))] ^= flip
    path.write_bytes(content)
    try:
        with TrialStore.open(path) as store:
            assert store.trials() == trials
    except TrialStoreError:
        pass
    assert path.read_bytes() == content


KILLED_IN_A_TRANSACTION = """
import os, signal, sys
from pathlib import Path
from lanas_jax.storage.trials import TrialStore
connection = TrialStore.open(Path(sys.argv[1]))._connection
connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM trials WHERE id = 0")
for reason in range(50):
    connection.execute("UPDATE trials SET reason = ? WHERE id = 1", (str(reason) * 5000,))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("read_only", [False, True])
def test_transaction_of_a_killed_process_is_rolled_back(path, read_only):
    before = path.read_bytes()
    with TrialStore.open(path) as store:
        trials = store.trials()
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_A_TRANSACTION, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() != before  # half a transaction is in the file
    assert path.with_name("trials.sqlite-journal").stat().st_size > 0
    with TrialStore.open(path, read_only=read_only) as store:
        assert store.trials() == trials
    assert path.read_bytes() == before


def on_disk(path):
    """What another process finds."""
    with TrialStore.open(path, read_only=True) as store:
        return [trial.status for trial in store.trials()]


def test_groups_reach_the_disk_together_and_in_order(tmp_path):
    path = tmp_path / "trials.sqlite"
    with TrialStore.create(path) as store:
        with store.grouped(seconds=3600.0):
            store.add_pending(0, CODES[:2], KEYS[:2], SOFTWARE)
            store.finish([0], [Outcome(0.5)], SOFTWARE, started=1.0)
            assert [trial.status for trial in store.trials()] == [Status.DONE, Status.PENDING]
            store.flush()
            assert on_disk(path) == []  # its time has not come
            store.flush(now=True)
            assert on_disk(path) == [Status.DONE, Status.PENDING]
            store.finish([1], [Outcome(None, "no luck")], SOFTWARE, started=1.0)
            assert on_disk(path) == [Status.DONE, Status.PENDING]
        assert on_disk(path) == [Status.DONE, Status.FAILED]
        store.add_pending(1, CODES[2:3], KEYS[2:3], SOFTWARE)
        assert on_disk(path) == [Status.DONE, Status.FAILED, Status.PENDING]


def test_a_group_is_complete_after_its_time(tmp_path):
    path = tmp_path / "trials.sqlite"
    with TrialStore.create(path) as store, store.grouped(seconds=0.0):
        store.add_pending(0, CODES[:1], KEYS[:1], SOFTWARE)
        assert on_disk(path) == [Status.PENDING]


def test_what_goes_wrong_in_a_group_takes_nothing_else_with_it(tmp_path):
    path = tmp_path / "trials.sqlite"
    with TrialStore.create(path) as store:
        with store.grouped(seconds=3600.0):
            store.add_pending(0, CODES[:1], KEYS[:1], SOFTWARE)
            with pytest.raises(ValueError, match="trial 7 is not pending"):
                store.finish([0, 7], [Outcome(0.5)] * 2, SOFTWARE, started=1.0)
            store.add_pending(1, CODES[1:2], KEYS[1:2], SOFTWARE)
        assert on_disk(path) == [Status.PENDING] * 2


def test_a_killed_process_loses_the_open_group_alone(tmp_path):
    path = tmp_path / "trials.sqlite"
    program = f"""
import os, pathlib
from lanas_jax.storage.trials import TrialStore
store = TrialStore.create(pathlib.Path({str(path)!r}))
with store.grouped(seconds=3600.0):
    store.add_pending(0, [(0, 1)], ["00"], {{}})
    store.flush(now=True)
    store.add_pending(1, [(1, 1)], ["01"], {{}})
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    with TrialStore.open(path) as store:
        assert [trial.code for trial in store.trials()] == [(0, 1)]
