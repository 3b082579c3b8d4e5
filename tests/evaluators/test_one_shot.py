"""Values by one supernet: prepared before they are asked for, and refused where they would mean nothing."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.data.streams import StreamedDataset
from lanas_jax.evaluators.base import Evaluator, NotPreparedError, Prepared
from lanas_jax.evaluators.one_shot import OneShot, outcomes_of
from lanas_jax.supernet import training
from lanas_jax.supernet.base import Extracting
from lanas_jax.trainer.task import Weights
from tests.supernet.linear_supernet import RECIPE, SCALING, SPACE, CountedSpace, LinearSupernet, dataset
from tests.trainer.tiny_stream import Evaluation, Training

DATA = dataset().search
CODES = SPACE.enumerate()
KEYS = jax.random.split(jax.random.key(0), len(CODES))
DEVICES = jax.devices()[:1]


def one_shot(**changes):
    settings = {"recalibration": 48, "batch_size": 16, "devices": DEVICES, "recipe": RECIPE}
    return OneShot(**{"supernet": LinearSupernet(), "dataset": lambda: DATA} | settings | changes)


def ignore(line):
    del line


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The evaluator, the run's folder, and what preparing said."""
    evaluator, directory, lines = one_shot(), tmp_path_factory.mktemp("run"), []
    evaluator.prepare(directory, lines.append)
    return evaluator, directory, lines


def values(evaluator, codes=CODES):
    return [outcome.value for outcome in evaluator.evaluate(codes, KEYS[: len(codes)])]


def test_nothing_is_loaded_before_it_is_needed_and_nothing_valued_before_it_is_prepared():
    def load():
        raise AssertionError

    evaluator = one_shot(dataset=load)
    for protocol in (Evaluator, Prepared):
        assert isinstance(evaluator, protocol)
    message = r"the supernet is not trained: call prepare\(directory, note\) first"
    for ask in (lambda: evaluator.extract(CODES[0]), lambda: evaluator.trained):
        with pytest.raises(NotPreparedError, match=message):
            ask()
    with pytest.raises(NotPreparedError, match=message):
        one_shot().evaluate(CODES, KEYS)


def test_values_are_accuracies_of_parts(prepared):
    evaluator, directory, lines = prepared
    assert isinstance(evaluator, Extracting)
    assert lines[0].startswith("supernet: 40 steps")
    assert (directory / "supernet" / "final.json").exists()
    began = time.perf_counter()
    outcomes = evaluator.evaluate(CODES, KEYS)
    passed = time.perf_counter() - began
    expected = evaluator.valuation(evaluator.trained.weights, CODES).accuracy
    assert [outcome.value for outcome in outcomes] == expected.tolist()
    assert not any(outcome.failed for outcome in outcomes)
    assert {outcome.multiply_adds for outcome in outcomes} == {None}
    assert 0 < sum(outcome.train_seconds for outcome in outcomes) < passed
    assert min(values(evaluator)) < max(values(evaluator))


def test_values_do_not_depend_on_neighbours_or_keys(prepared):
    evaluator, _, _ = prepared
    alone = [evaluator.evaluate(code[None], jax.random.split(jax.random.key(7), 1))[0].value for code in CODES]
    assert alone == values(evaluator)


def test_prepared_again_it_does_nothing_and_another_process_reads(prepared):
    evaluator, directory, _ = prepared
    lines = []
    evaluator.prepare(directory / "nowhere", lines.append)
    assert not (directory / "nowhere").exists()
    (again := one_shot()).prepare(directory, lines.append)
    (elsewhere := one_shot(directory=directory / "supernet")).prepare(directory / "nowhere", lines.append)
    assert values(again) == values(elsewhere) == values(evaluator)
    assert lines == []


def test_extracted_weights_give_the_logits_by_which_a_code_is_valued(prepared):
    evaluator, _, _ = prepared
    images, supernet = SCALING(jnp.asarray(DATA.validation.images)), evaluator.supernet
    for code, value in zip(CODES[[0, 5, 7]], np.array(values(evaluator))[[0, 5, 7]], strict=True):
        logits, _, _ = supernet.standalone(code).apply(
            *evaluator.extract(code), images, train=False, key=jax.random.key(0), drop_path=jnp.float32(0)
        )
        statistics = evaluator.valuation.statistics(evaluator.trained.weights, code)
        params = evaluator.trained.weights.params
        np.testing.assert_allclose(logits, supernet.apply(params, statistics, code, images, train=False)[0], rtol=1e-4)
        assert np.mean(np.argmax(logits, axis=1) == DATA.validation.labels) == pytest.approx(value)
        for name, running in evaluator.trained.weights.batch_stats.items():
            assert not np.allclose(statistics[name], running, atol=1e-3)


def test_costs_are_reported_where_the_space_knows_them(prepared):
    evaluator, _, _ = prepared
    counted = dataclasses.replace(evaluator.valuation, supernet=LinearSupernet(CountedSpace()))
    outcomes = outcomes_of(counted, evaluator.trained.weights, CODES[[0, 5]])
    assert [outcome.multiply_adds for outcome in outcomes] == [3 * 72, 3 * 22]
    assert [outcome.parameters for outcome in outcomes] == [3 * 72, 3 * 22]


def test_logits_that_are_not_finite_are_a_failure_of_their_code_alone(prepared):
    evaluator, _, _ = prepared
    params, stats = evaluator.trained.weights
    broken = Weights({"kernel": params["kernel"].at[0, 1, 0, 0].set(jnp.nan)}, stats)
    with jax.debug_nans(True):  # for networks of users
        outcomes = outcomes_of(evaluator.valuation, broken, CODES)
    for outcome, code, value in zip(outcomes, CODES, values(evaluator), strict=True):
        failed = code[0] == 1
        assert outcome.value == (None if failed else value)
        assert outcome.reason == ("logits are not finite on the validation images" if failed else None)


def test_codes_of_another_space_are_refused(prepared):
    with pytest.raises(ValueError, match=r"position 1 \(second\) holds 3, expected 0 to 2"):
        prepared[0].evaluate(np.array([[0, 3]], np.int32), KEYS[:1])


def test_a_supernet_at_chance_is_refused_however_often_it_is_prepared(tmp_path):
    """Chance is 17 of 50 images, the most frequent class."""
    evaluator = one_shot(recipe=dataclasses.replace(RECIPE, learning_rate=1e-9, final_learning_rate=0.0, epochs=1))
    needed = 0.34 + 3 * np.sqrt(0.34 * 0.66 / 50)
    for _ in range(2):
        with pytest.raises(NotPreparedError) as refused:
            evaluator.prepare(tmp_path, ignore)
        assert "the supernet has learned nothing: 16 random subnetworks have a mean accuracy of" in str(refused.value)
        assert f"expected more than {needed:.3f} (chance: 0.340)" in str(refused.value)
    with pytest.raises(NotPreparedError, match="is not trained"):
        evaluator.evaluate(CODES, KEYS)


def test_running_statistics_are_used_for_values_but_not_to_tell_whether_it_learned(prepared):
    """Those of options that were trained last fit few networks; weights are judged by statistics of their own."""
    evaluator, directory, _ = prepared
    running = one_shot(recalibration=0)
    running.prepare(directory, ignore)
    expected = running.valuation(evaluator.trained.weights, CODES).accuracy
    assert values(running) == expected.tolist()
    assert values(running) != values(evaluator)


def test_a_training_that_breaks_names_the_step(tmp_path):
    evaluator = one_shot(recipe=dataclasses.replace(RECIPE, learning_rate=3e38, final_learning_rate=0.0, clip=None))
    said = r"(loss is nan|not finite) at step \d+ \(epoch 1\); no checkpoint yet"
    with jax.debug_nans(True), pytest.raises(NotPreparedError, match=said):
        evaluator.prepare(tmp_path, ignore)


def test_another_supernet_in_the_folder_is_refused(prepared):
    _, directory, _ = prepared
    for changes, message in (
        ({"recipe": dataclasses.replace(RECIPE, epochs=3)}, "the recipe: epochs 4, now 3"),
        ({"seed": 1}, "the settings: codes"),
        ({"supernet": LinearSupernet(CountedSpace())}, "the space: its class is 'SearchSpace', now 'CountedSpace'"),
    ):
        with pytest.raises(NotPreparedError, match=rf"holds a different supernet: {message}"):
            one_shot(**changes).prepare(directory, ignore)


def test_a_recipe_that_does_not_fit_the_images_is_refused(tmp_path):
    evaluator = one_shot(recipe=dataclasses.replace(RECIPE, batch_size=121))
    with pytest.raises(NotPreparedError, match="batch_size must be at most the number of training images, 120; got 1"):
        evaluator.prepare(tmp_path, ignore)
    assert not (tmp_path / "supernet").exists()


def test_one_core_of_a_cpu_trains(tmp_path, monkeypatch):
    def compiled(training, data, devices):
        assert len(devices) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "compile_training", compiled)
    for devices in (None, jax.devices()):
        with pytest.raises(KeyboardInterrupt):
            one_shot(devices=devices).prepare(tmp_path, ignore)


def test_cores_value_side_by_side_what_one_of_them_trained(prepared):
    evaluator, directory, _ = prepared
    (side_by_side := one_shot(devices=None)).prepare(directory, ignore)
    assert values(side_by_side) == values(evaluator)
    extracted = jax.tree.leaves(side_by_side.extract(CODES[1]))
    assert {frozenset(leaf.sharding.device_set) for leaf in extracted} == {
        frozenset(jax.devices())
    }  # so that one program can run


def test_streamed_images_give_the_values_of_the_same_images_in_memory(prepared, tmp_path):
    data = dataset()
    splits = (Training(data.search.train), Evaluation(data.search.validation), Evaluation(data.test))
    streams = StreamedDataset(*splits, data.search.classes, data.search.image_shape, SCALING)
    every = len(data.search.train)  # order does not matter where all images are measured
    streamed = one_shot(dataset=lambda: streams, recalibration=every, batch_size=every)
    streamed.prepare(tmp_path, ignore)
    weights = [evaluator.trained.weights.params["kernel"] for evaluator in (prepared[0], streamed)]
    np.testing.assert_allclose(*weights, rtol=1e-5, atol=1e-6)
    in_memory = one_shot(recalibration=every, batch_size=every)
    in_memory.prepared.trained = streamed.trained
    assert values(streamed) == values(in_memory)
