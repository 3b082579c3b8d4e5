"""The loop of a training: interrupted, damaged, broken, and what it is never shown."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.data.splits import Dataset, Split
from lanas_jax.runtime.profiling import recording
from lanas_jax.storage import software
from lanas_jax.storage.checkpoints import Checkpoints
from lanas_jax.storage.folder import RunError
from lanas_jax.trainer import compilation, loop
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.step import shapes
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.trainer.train import Origin, train_network
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import batch_order
from tests.trainer.tiny_experiment import MIRRORED, Config, dataset
from tests.trainer.tiny_training import CODE, RECIPE, Stop, entered, lines, network
from tests.trees import same

DATA = dataset(Config())


def compiled(recipe=RECIPE, data=DATA, activation=0):
    final = FinalTraining(network(activation), lambda: data, recipe, MIRRORED)
    return compilation.compile_training(final, data.search, jax.devices()[:1])


@pytest.fixture(scope="module")
def made():
    """30 steps: 4 epochs of 7.5 steps."""
    return compiled()


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The folder and the state of a training that was not interrupted."""
    folder, progress = entered(tmp_path_factory.mktemp("whole")), Stop()
    return folder, loop.run_training(made, DATA.search, folder, progress).state, progress


def test_metrics_have_every_step_and_validation_at_the_ends_of_epochs(whole, made):
    folder, state, progress = whole
    found = lines(folder)
    assert [int(row["step"]) for row in found] == list(range(1, 31))
    assert [int(row["epoch"]) for row in found] == [step * 12 // 90 + 1 for step in range(30)]
    read = {int(row["step"]): float(row["validation_accuracy"]) for row in found if row["validation_accuracy"]}
    assert list(read) == [15, 30]  # every 2 epochs
    assert read[30] == pytest.approx(made.accuracy(state.weights, DATA.search.validation), rel=1e-6)
    assert progress.read[-1].last == made.accuracy(state.weights, DATA.search.validation)
    assert float(found[-1]["loss"]) == pytest.approx(float(state.loss), rel=1e-6)
    assert float(found[15]["learning_rate"]) == pytest.approx(0.0125, rel=1e-5)
    assert float(found[15]["drop_path"]) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("stop", [10, *(pytest.param(x, marks=pytest.mark.slow) for x in (1, 25))])
def test_resumed_training_is_the_same_to_the_bit(whole, made, tmp_path, stop):
    """Stopped in the middle of an epoch, before the first checkpoint or after it."""
    folder = entered(tmp_path / "part")
    with pytest.raises(KeyboardInterrupt):
        loop.run_training(made, DATA.search, folder, Stop(stop))
    kept = loop.restored(folder, shapes(network(), RECIPE))
    assert (0 if kept is None else int(kept.state.step)) == {1: 0, 10: 7, 25: 22}[stop]
    progress = Stop()
    with recording(tmp_path / "trace") as traced:
        again = loop.run_training(made, DATA.search, folder, progress)
    assert traced == ["train"]
    assert progress.first == {1: 0, 10: 7, 25: 22}[stop]
    assert same(again.state, whole[1])
    assert folder.metrics.read_bytes() == whole[0].metrics.read_bytes()


def test_seconds_add_up(made, tmp_path):
    folder = entered(tmp_path / "part")
    with pytest.raises(KeyboardInterrupt):
        loop.run_training(made, DATA.search, folder, Stop(25))
    before = float(loop.restored(folder, shapes(network(), RECIPE)).seconds)
    assert 0 < before < float(loop.run_training(made, DATA.search, folder, Stop()).seconds)


def damage(checkpoint):
    """Flips a byte in the middle of each file."""
    for file in (path for path in checkpoint.rglob("*") if path.is_file()):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)


# Several of tensorstore's reads fail at once; those that nobody waits for any more complain of a closed event loop.
reads_fail = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@reads_fail
def test_damaged_checkpoint_gives_way_to_the_one_before(whole, made, tmp_path):
    folder = entered(tmp_path / "part")
    with pytest.raises(KeyboardInterrupt):
        loop.run_training(made, DATA.search, folder, Stop(25))
    assert {path.name for path in folder.checkpoints.iterdir()} == {"15", "22"}
    damage(folder.checkpoints / "22")
    progress = Stop()
    again = loop.run_training(made, DATA.search, folder, progress)
    assert progress.notes == ["the checkpoint of step 22 is damaged; resuming from step 15"]
    assert same(again.state, whole[1])
    assert folder.metrics.read_bytes() == whole[0].metrics.read_bytes()


@reads_fail
def test_without_an_intact_checkpoint_it_says_so_and_leaves_them(made, tmp_path):
    folder = entered(tmp_path / "part")
    with pytest.raises(KeyboardInterrupt):
        loop.run_training(made, DATA.search, folder, Stop(25))
    for path in folder.checkpoints.iterdir():
        damage(path)
    with pytest.raises(loop.DamagedError, match=r"none of the checkpoints in .* is intact \(steps 15, 22\)"):
        loop.run_training(made, DATA.search, folder, Stop())
    assert {path.name for path in folder.checkpoints.iterdir()} == {"15", "22"}


def test_checkpoint_of_another_training_is_not_read(whole, made, tmp_path):
    folder = folders.enter(tmp_path / "other", dict.fromkeys(folders.DECISIVE) | {"seed": 1}, None)
    shutil.copytree(whole[0].checkpoints, folder.checkpoints)
    with pytest.raises(loop.DamagedError):
        loop.run_training(made, DATA.search, folder, Stop())


def test_training_that_breaks_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    """A bright image breaks the first step whose batch holds it: the fifth, in the middle of the second dispatch."""
    recipe = dataclasses.replace(RECIPE, steps_per_dispatch=3)
    ordering = jax.random.split(jax.random.split(jax.random.key(0))[1])[0]
    bright = int(batch_order(ordering, 90, 12, jnp.int32(0), 5)[4, 0])
    data = dataset(Config(bright=bright))
    made, folder = compiled(recipe, data, activation=2), entered(tmp_path / "broken")
    message = r"^the loss is nan at step 5 \(epoch 1\); the last checkpoint is step 3$"
    with pytest.raises(loop.NotFiniteError, match=message):
        loop.run_training(made, data.search, folder, Stop())
    losses = [float(row["loss"]) for row in lines(folder)]
    assert np.isfinite(losses[:4]).all()
    assert np.isnan(losses[4:]).tolist() == [True]
    kept = loop.restored(folder, shapes(network(2), recipe))
    assert int(kept.state.step) == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.state))
    with jax.debug_nans(True), pytest.raises(loop.NotFiniteError, match=message):  # again, from the checkpoint
        loop.run_training(made, data.search, folder, Stop())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A training from its beginning to final.json."""
    directory = tmp_path_factory.mktemp("finished") / "final"
    return directory, carried_out(directory)


def carried_out(directory, data=DATA, progress=None, devices=1, **more):
    settings = {"network": network(), "dataset": lambda: data, "recipe": RECIPE, "augmentation": MIRRORED} | more
    origin = Origin("tiny")
    return train_network(
        FinalTraining(**settings), CODE, directory, origin, progress or Stop(), jax.devices()[:devices]
    )


def test_final_reports_last_weights_and_their_average(finished, whole, made):
    directory, final = finished
    _, state, _ = whole
    assert final["code"] == [0, 1]
    assert final["test_accuracy"] == made.accuracy(state.weights, DATA.test)
    assert final["ema_test_accuracy"] == made.accuracy(state.average, DATA.test)
    assert final["validation_accuracy"] == made.accuracy(state.weights, DATA.search.validation)
    assert final["parameters"] == 9 * 8 + 9 * 64 + 16 + 24 + 3
    assert final["trained_parameters"] == final["parameters"] + 24  # the auxiliary head
    assert final["software"] == software.versions()
    last = loop.restored(folders.open_folder(directory), shapes(network(), RECIPE))
    assert last.state.step == final["steps"]
    assert 0 < last.seconds <= np.float32(final["seconds"])


def test_finished_training_reads_no_test_images_again(finished, monkeypatch):
    directory, final = finished

    def forbidden(*arguments):
        raise AssertionError("read again")

    monkeypatch.setattr(loop, "measure_accuracies", forbidden)
    progress = Stop()
    assert carried_out(directory, progress=progress) == final
    assert progress.notes == ["this training is already complete; showing its recorded result"]


@pytest.mark.slow
def test_weights_do_not_depend_on_test_images(whole, finished, tmp_path):
    """The same training beside other test images: the same weights, another accuracy."""
    other = Split(DATA.test.images[::-1].copy(), (DATA.test.labels + 1) % 3)
    final = carried_out(tmp_path / "other", Dataset(DATA.search, other))
    folder, state, _ = whole
    there = folders.open_folder(tmp_path / "other")
    assert same(loop.restored(there, shapes(network(), RECIPE)).state, state)
    assert there.metrics.read_bytes() == folder.metrics.read_bytes()
    assert final["test_accuracy"] != finished[1]["test_accuracy"]


CHANGED = DATA.search.train.images.copy()
CHANGED[3, 2, 1] ^= 1
OTHER = dataclasses.replace(DATA.search, train=Split(CHANGED, DATA.search.train.labels))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": dataclasses.replace(RECIPE, epochs=3, ema=None)}, "the recipe: ema 0.9, now None; epochs 4, now 3"),
        (
            {"augmentation": Augmentation(flip=True, cutout=2)},
            "the augmentation: cutout 0, now 2. To continue",
        ),
        ({"seed": 1}, "the seed: 0, now 1"),
        ({"data": Dataset(OTHER, DATA.test)}, "the dataset: train [0-9a-f]{64}, now [0-9a-f]{64}. To continue"),
    ],
)
def test_other_training_in_the_same_folder_is_refused(finished, changes, message):
    directory, _ = finished
    with pytest.raises(RunError, match=message):
        carried_out(directory, **changes)


def test_other_software_may_read_a_complete_training_but_not_continue(finished, tmp_path, monkeypatch):
    directory, final = finished
    part = shutil.copytree(directory, tmp_path / "part")
    (part / "final.json").unlink()
    monkeypatch.setattr(software, "versions", lambda: {"jax": "0.1"})
    assert carried_out(directory) == final
    with pytest.raises(RunError, match=r"the software: .*jax 0\.\d+\.\d.*, now 0.1"):
        carried_out(part)


def test_second_process_is_refused(finished, tmp_path):
    part = shutil.copytree(finished[0], tmp_path / "part")
    (part / "final.json").unlink()
    with folders.TRAINING.lock(part), pytest.raises(RunError, match="in use by another process"):
        carried_out(part)


@pytest.mark.parametrize(
    ("recipe", "devices", "message"),
    [
        ({"batch_size": 10}, 4, "batch_size must be a multiple of the number of devices, 4; got 10"),
        ({"normalize_over": 3}, 4, "normalize_over must be a divisor of the number of devices, 4; got 3"),
        ({"batch_size": 91}, 1, "batch_size must be at most the number of training images, 90; got 91"),
        ({"batch_size": 124, "train_on": "all"}, 4, "at most the number of training images, 123; got 124"),
        ({"epochs": 2**25}, 1, "epochs must be below 23860928 with 90 images"),
    ],
)
def test_recipe_that_does_not_fit_is_refused_at_once(tmp_path, recipe, devices, message):
    with pytest.raises(ValueError, match=message):
        carried_out(tmp_path / "none", devices=devices, recipe=dataclasses.replace(RECIPE, **recipe))
    assert not (tmp_path / "none").exists()


def test_folder_with_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(RunError, match=r"holds thesis.tex, but no training"):
        carried_out(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{ not", "is damaged"), ("[]", "expected a JSON object"), ('{"format": 9}', "has format 9, but this version of"),
     ('{"format": 1}', "is incomplete: missing keys augmentation, code, config")],
)  # fmt: skip
def test_damaged_record_is_named(tmp_path, content, message):
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(RunError, match=message):
        folders.open_folder(tmp_path)


def test_metrics_lose_half_a_line_and_lines_of_steps_to_come(whole, made, tmp_path):
    """What a power cut may leave after the newest checkpoint is cut off, and nothing before it."""
    folder = entered(tmp_path / "part")
    with pytest.raises(KeyboardInterrupt):
        loop.run_training(made, DATA.search, folder, Stop(25))
    with folder.metrics.open("a") as file:
        file.write("23,4,1.5,0.1,0.1,,\n24,4,1.")
    loop.run_training(made, DATA.search, folder, Stop())
    assert folder.metrics.read_bytes() == whole[0].metrics.read_bytes()


def test_last_two_checkpoints_remain(whole):
    with Checkpoints(whole[0].checkpoints) as checkpoints:
        assert checkpoints.numbers == [29, 30]
