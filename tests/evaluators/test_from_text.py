"""Values of language models: independent of the batch, floored at guessing, failed if not finite."""

import dataclasses

import jax
import numpy as np
import pytest

from lanas_jax.data.text import SYMBOLS, Text, load_text, symbols_of, text_of
from lanas_jax.evaluators.from_text import FromText
from lanas_jax.experiments import recurrent_text
from lanas_jax.models.recurrent import RecurrentModels
from lanas_jax.spaces.recurrent import RecurrentSpace
from lanas_jax.tables.benchmark import Benchmark
from lanas_jax.training.language import GUESSING, TextTraining
from tests.experiments.chosen import chosen, offered

SPACE = RecurrentSpace(units=4, symbols=SYMBOLS)
TRAINING = TextTraining(steps=30, streams=4, length=8, learning_rate=0.05)
PATTERN = symbols_of("abcd " * 300)
EVALUATOR = FromText(RecurrentModels(SPACE), Text(PATTERN, PATTERN, PATTERN, ""), TRAINING, vmapped=3)
CODES = np.array([*SPACE.named_codes.values()], np.int32)
KEYS = jax.random.split(jax.random.key(0), len(CODES))


@pytest.mark.slow
def test_outcomes_depend_on_code_and_key_alone():
    found = [outcome.value for outcome in EVALUATOR.evaluate(CODES, KEYS)]
    assert max(found) > -3.5  # a pattern of five symbols is learned: guessing needs 5 bits
    order = np.array([3, 0])
    again = [outcome.value for outcome in EVALUATOR.evaluate(CODES[order], KEYS[order])]
    assert again == [found[i] for i in order]
    (other,) = EVALUATOR.evaluate(CODES[:1], KEYS[1:2])
    assert other.value != found[0]
    assert (other.parameters, other.steps) == (SPACE.cost(CODES[:1]).parameters[0], 30)
    assert len(EVALUATOR.evaluate(CODES[:0], KEYS[:0])) == 0


def test_worse_than_guessing_is_guessing_and_not_finite_has_failed(monkeypatch):
    monkeypatch.setattr(FromText, "train", lambda *_: np.array([[7.0], [np.nan], [np.inf], [2.5]], np.float32))
    outcomes = EVALUATOR.evaluate(CODES[:4], KEYS[:4])
    assert [outcome.value for outcome in outcomes] == [-GUESSING, None, None, -2.5]
    assert outcomes[1].reason == "the loss on the validation part is not finite"


def test_texts_with_more_symbols_than_the_space_counts_are_refused():
    models = RecurrentModels(RecurrentSpace(units=4, symbols=4))
    with pytest.raises(ValueError, match="of 4 symbols, but the text has the symbol 4: give it at least symbols=5"):
        FromText(models, EVALUATOR.text, TRAINING)


def test_symbols_are_read_and_written():
    text = load_text()
    assert len(text.train) > 200_000
    assert symbols_of("A\n\t b?").tolist() == [1, 0, 2, SYMBOLS - 1]
    assert text_of(symbols_of("A\n b?")) == "a b#"


def test_short_texts_are_refused(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("abc", encoding="utf-8")
    with pytest.raises(ValueError, match="must have at least 10,000 symbols"):
        load_text(path)
    with pytest.raises(ValueError, match="too short"):
        dataclasses.replace(EVALUATOR, training=TextTraining(streams=100, length=16))


def test_a_table_is_made_in_parts_and_resumed(tmp_path, monkeypatch, capsys):
    few = SPACE.enumerate()[::900]
    monkeypatch.setattr(RecurrentSpace, "enumerate", lambda self: few)
    calls = []

    def train(self, codes, keys, parts):
        calls.append(len(codes))
        bits = codes.sum(axis=1, dtype=np.float32)
        return np.stack([np.where(bits > 8, np.nan, bits), bits], axis=1)

    monkeypatch.setattr(FromText, "train", train)
    config = recurrent_text.TextTableConfig(tmp_path, cells=3, parts=2)
    recurrent_text.main(config)
    assert not (tmp_path / "recurrent-text.npz").exists()
    recurrent_text.main(dataclasses.replace(config, part=1))
    made = sum(calls)
    assert made == 2 * len(few)
    table = Benchmark.load(tmp_path / "recurrent-text.npz")
    np.testing.assert_array_equal(table.codes, few)
    np.testing.assert_allclose(table.test, -np.minimum(few.sum(axis=1), GUESSING)[:, None].repeat(2, axis=1))
    assert table.validation.min() == -GUESSING
    arrays = np.load(tmp_path / "recurrent-text.npz")
    np.testing.assert_array_equal(arrays["diverged"][:, 0], few.sum(axis=1) > 8)
    np.testing.assert_array_equal(
        arrays["parameters"], recurrent_text.TextTableConfig(tmp_path).space.cost(few).parameters
    )
    recurrent_text.main(config)
    assert sum(calls) == made


@pytest.mark.parametrize("name", ["lanas", "random", "evolution"])
def test_the_experiment_searches_the_space_of_its_models(name):
    assert offered(recurrent_text) == ("lanas", "random", "evolution")
    experiment = chosen(recurrent_text, recurrent_text.Config(units=8, batch=4), name)
    assert experiment.space == experiment.evaluator.models.space
    assert (experiment.space.units, experiment.evaluator.vmapped) == (8, 4)
