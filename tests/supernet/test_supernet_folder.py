"""A supernet's training in its folder: interrupted, at its end, and what else is refused there."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from lanas_jax.data.splits import SearchData, Split
from lanas_jax.spaces.base import Choice, SearchSpace
from lanas_jax.storage import software
from lanas_jax.storage.folder import RunError
from lanas_jax.supernet import training as supernet_training
from lanas_jax.supernet.training import SupernetTraining, train_supernet
from lanas_jax.trainer import compilation
from lanas_jax.training.augmentation import Augmentation
from tests.supernet.linear_supernet import RECIPE, SCALING, SEEN, SPACE, LinearSupernet, dataset
from tests.supernet.notes import Note
from tests.trees import same

DATA = dataset().search
OFTEN = dataclasses.replace(RECIPE, checkpoint_seconds=0.0)
TRAINING = SupernetTraining(LinearSupernet(), SPACE.enumerate(), OFTEN)
DEVICES = jax.devices()[:1]


def carried_out(directory, note=None, training=TRAINING, data=DATA, **more):
    return train_supernet(training, data, directory, note or Note(), devices=DEVICES, **more)


@pytest.fixture(scope="module")
def made():
    return compilation.compile_training(TRAINING, DATA, DEVICES)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The folder and the weights of a training that was not interrupted, and what it said."""
    directory, note = tmp_path_factory.mktemp("whole") / "deep" / "supernet", Note()
    return directory, carried_out(directory, note, programs=made).weights, note.lines


def test_a_training_reports_its_progress(whole):
    directory, _, lines = whole
    assert lines[0].startswith("supernet: 40 steps, compiled in ")
    assert [line.split(" · ")[0] for line in lines[1:]] == [
        f"supernet: {step} of 40 steps" for step in (7, 14, 21, 28, 35, 40)
    ]
    final = json.loads((directory / "final.json").read_text())
    assert (final["steps"], final["trained_parameters"]) == (40, 2 * 3 * 36 * 3)


def test_validation_images_are_not_read(whole, made, tmp_path):
    """Others give the same weights and the same file of metrics, which has no accuracy."""
    blank = Split(np.zeros_like(DATA.validation.images), DATA.validation.labels)
    other = dataclasses.replace(DATA, validation=blank)
    assert same(carried_out(tmp_path / "other", data=other, programs=made).weights, whole[1])
    metrics = (tmp_path / "other" / "metrics.csv").read_text()
    assert metrics == (whole[0] / "metrics.csv").read_text()
    assert metrics.splitlines()[-1].endswith(",,")


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_an_interrupted_training_continues_to_the_same_bits(whole, made, tmp_path, stop):
    """Ctrl-C before the first step, before the first checkpoint, and after the third."""
    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path / "part", Note(stop), programs=made)
    note = Note()
    found = carried_out(tmp_path / "part", note, programs=made)
    assert ("resuming after step 21" in note.lines[0]) == (stop == 5)
    assert same(found.weights, whole[1])
    assert (tmp_path / "part" / "metrics.csv").read_bytes() == (whole[0] / "metrics.csv").read_bytes()


def test_at_its_end_it_is_read_and_nothing_is_trained(whole, made):
    directory, weights, _ = whole
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    note = Note()
    found = carried_out(directory, note)
    assert same(found.weights, weights)
    assert found.programs is None
    assert note.lines == []
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()} == before
    assert carried_out(directory, programs=made).programs is made


def test_default_devices_are_as_many_as_share_a_batch(tmp_path, monkeypatch):
    """Of the four there are, three for a batch of 15."""

    def compiled(training, data, devices):
        assert (training.recipe.batch_size, len(devices)) == (15, 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(supernet_training, "compile_training", compiled)
    training = dataclasses.replace(TRAINING, recipe=dataclasses.replace(OFTEN, batch_size=15))
    with pytest.raises(KeyboardInterrupt):
        train_supernet(training, DATA, tmp_path / "three", Note())


OTHERS = SearchSpace([Choice("first", SEEN), Choice("another", SEEN)])
IMAGES = DATA.train.images.copy()
IMAGES[3, 2, 1] ^= 1


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"supernet": LinearSupernet(OTHERS)}, {}, "the space: options of choice 'second': .*, now absent"),
        ({}, {"classes": 4}, "the dataset: classes 3, now 4"),
        ({}, {"train": Split(IMAGES, DATA.train.labels)}, "the dataset: train [0-9a-f]{64}, now"),
        ({"recipe": dataclasses.replace(OFTEN, passes=2)}, {}, "the recipe: passes 1, now 2"),
        ({"augmentation": Augmentation(flip=True)}, {}, "the augmentation: flip False, now True"),
        ({"codes": SPACE.enumerate()[::-1]}, {}, "the settings: codes [0-9a-f]{64}, now"),
        ({"seed": 1}, {}, "the seed: 0, now 1"),
        ({"initial": {"params/kernel": np.zeros(2, np.float32)}}, {}, "the initial weights: None, now [0-9a-f]{64}"),
    ],
)
def test_another_training_is_refused_and_named(whole, changes, data, message):
    training = dataclasses.replace(TRAINING, **changes)
    searched = SearchData(
        **{"train": DATA.train, "validation": DATA.validation, "classes": 3, "scaling": SCALING} | data
    )
    with pytest.raises(RunError, match=rf"holds a different supernet: {message}.*give another folder"):
        carried_out(whole[0], training=training, data=searched)


def test_other_software_may_read_a_finished_supernet_but_not_continue(whole, made, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path / "part", Note(5), programs=made)
    monkeypatch.setattr(software, "versions", lambda: {"jax": "0.1"})
    assert same(carried_out(whole[0]).weights, whole[1])
    with pytest.raises(RunError, match=r"a different supernet: the software: .*jax 0\.\d+\.\d.*, now 0\.1"):
        carried_out(tmp_path / "part", programs=made)


def test_a_folder_with_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(RunError, match=r"holds thesis\.tex, but no supernet"):
        carried_out(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_recipe_that_does_not_fit_is_refused_at_once(tmp_path):
    training = dataclasses.replace(TRAINING, recipe=dataclasses.replace(RECIPE, batch_size=121))
    with pytest.raises(ValueError, match="batch_size must be at most the number of training images, 120; got 121"):
        carried_out(tmp_path / "none", training=training)
    assert not (tmp_path / "none").exists()
