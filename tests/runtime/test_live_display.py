"""The live line of a search and of a training."""

import dataclasses
import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from lanas_jax.runtime.durations import duration
from lanas_jax.storage.trial import Status, Trial
from lanas_jax.study.display import StudyDisplay
from lanas_jax.trainer.display import TrainingDisplay
from lanas_jax.trainer.loop import Accuracies
from lanas_jax.trainer.recipe import Recipe


def test_terminal_shows_one_live_line():
    now = [0.0]
    screen = io.StringIO()
    display = StudyDisplay(Console(file=screen, force_terminal=True, width=100), clock=lambda: now[0])
    pending = [Trial(i, 0, (i,), "", Status.PENDING) for i in range(4)]
    display.began(12, [])
    now[0] = 5.0
    assert display.line().plain == "trials 0/12 · compiling: 5 s"
    display.asked(pending)
    now[0] = 15.0
    assert display.line().plain == "trials 0/12 · compiling and training the first 4: 15 s"
    done = [
        dataclasses.replace(trial, status=Status.DONE, value=0.5 + trial.id / 100, compile_seconds=3.0, finished=1.0)
        for trial in pending
    ]
    now[0] = 25.0
    display.finished(done)  # after 20 s, of which 12 s went into compiling
    assert display.line().plain == "trials 4/12 · best 0.5300 · 2.00 s per candidate · 16 s left"
    display.asked([dataclasses.replace(trial, id=trial.id + 4, batch=1) for trial in pending])
    now[0] = 29.0
    assert display.line().plain == "trials 4/12 · best 0.5300 · 2.00 s per candidate · 12 s left"
    display.finished([dataclasses.replace(pending[0], status=Status.FAILED, reason="NaN", finished=2.0)])
    assert display.line().plain.startswith("trials 5/12 · best 0.5300 · failed 1 · ")
    with display:
        display.note("a note")
    assert "a note" in screen.getvalue()
    assert "trials 5/12" in screen.getvalue()
    display.training(done[3])
    now[0] = 129.0
    assert display.line().plain == "loading and compiling: 1 min 40 s"
    assert "training the winner, trial 3" in screen.getvalue()


@pytest.mark.usefixtures("unchecked")
def test_other_outputs_get_plain_lines_at_most_once_a_minute():
    """The first and the last step of a training are always printed."""
    now, printed = [0.0], io.StringIO()
    display = TrainingDisplay(Console(file=printed, width=200), clock=lambda: now[0])
    now[0] = 7.0
    assert display.line().plain == "loading and compiling: 7 s"
    task = SimpleNamespace(recipe=Recipe(epochs=2, batch_size=10))
    with display:
        display.began(SimpleNamespace(task=task, total=10, count=50, at_peak=None), 4)
        for step, seconds in ((5, 8.0), (6, 30.0), (7, 69.0), (8, 70.0)):
            now[0] = seconds
            display.advanced(step, 0.5, 0.25)
        display.validated(Accuracies(0.75, None))
        now[0] = 71.0
        display.advanced(10, 0.5, 0.25)
    assert printed.getvalue().splitlines() == [
        "resuming after step 4 of 10",
        "epoch 1/2 · step 5/10 · loss 0.5000 · learning rate 0.25000 · 10 images/s · 5 s left",
        "epoch 2/2 · step 7/10 · loss 0.5000 · learning rate 0.25000 · 0 images/s · 1 min 02 s left",
        "epoch 2/2 · step 10/10 · loss 0.5000 · learning rate 0.25000 · search-validation 0.7500"
        " · 1 images/s · 0 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 05 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
