"""How trainings end that several hosts carry out: what is said, and the exit code."""

import jax
import pytest

from lanas_jax.commands.hosts import Party, joined, run_preemptible, without_hosts
from lanas_jax.runtime import distributed, joining, one_host
from lanas_jax.runtime.joining import Hosts
from lanas_jax.trainer.loop import DamagedError, NotFiniteError, PreemptedError
from tests.refusals import refused

AGAIN = "To continue from the last checkpoint: lanas train DIR"
PARTY = Party("train", Hosts("a:1", 2, 1))


def ended(error):
    """What a training comes to that raises this."""

    def run(preemption):
        assert not preemption.reached()
        raise error

    return run_preemptible(PARTY, ["lanas", "train", "DIR"], print, run)


@pytest.fixture
def two_processes(monkeypatch):
    """Exit codes of those that were left without waiting for the other."""
    left = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("jax.experimental.multihost_utils.reached_preemption_sync_point", lambda step: False)
    monkeypatch.setattr(distributed, "abandon", left.append)
    return left


def test_a_training_gives_what_it_came_to():
    assert run_preemptible(PARTY, [], print, lambda preemption: {"accuracy": 0.5}) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("error", "exit_code", "said"),
    [
        (PreemptedError(1234), 143, f"stopped after step 1,234, which is saved. {AGAIN}"),
        (KeyboardInterrupt(), 130, f"stopped. {AGAIN}"),
        (
            NotFiniteError("the loss of step 7 is nan"),
            1,
            "lanas train: the loss of step 7 is nan. Try a lower learning rate",
        ),
        (DamagedError("none is intact"), 1, "lanas train: none is intact"),
    ],
)
def test_one_that_ends_early_says_why(capsys, error, exit_code, said):
    assert ended(error) == exit_code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_a_lost_process_is_distinguished_from_bad_settings(two_processes, capsys, kind):
    """JAX raises either, by when it notices."""
    assert ended(kind("UNKNOWN: Gloo all-reduce failed: Connection reset by peer\nmore")) == 1
    expected = "lanas train: a process was lost (UNKNOWN: Gloo all-reduce failed: Connection reset by peer)"
    hosts = "--hosts.coordinator a:1 --hosts.count 2 --hosts.index 1 (on every host)"
    assert capsys.readouterr().err == f"{expected}. {AGAIN} {hosts}\n"
    assert two_processes == [1]


def test_bad_settings_are_not_taken_for_a_lost_process(two_processes):
    with pytest.raises(ValueError, match="batch_size must be at most"):
        ended(ValueError("batch_size must be at most the number of training images, 5; got 6"))
    assert two_processes == []


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_alone_what_the_runtime_raises_is_an_error_like_any(kind):
    with pytest.raises(kind, match="INTERNAL"):
        ended(kind("INTERNAL: something"))


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        ("--out DIR --hosts.automatic", "--out DIR"),
        ("--hosts.automatic RUN --out DIR", "RUN --out DIR"),
        ("--hosts.count 2 --hosts.index=1 RUN --hosts.coordinator a:1", "RUN"),
        ("RUN", "RUN"),
    ],
)
def test_the_command_that_continues_leaves_out_the_hosts(words, rest):
    assert without_hosts(words.split()) == rest.split()


@pytest.mark.parametrize("command", ["search", "resume", "train", "supernet", "extract", "rank"])
def test_settings_of_hosts_that_contradict_each_other_are_refused(capsys, tmp_path, command):
    name = "tests/toy_experiment.py" if command in ("search", "supernet") else tmp_path
    message = refused(capsys, command, name, "--hosts.count", 2)
    assert "give coordinator, count and index together, or automatic alone" in " ".join(message.split())


@pytest.mark.parametrize(("chips", "limits"), [(range(4), [50, 9]), ([], [])])
def test_a_process_alone_opens_tpus_before_it_does_anything(monkeypatch, chips, limits):
    found = []
    monkeypatch.setattr(one_host, "local_chips", lambda: chips)
    monkeypatch.setattr(joining, "open_devices", lambda seconds, give_up: found.append(seconds))
    for words in ([], ["--hosts.join-seconds", "9"], ["--cluster", "ray"]):
        with joined("search", words) as party:
            assert found == limits[: len(found)]
            assert not party.several
    assert found == limits
