"""Long trainings of language models: resumed to the bit, and the text that they write."""

import dataclasses

import numpy as np
import pytest

from lanas_jax.data.text import SYMBOLS, Text, symbols_of
from lanas_jax.models.recurrent import FinalRecurrent
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.spaces.recurrent import RecurrentSpace
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.language import LanguageTraining, check_language, train_language, trained_params, write_text
from lanas_jax.trainer.loop import NotFiniteError, PreemptedError
from lanas_jax.training.language import TextTraining

PATTERN = symbols_of("abcd " * 300)
TEXT = Text(PATTERN, PATTERN, PATTERN, "")
SPACE = RecurrentSpace(units=8, symbols=SYMBOLS)
NETWORK = FinalRecurrent(SPACE, SPACE.named_codes["gru"])
TRAINING = LanguageTraining(NETWORK, lambda: TEXT, TextTraining(60, 4, 8, 0.05))


class Written:
    """Writes down the messages of a training."""

    def __init__(self):
        self.first, self.bits, self.read, self.notes = None, [], [], []

    def began(self, total, step):
        self.first = step

    def advanced(self, step, bits, learning_rate):
        self.bits.append(bits)

    def validated(self, bits):
        self.read.append(bits)

    def note(self, text):
        self.notes.append(text)


def entered(directory):
    return folders.enter(directory, dict.fromkeys(folders.DECISIVE), None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, progress = entered(tmp_path_factory.mktemp("whole")), Written()
    return folder, train_language(TRAINING, TEXT, folder, progress, Preemption()), progress


@pytest.mark.slow
def test_a_pattern_is_learned_and_continued(whole):
    folder, found, progress = whole
    assert found["validation_bits"] == found["test_bits"] == progress.read[-1] < 0.1
    assert found["trained_parameters"] == SPACE.cost(np.array([NETWORK.code])).parameters[0]
    assert progress.first == 0
    lines = folder.metrics.read_text().splitlines()
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(1, 61))
    assert lines[-1].endswith(f",{found['validation_bits']:.7g}")
    params = trained_params(TRAINING, folder)
    assert write_text(NETWORK, params, " AB", 10, 0.0, 0) == "ab" + "cd abcd ab"
    assert write_text(NETWORK, params, "abcd  ", 5, 0.5, 1) == "abcd " + "abcd "
    hot = [write_text(NETWORK, params, "a", 40, 9.0, seed) for seed in (0, 0, 1)]
    assert hot[0] == hot[1] != hot[2]


def test_a_resumed_training_is_the_same_to_the_bit(whole, tmp_path):
    folder, progress = entered(tmp_path / "part"), Written()
    with pytest.raises(PreemptedError, match="stopped after step 25"):
        train_language(TRAINING, TEXT, folder, progress, Preemption(lambda: True))
    found = train_language(TRAINING, TEXT, folder, progress, Preemption())
    assert progress.first == 25
    assert found["test_bits"] == whole[1]["test_bits"]
    assert folder.metrics.read_bytes() == whole[0].metrics.read_bytes()


def test_diverged_and_impossible_trainings_are_refused(tmp_path):
    training = LanguageTraining(NETWORK, lambda: TEXT, TextTraining(60, 4, 8, 1e38))
    with pytest.raises(NotFiniteError, match=r"not finite at step \d+; no checkpoint yet"):
        train_language(training, TEXT, entered(tmp_path / "far"), Written(), Preemption())
    with pytest.raises(ValueError, match="leave out --weights"):
        check_language(LanguageTraining(NETWORK, lambda: TEXT, TRAINING.recipe, initial={}), TEXT)
    with pytest.raises(ValueError, match="too short"):
        check_language(LanguageTraining(NETWORK, lambda: TEXT, TextTraining(streams=200)), TEXT)
    few = FinalRecurrent(RecurrentSpace(units=8, symbols=5), SPACE.named_codes["gru"])
    more = dataclasses.replace(TEXT, test=PATTERN + 1)
    with pytest.raises(ValueError, match="of 5 symbols, but the text has the symbol 5"):
        check_language(LanguageTraining(few, lambda: TEXT, TRAINING.recipe), more)
    check_language(LanguageTraining(few, lambda: TEXT, TRAINING.recipe), TEXT)
    with pytest.raises(ValueError, match="seed must be"):
        LanguageTraining(NETWORK, lambda: TEXT, TRAINING.recipe, seed=-1)


@pytest.mark.parametrize(
    ("wrong", "named"), [({"prompt": " "}, "prompt"), ({"length": 0}, "length"), ({"temperature": -1.0}, "temperature")]
)
def test_impossible_texts_are_refused(wrong, named):
    asked = {"prompt": "a", "length": 1, "temperature": 1.0, "seed": 0} | wrong
    with pytest.raises(ValueError, match=f"{named} must"):
        write_text(NETWORK, {}, **asked)
