"""Orders of process 0 and what the others make of them. Processes are threads here; real ones: test_search_on_hosts."""

import json
import threading
import time

import jax
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.evaluators.faults import outcomes_or_errors
from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import DistributedError
from lanas_jax.study import all_hosts
from lanas_jax.study.all_hosts import Lead, LedEvaluator, Stop, evaluating, follow
from lanas_jax.study.replay import trial_keys

CODES = np.array([[0, 1], [2, 3]], np.int32)
KEYS = trial_keys(7, range(2))


class Messages:
    """A key-value store as JAX's coordination service has it."""

    def __init__(self):
        self.there, self.new = {}, threading.Condition()

    def send(self, key, text):
        with self.new:
            assert key not in self.there
            self.there[key] = text
            self.new.notify_all()

    def receive(self, key, seconds=None):
        with self.new:
            if not self.new.wait_for(lambda: key in self.there, 10 if seconds is None else seconds):
                raise TimeoutError
            return self.there[key]

    def delete(self, keys):
        with self.new:
            for gone in [key for key in self.there for start in keys if key == start or key.startswith(f"{start}/")]:
                del self.there[gone]


@pytest.fixture
def messages(monkeypatch):
    """Three processes: this thread is process 0, others say which they are."""
    store, here = Messages(), threading.local()
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: getattr(here, "index", 0))
    for name, function in (("send_message", store.send), ("receive_message", store.receive)):
        monkeypatch.setattr(distributed, name, function)
    monkeypatch.setattr(distributed, "delete_messages", store.delete)
    monkeypatch.setattr(all_hosts, "PATIENCE_SECONDS", 0.3)
    store.here = here
    return store


def started(messages, evaluators):
    """Threads that follow, and what they come to."""
    ends = {}

    def run(index, evaluator):
        messages.here.index = index
        try:
            ends[index] = follow(evaluating({"search": evaluator}))
        except DistributedError as error:
            ends[index] = str(error)

    threads = [threading.Thread(target=run, args=one) for one in enumerate(evaluators, start=1)]
    for thread in threads:
        thread.start()
    return threads, ends


class Recorder:
    """Notes what it is given; raises for codes that begin with 2 if it is broken."""

    def __init__(self, broken=False, slow=0.0):
        self.calls, self.prepared, self.broken, self.slow = [], [], broken, slow

    def prepare(self, directory, note):
        self.prepared.append(directory)

    def evaluate(self, codes, keys):
        self.calls.append((codes.tolist(), jax.random.key_data(keys).tolist()))
        if self.slow:
            time.sleep(self.slow)
        if self.broken and (codes[:, 0] == 2).any():
            raise ArithmeticError("this operation cannot be built")
        return [lx.Outcome(float(code.sum())) for code in codes]


def test_all_processes_make_the_calls_of_process_0_in_its_order(messages, tmp_path):
    here, others = Recorder(), [Recorder(), Recorder()]
    threads, ends = started(messages, others)
    lead = Lead()
    led = LedEvaluator(lead, "search", here)
    led.prepare(tmp_path, print)
    found = [led.evaluate(CODES, KEYS), led.evaluate(CODES[1:], KEYS[1:])]
    lead.stop(Stop(0, "done"))
    for thread in threads:
        thread.join()
    assert [[outcome.value for outcome in batch] for batch in found] == [[1.0, 5.0], [5.0]]
    assert len(here.calls) == 2
    for other in others:
        assert other.calls == here.calls
        assert other.prepared == here.prepared == [tmp_path]
    assert ends == {1: Stop(0, "done"), 2: Stop(0, "done")}
    assert not [key for key in messages.there if key.startswith(("lanas/study/order/0", "lanas/study/answer/1"))]


def test_an_error_that_all_have_is_a_failed_trial(messages):
    threads, _ = started(messages, [Recorder(broken=True), Recorder(broken=True)])
    lead = Lead()
    good, bad = outcomes_or_errors(LedEvaluator(lead, "search", Recorder(broken=True)), CODES, KEYS)
    lead.stop(Stop())
    for thread in threads:
        thread.join()
    assert good.value == 1.0
    assert isinstance(bad, ArithmeticError)


@pytest.mark.parametrize("broken", [0, 2])
def test_an_error_that_only_some_have_ends_the_search(messages, broken):
    evaluators = [Recorder(broken=broken == i) for i in range(3)]
    threads, _ = started(messages, evaluators[1:])
    lead = Lead()
    with pytest.raises(DistributedError, match=f"process {broken} of 3 failed, and not all others did: Arithmetic"):
        outcomes_or_errors(LedEvaluator(lead, "search", evaluators[0]), CODES, KEYS)
    lead.stop(Stop(1))
    for thread in threads:
        thread.join()


def test_nobody_waits_for_one_that_stays_in_a_program_of_all(messages):
    """Process 0 fails while another waits for it, and the other way round."""
    threads, ends = started(messages, [Recorder(slow=0.7), Recorder()])
    with pytest.raises(DistributedError, match="process 0 failed, and process 1 did not: ArithmeticError"):
        LedEvaluator(Lead(), "search", Recorder(broken=True)).evaluate(CODES, KEYS)
    messages.send("lanas/study/order/1", json.dumps({"name": "stop", "arguments": {}}))
    for thread in threads:
        thread.join()
    messages.there.clear()
    threads, ends = started(messages, [Recorder(broken=True), Recorder(broken=True)])
    messages.send(
        "lanas/study/order/0",
        json.dumps(
            {
                "name": "evaluate",
                "arguments": {"evaluator": "search", "codes": CODES.tolist(), "keys": ["0" * 16, "1" * 16]},
            }
        ),
    )
    for thread in threads:
        thread.join()
    assert all(end.startswith("this process failed, and process 0 did not: ArithmeticError") for end in ends.values())


def test_a_process_alone_sends_nothing():
    here = Recorder()
    lead = Lead()
    assert [one.value for one in LedEvaluator(lead, "search", here).evaluate(CODES, KEYS)] == [1.0, 5.0]
    lead.stop(Stop())


def test_a_study_knows_the_outcomes_of_the_evaluator():
    evaluator = Recorder()
    assert LedEvaluator(Lead(), "one", evaluator).outcomes == ()
    evaluator.outcomes = ("energy",)
    assert LedEvaluator(Lead(), "one", evaluator).outcomes == ("energy",)
