"""Settings of several processes, and what a single one makes of the rest; real ones: `tests.trainer.test_hosts`."""

import socket
import threading
import time

import jax
import pytest

from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import DistributedError, Preemption
from lanas_jax.runtime.joining import Hosts, _wait_for_coordinator, open_devices


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coordinator": "10.0.0.1:9"}, "coordinator, count and index together, or automatic alone; got coordinator"),
        ({"count": 2, "index": 0, "automatic": True}, "got count, index and automatic"),
        ({"coordinator": "10.0.0.1", "count": 2, "index": 0}, "must be HOST:PORT; got '10.0.0.1'"),
        ({"coordinator": "a:1", "count": 2, "index": 2}, "index must be 0 to count - 1, 1; got 2"),
        ({"heartbeat_seconds": 0}, "heartbeat_seconds must be at least 1; got 0"),
        ({"join_seconds": 0}, "join_seconds must be at least 1; got 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Hosts(**settings)


def test_one_process_is_the_first_and_receives_its_own_broadcast():
    assert Hosts().alone
    assert not Hosts(automatic=True).alone
    assert not Hosts("a:1", 2, 1).alone
    assert distributed.is_first_process()
    assert distributed.broadcast({"due": [True, None]}) == {"due": [True, None]}
    distributed.agree("anything", object())
    with pytest.raises(OSError, match="full"):
        distributed.by_first(_fails, OSError)


def _fails():
    raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        (Hosts(), ""),
        (Hosts(automatic=True, join_seconds=600), "--hosts.automatic --hosts.join-seconds 600"),
        (Hosts("a:1", 2, 0), "--hosts.coordinator a:1 --hosts.count 2 --hosts.index 0"),
    ],
)
def test_settings_are_the_words_of_a_command_line(hosts, words):
    assert " ".join(hosts.options) == words


def test_a_process_waits_for_process_0_but_not_for_ever():
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{late.getsockname()[1]}"
        with pytest.raises(DistributedError, match=f"process 0 does not answer at {address}"):
            _wait_for_coordinator(address, 0.1)
        started = threading.Timer(0.3, late.listen)
        started.start()
        began = time.monotonic()
        _wait_for_coordinator(address, 30)
        assert 0.2 < time.monotonic() - began < 20


def test_preemption_stays_once_it_is_there():
    heard = iter([False, True, False])
    preemption = Preemption(lambda: next(heard))
    assert [preemption.reached() for _ in range(3)] == [False, True, True]
    assert preemption.here


def test_devices_that_do_not_open_in_time_are_given_up(monkeypatch):
    given_up = threading.Event()
    said = []

    def give_up(text):
        said.append(text)
        given_up.set()

    open_devices(60, give_up)
    assert not said
    monkeypatch.setattr(jax, "devices", lambda: given_up.wait(60))
    open_devices(0, give_up)
    (text,) = said
    assert text.startswith("JAX did not open its devices within 0 s: on a TPU slice of several hosts, give --hosts.")
