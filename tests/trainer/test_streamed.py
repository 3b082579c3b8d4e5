"""Training on streams: the same as in memory, exactly resumed, stopped at a step, counted right."""

import dataclasses
import itertools
import threading

import jax
import numpy as np
import pytest

from lanas_jax.data.splits import Split
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.storage.folder import RunError
from lanas_jax.trainer import compilation, loop, streamed
from lanas_jax.trainer.step import shapes
from lanas_jax.trainer.streamed import Ahead
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.trainer.train import Origin, train_network
from tests.trainer import tiny_stream
from tests.trainer.tiny_experiment import MIRRORED, SCALING, Config, dataset
from tests.trainer.tiny_training import CODE, RECIPE, Stop, entered, lines, network
from tests.trees import same

IN_MEMORY = dataset(Config())
DATA = tiny_stream.streamed(Config())


def compiled(data, devices):
    final = FinalTraining(network(), lambda: data, RECIPE, MIRRORED)
    return compilation.compile_training(final, data, jax.devices()[:devices])


@pytest.fixture(scope="module")
def made():
    """30 steps on two devices."""
    return compiled(DATA, 2)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The folder of a training that was not interrupted, what it came to, and what it said."""
    folder, progress = entered(tmp_path_factory.mktemp("whole")), Stop()
    return folder, loop.run_training(made, DATA, folder, progress), progress


@pytest.mark.slow
def test_it_trains_as_in_memory(whole, tmp_path):
    """The stream gives the batches that a training in memory draws, so losses and accuracies are the same."""
    folder = entered(tmp_path / "memory")
    fitted = loop.run_training(compiled(IN_MEMORY.search, 1), IN_MEMORY.search, folder, Stop())
    ours, theirs = lines(whole[0]), lines(folder)
    for name in ("step", "epoch", "learning_rate", "drop_path", "validation_accuracy", "ema_validation_accuracy"):
        assert [row[name] for row in ours] == [row[name] for row in theirs], name
    losses = [[float(row["loss"]) for row in rows] for rows in (ours, theirs)]
    np.testing.assert_allclose(*losses, rtol=2e-5)
    assert max(losses[0]) > min(losses[0]) + 0.05
    for one, other in zip(jax.tree.leaves(whole[1].state), jax.tree.leaves(fitted.state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stop", [10, *(pytest.param(x, marks=pytest.mark.slow) for x in (1, 25))])
def test_resumed_training_is_the_same_to_the_bit(whole, made, tmp_path, stop):
    folder = entered(tmp_path / "part")
    with pytest.raises(KeyboardInterrupt):
        loop.run_training(made, DATA, folder, Stop(stop))
    progress = Stop()
    again = loop.run_training(made, DATA, folder, progress)
    assert progress.first == {1: 0, 10: 7, 25: 22}[stop]
    assert same(again.state, whole[1].state)
    assert folder.metrics.read_bytes() == whole[0].metrics.read_bytes()


def test_a_preempted_training_saves_the_current_step_and_continues_to_the_same_bits(whole, made, tmp_path):
    """Asked after each step, it stops in the middle of a dispatch, though no checkpoint is due."""
    folder, asked = entered(tmp_path / "part"), itertools.count(1)
    with pytest.raises(loop.PreemptedError, match="stopped after step 11, which is saved"):
        loop.run_training(made, DATA, folder, Stop(), Preemption(lambda: next(asked) == 11))
    assert int(loop.restored(folder, shapes(network(), RECIPE)).state.step) == 11
    assert same(loop.run_training(made, DATA, folder, Stop()).state, whole[1].state)
    assert folder.metrics.read_bytes() == whole[0].metrics.read_bytes()


def test_training_that_breaks_names_the_step(tmp_path):
    """A bright image breaks the step whose batch holds it; the steps after it are not taken."""
    data = tiny_stream.streamed(Config())
    first = next(data.train.batches(0, 12, 4, host=0, hosts=1))
    bright = int(np.flatnonzero((data.train.split.images == first.images[0]).all((1, 2, 3)))[0])
    data = tiny_stream.streamed(Config(bright=bright))
    final = FinalTraining(network(2), lambda: data, RECIPE, MIRRORED)
    made = compilation.compile_training(final, data, jax.devices()[:1])
    with pytest.raises(loop.NotFiniteError, match=r"^the loss is nan at step 5 \(epoch 1\); no checkpoint yet$"):
        loop.run_training(made, data, folder := entered(tmp_path / "broken"), Stop())
    assert [np.isfinite(float(row["loss"])) for row in lines(folder)] == [True] * 4 + [False]


def test_accuracy_counts_every_image_once(made, whole):
    state, test = whole[1].state, IN_MEMORY.test
    logits, _, _ = network().apply(
        *jax.device_get(state.weights), test.images.astype(np.float32) / 127.5 - 1, train=False,
        key=jax.random.key(0), drop_path=np.float32(0),
    )  # fmt: skip
    assert len(test) % RECIPE.batch_size
    assert made.accuracy(state.weights, DATA.test) == pytest.approx(np.mean(np.argmax(logits, axis=1) == test.labels))


def test_final_says_how_fast_it_was_and_which_images_it_saw(tmp_path, made, monkeypatch):
    data = tiny_stream.streamed(Config(), pause=0.02)
    slow = dataclasses.replace(made, source=dataclasses.replace(made.source, stream=data.train))
    monkeypatch.setattr(compilation, "compile_training", lambda *_: slow)
    final = FinalTraining(network(), lambda: data, RECIPE, MIRRORED)
    found = train_network(final, CODE, tmp_path / "new", Origin("tiny"), Stop(), jax.devices()[:2])
    assert 0 < found["images_per_second"] <= 12 / 0.02  # a batch of 12 takes the stream 20 ms
    assert 0 < found["input_wait"] < 1
    assert found["peak_share"] is None
    again = train_network(final, CODE, tmp_path / "new", Origin("tiny"), Stop(), jax.devices()[:2])
    assert again == found
    images = IN_MEMORY.search.train.images.copy()
    images[0] += 1
    other = dataclasses.replace(DATA, train=tiny_stream.Training(Split(images, IN_MEMORY.search.train.labels)))
    with pytest.raises(RunError, match=r"the dataset: train [0-9a-f]{64}, now [0-9a-f]{64}"):
        train_network(dataclasses.replace(final, dataset=lambda: other), CODE, tmp_path / "new", Origin("tiny"), Stop())


def test_validation_images_cannot_be_trained_on(tmp_path):
    final = FinalTraining(network(), lambda: DATA, dataclasses.replace(RECIPE, train_on="all"))
    with pytest.raises(ValueError, match="train_on must be 'train' with streamed data"):
        train_network(final, CODE, tmp_path / "none", Origin("tiny"), Stop())
    assert not (tmp_path / "none").exists()


def test_a_step_is_lowered_from_shapes_alone():
    """Of 12 images, each of four devices convolves 3, and gradients are added up."""
    final = FinalTraining(network(), lambda: None, RECIPE, MIRRORED)
    mesh = mesh_of(jax.devices()[:4], "data")
    text = streamed.lowered_step(final, mesh, (6, 6, 1), 3, SCALING).compile().as_text()
    assert "f32[3,6,6,8]" in text
    assert "f32[12,6,6,8]" not in text
    assert "all-reduce" in text


def test_the_thread_keeps_the_order_stays_as_far_ahead_as_it_may_and_ends():
    begun = []

    def source():
        for i in range(10):
            begun.append(i)
            yield i

    before = threading.active_count()
    with Ahead(source(), lambda i: 10 * i, 2) as ready:
        assert [next(ready) for _ in range(4)] == [0, 10, 20, 30]
        assert len(begun) <= 4 + 2 + 1
        assert list(ready) == [40, 50, 60, 70, 80, 90]
    with Ahead(itertools.count(), lambda i: i, 2) as ready:
        next(ready)
    assert threading.active_count() == before


def test_what_breaks_the_stream_is_raised_where_it_is_read():
    def source():
        yield 1
        raise OSError("the disk is gone")

    with Ahead(source(), lambda i: i, 2) as ready:
        assert next(ready) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            next(ready)
