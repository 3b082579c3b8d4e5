import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.candidates import cost_model
from lanas_jax.candidates.halving import Halving
from lanas_jax.candidates.population import Population
from lanas_jax.candidates.strategies import Strategies
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.spaces.base import Cost, SearchSpace
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.small_network import SPACE, BuildableNetwork, SmallNetwork, stripes

CONFIG = TrainConfig(epochs=8, batch_size=8, learning_rate=0.05)
CODES = np.array([[0, 0], [1, 1], [2, 0]], np.int32)
KEYS = jax.random.split(jax.random.key(3), 3)


class PricedSpace(SearchSpace):
    def cost(self, codes):
        return Cost(10 * codes[:, 1].astype(np.int64) + 7, codes[:, 0].astype(np.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class CountingNetwork(SmallNetwork):
    """Notes every time it is traced."""

    traces: list = dataclasses.field(default_factory=list)

    def apply(self, params, batch_stats, code, images, *, train):
        self.traces.append(train)
        return super().apply(params, batch_stats, code, images, train=train)


@dataclasses.dataclass(frozen=True)
class HungryNetwork(SmallNetwork):
    """Sorts 2**50 numbers in every forward pass."""

    def apply(self, params, batch_stats, code, images, *, train):
        logits, batch_stats = super().apply(params, batch_stats, code, images, train=train)
        row = jnp.arange(2**25, dtype=jnp.float32) * jax.lax.stop_gradient(logits[0, 0])
        return logits + 0 * jnp.sort(row[:, None] * row[None], axis=0)[0, 0], batch_stats


class Crowded(FromScratch):
    """Has memory for one candidate at a time: the program of a whole batch does not fit."""

    @functools.cached_property
    def compiled(self):
        return Population(HungryNetwork(), self.config, jax.devices()[:1], per_device=2).compile(self.data)


@pytest.fixture(scope="module")
def data():
    """Stripes, of which one training image is too bright for the operation ``root``."""
    images, labels = stripes(30)
    images[17] = 3.0
    return SearchData(Split(images, labels), Split(*stripes(21, seed=1)), 3)


@pytest.fixture(scope="module")
def evaluator(data):
    return FromScratch(CountingNetwork(space=PricedSpace(SPACE.choices)), data, CONFIG, per_device=1)


@pytest.fixture(scope="module")
def first(evaluator):
    return evaluator.evaluate(CODES, KEYS)


def test_one_compile_serves_every_batch(evaluator, first):
    traces = len(evaluator.network.traces)
    began = time.perf_counter()
    again = evaluator.evaluate(CODES[::-1], KEYS[::-1])
    passed = time.perf_counter() - began
    evaluator.evaluate(SPACE.enumerate(), jax.random.split(jax.random.key(0), len(SPACE.enumerate())))
    assert len(evaluator.network.traces) == traces > 0
    assert [outcome.value for outcome in again[::-1]] == [outcome.value for outcome in first]
    assert sum(outcome.compile_seconds for outcome in first) == pytest.approx(evaluator.strategies.compile_seconds)
    assert [outcome.compile_seconds for outcome in again] == [0] * 3
    assert 0 < sum(outcome.train_seconds for outcome in again) < passed


def test_values_are_accuracies_on_the_validation_split(first):
    for outcome in first:
        assert not outcome.failed
        assert outcome.value * 21 == pytest.approx(round(outcome.value * 21), abs=1e-4)
    assert max(outcome.value for outcome in first) > 0.8


@pytest.mark.parametrize("measure", ["accuracy", "loss"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_value_is_the_mean_of_trainings_with_folded_keys(evaluator, measure, repeats):
    """Bit by bit that of trainings one by one, of which a single one has the trial's key as it is."""
    several = dataclasses.replace(evaluator, measure=measure, repeats=repeats, per_device=1)
    outcomes = several.evaluate(CODES, KEYS)
    for code, key, outcome in zip(CODES, KEYS, outcomes, strict=True):
        keys = [key] if repeats == 1 else [jax.random.fold_in(key, i) for i in range(repeats)]
        alone = [evaluator.compiled.run(code[None], one[None]) for one in keys]
        values = [one.accuracy.item() if measure == "accuracy" else -one.loss.item() for one in alone]
        assert len(set(values)) == repeats or measure == "accuracy"
        assert outcome.value == sum(values) / repeats
        accuracy = sum(one.accuracy.item() for one in alone) / repeats
        assert outcome.outcomes == ({} if measure == "accuracy" else {"validation_accuracy": accuracy})
        assert outcome.steps == repeats * CONFIG.steps(30)
        assert outcome.multiply_adds == 10 * code[1] + 7


def test_a_candidate_fails_if_one_of_its_trainings_does(evaluator):
    codes = np.array([[0, 0], [3, 0]], np.int32)
    outcomes = dataclasses.replace(evaluator, repeats=3).evaluate(codes, KEYS[:2])
    assert not outcomes[0].failed
    assert outcomes[1].reason.startswith("loss became NaN at step ")
    assert outcomes[1].reason.endswith(" (training 1 of 3)")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"measure": "error"}, "measure must be 'accuracy' or 'loss'; got 'error'"),
        ({"repeats": 0}, "repeats must be an integer of at least 1; got 0"),
        ({"repeats": 2.0}, "repeats must be an integer of at least 1; got 2.0"),
        ({"repeats": 2, "halving": Halving()}, "accuracy of one training; got measure='accuracy' and repeats=2"),
        ({"measure": "loss", "halving": Halving()}, "accuracy of one training; got measure='loss' and repeats=1"),
    ],
)
def test_wrong_settings_of_values_are_refused_by_name(evaluator, wrong, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(evaluator, **wrong)


def test_costs_come_from_the_space(first):
    assert [(outcome.multiply_adds, outcome.parameters) for outcome in first] == [(7, 0), (17, 1), (7, 2)]


def test_a_loss_that_is_not_finite_is_a_failure_that_names_its_step(evaluator):
    codes = np.array([[0, 0], [3, 0], [1, 1]], np.int32)
    outcomes = evaluator.evaluate(codes, KEYS)
    steps = evaluator.compiled.run(codes, KEYS).steps
    assert [outcome.failed for outcome in outcomes] == [False, True, False]
    assert outcomes[1].reason == f"loss became NaN at step {steps[1]}"
    assert 1 <= steps[1] <= 4  # the bright image comes once in the first epoch


@pytest.mark.slow
def test_a_batch_by_which_no_plan_can_be_measured_is_trained_all_the_same(data):
    told = []
    evaluator = FromScratch(BuildableNetwork(), data, CONFIG, jax.devices()[:1], 1, candidates=1, report=told.append)
    (outcome,) = evaluator.evaluate(np.array([[3, 0]], np.int32), KEYS[1:2])
    assert outcome.reason.startswith("loss became NaN")
    said = [line.partition(" (")[0] for line in told]
    assert said == ["one program for this batch: the strategies could not be measured"]
    (outcome,) = evaluator.evaluate(CODES[:1], KEYS[:1])
    assert not outcome.failed
    assert told[1].startswith("one program with control flow: 1 candidates")


def test_out_of_memory_is_a_failure(data):
    outcomes = FromScratch(HungryNetwork(), data, CONFIG, per_device=1).evaluate(CODES[:2], KEYS[:2])
    assert [outcome.failed for outcome in outcomes] == [True, True]
    assert outcomes[0].reason.startswith("out of memory: RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("strategy", ["shared", "branchless", "auto"])
def test_candidates_that_do_not_fit_together_are_halved_and_reported_once(evaluator, first, monkeypatch, strategy):
    """Nine candidates on a device do not fit, nor do four; the programs that fit are those of another test."""
    asked, told, small = [], [], evaluator.compiled

    def program(self, per_device):
        asked.append(per_device)
        if per_device > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too large")
        return small

    monkeypatch.setattr(Strategies, "shared", program)
    monkeypatch.setattr(Strategies, "branchless", program)
    crowded = FromScratch(
        evaluator.network, evaluator.data, CONFIG, per_device=9, strategy=strategy, report=told.append
    )
    for _ in range(2):
        assert [one.value for one in crowded.evaluate(CODES, KEYS)] == [one.value for one in first]
    assert [*dict.fromkeys(asked)] == [9, 4, 2]
    assert asked[-1] == 2
    assert [line for line in told if "memory" in line] == ["9 trainings per device do not fit into memory; running 2"]


@pytest.mark.slow
def test_candidates_that_fit_alone_are_trained_alone(data, first):
    outcomes = Crowded(SmallNetwork(), data, CONFIG, per_device=1).evaluate(CODES[:2], KEYS[:2])
    assert [outcome.value for outcome in outcomes] == [outcome.value for outcome in first[:2]]


def test_a_wrong_code_is_caught_at_once(evaluator):
    with pytest.raises(ValueError, match="position 0"):
        evaluator.evaluate(np.array([[9, 0]], np.int32), KEYS[:1])


@pytest.mark.slow
def test_a_program_for_each_gives_the_values_of_one_program(data, first):
    evaluator = FromScratch(BuildableNetwork(), data, CONFIG, jax.devices()[:2], strategy="specialised")
    each = evaluator.evaluate(CODES, KEYS)
    # The accuracies of 21 images; sums in another order may move one of them across the border.
    np.testing.assert_allclose([one.value for one in each], [one.value for one in first], atol=1.01 / 21)
    assert [one.steps for one in each] == [one.steps for one in first] == [CONFIG.steps(30)] * 3


@pytest.mark.slow
def test_a_program_for_each_serves_all_trainings_of_its_candidate(data, evaluator):
    settings = {"measure": "loss", "repeats": 2}
    each = FromScratch(BuildableNetwork(), data, CONFIG, jax.devices()[:2], strategy="specialised", **settings)
    together = dataclasses.replace(evaluator, **settings).evaluate(CODES, KEYS)
    apart = each.evaluate(CODES, KEYS)
    np.testing.assert_allclose([one.value for one in apart], [one.value for one in together], rtol=1e-4)
    programs = each.strategies.specialised._programs
    assert sorted(program.place for program in programs.values()) == [0, 0, 1]


def test_a_network_that_cannot_be_built_has_no_program_for_each(data):
    with pytest.raises(ValueError, match="SmallNetwork has no for_code"):
        FromScratch(SmallNetwork(), data, CONFIG, strategy="specialised")


def test_the_plan_is_measured_once_and_reported(data, first):
    told = []
    evaluator = FromScratch(BuildableNetwork(), data, CONFIG, per_device=1, candidates=1000, report=told.append)
    for _ in range(2):
        assert [one.value for one in evaluator.evaluate(CODES, KEYS)] == [one.value for one in first]
    (line,) = told
    assert line.startswith("one program with control flow: 1000 candidates of 30 steps on 4 device(s)")


@pytest.mark.slow
def test_vmapped_candidates_are_measured_and_reported_where_they_may_be_faster(data, first, monkeypatch):
    """On CPUs they never may, so it is said here that they do; which layout is quicker is the machine's business."""
    monkeypatch.setattr(cost_model, "another_may_pay", lambda costs, work: True)
    told = []
    evaluator = FromScratch(
        BuildableNetwork(), data, CONFIG, jax.devices()[:1], per_device=2, candidates=3, report=told.append
    )
    outcomes = evaluator.evaluate(CODES, KEYS)
    np.testing.assert_allclose([one.value for one in outcomes], [one.value for one in first], atol=1.01 / 21)
    (line,) = told
    assert "one program with control flow (" in line
    assert "one program without control flow, 2 at a time on a device (" in line
    assert evaluator.compiled.population.vmapped == line.startswith("one program without control flow")
    made = evaluator.strategies.shared(2).compile_seconds + evaluator.strategies.branchless(2).compile_seconds
    assert sum(one.compile_seconds for one in outcomes) == pytest.approx(made, rel=1e-4)


@pytest.mark.slow
def test_a_layout_that_does_not_fit_into_memory_is_not_chosen(data, first, monkeypatch):
    def too_much(self, vmapped):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(cost_model, "another_may_pay", lambda costs, work: True)
    monkeypatch.setattr(Strategies, "branchless", too_much)
    told = []
    evaluator = FromScratch(BuildableNetwork(), data, CONFIG, per_device=2, candidates=3, report=told.append)
    assert [one.value for one in evaluator.evaluate(CODES, KEYS)] == [one.value for one in first]
    assert "without control flow, 2" not in told[0]


@pytest.mark.parametrize(("strategy", "name"), [("auto", "shared"), ("shared", "shared"), ("branchless", "branchless")])
def test_the_form_is_as_asked_for_and_on_cpus_has_control_flow_by_itself(data, evaluator, monkeypatch, strategy, name):
    made = {name: dataclasses.replace(evaluator.compiled) for name in ("shared", "branchless")}
    monkeypatch.setattr(Strategies, "shared", lambda self, per_device: made["shared"])
    monkeypatch.setattr(Strategies, "branchless", lambda self, vmapped: made["branchless"])
    wanted = FromScratch(SmallNetwork(), data, CONFIG, strategy=strategy, report=lambda line: None)
    assert not wanted._specialised(CODES, KEYS)
    assert wanted.compiled is made[name]


@dataclasses.dataclass(frozen=True)
class FlatNetwork(BuildableNetwork):
    """Has a form of its own without control flow, here the same."""

    def as_branchless(self):
        return self


@pytest.mark.usefixtures("unchecked")
def test_gpus_measure_the_form_without_control_flow_alone(data, monkeypatch):
    """The devices are CPUs that say that they are GPUs; what is measured here is what a GPU would run."""
    measured = {1: 0.005, 2: 0.002, 4: 0.003}
    monkeypatch.setattr(Strategies, "_avoids_control_flow", True)
    monkeypatch.setattr(Strategies, "branchless", lambda self, vmapped: vmapped)
    monkeypatch.setattr(cost_model, "another_may_pay", lambda costs, work: True)
    monkeypatch.setattr(
        cost_model, "measure_cost", lambda program, *_: cost_model.StrategyCost(0.1, 0.2, measured[program])
    )
    strategies = FromScratch(FlatNetwork(), data, CONFIG, per_device=4, candidates=3).strategies
    choice = strategies.choose(1, 4, CODES, KEYS)
    assert (choice.strategy, choice.vmapped) == ("branchless", 2)
    assert strategies.unmeasured(4) == 1


def test_halving_stops_the_worse_candidates_only_where_asked(data, first):
    stopping = FromScratch(SmallNetwork(), data, CONFIG, per_device=1, halving=Halving((0.5,), 0.3))
    outcomes = stopping.evaluate(CODES, KEYS)
    steps = [one.steps for one in outcomes]
    assert sorted(steps) == [15, 15, 30]
    whole = steps.index(30)
    assert outcomes[whole].value == first[whole].value
    assert all(not one.failed for one in outcomes)
