"""Teachers: three that say the same teach the same, what that is by its formula, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.formats.errors import FileError
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.storage.folder import RunError
from lanas_jax.trainer import compilation
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.step import TrainerTask, batch_of, loss_of
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.trainer.teacher import ModuleTeacher, NetworkTeacher, SavedLogits, read_logits
from lanas_jax.trainer.train import Origin, train_network
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import batch_order
from tests.trainer import tiny_stream
from tests.trainer.linear_network import CLASSES, PIXELS, LinearNetwork
from tests.trainer.tiny_experiment import SCALING, Config, TinyNetwork, TinySpace, dataset
from tests.trainer.tiny_training import Stop

ALL = dataset(Config())
NETWORK = LinearNetwork(auxiliary=False)
RECIPE = Recipe(
    epochs=1, batch_size=12, learning_rate=0.3, clip=None, weight_decay=0.0, momentum=0.0, ema=None, distillation=0.7,
    temperature=2.0, steps_per_dispatch=1, label_smoothing=0.1,
)  # fmt: skip
HEAD = np.random.default_rng(1).normal(size=(PIXELS, CLASSES)).astype(np.float32)
IMAGES = np.concatenate([ALL.search.train.images, ALL.search.validation.images])
LABELS = np.concatenate([ALL.search.train.labels, ALL.search.validation.labels])
PIXEL_ROWS = (IMAGES.reshape(len(IMAGES), -1) / 255 - 0.5) / 0.5


class Linear(nnx.Module):
    """The head as a module, which in training would drop what it says."""

    def __init__(self, head):
        self.head = nnx.Param(jnp.asarray(head))
        self.dropout = nnx.Dropout(0.9, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.dropout(images.reshape(len(images), -1) @ self.head[...])


def network_teacher(head=HEAD, **more):
    zeros = {"params/auxiliary": np.zeros((PIXELS, CLASSES), np.float32), "params/edge": np.zeros((), np.float32)}
    weights = zeros | {"params/head": head, "batch_stats/dropped": np.zeros((), np.float32)} | more
    return NetworkTeacher(NETWORK, weights)


def saved(head=HEAD):
    return SavedLogits((PIXEL_ROWS @ head).astype(np.float32))


TEACHERS = {"network": network_teacher, "module": lambda: ModuleTeacher(Linear(HEAD)), "saved": saved}


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def final(teacher, recipe=RECIPE, **more):
    return FinalTraining(NETWORK, lambda: ALL, recipe, teacher=teacher, **more)


def compiled(teacher):
    return compilation.compile_training(final(teacher), ALL.search, jax.devices()[:1])


@pytest.fixture(scope="module")
def made():
    return compiled(network_teacher())


def step_by_hand(begun, head):
    """Head and loss after the first step, in float64: cross entropy at T = 1, KL at T = 2 times 4."""
    ordering = jax.random.split(jax.random.split(jax.random.key(0))[1])[0]
    rows = np.asarray(batch_order(ordering, len(LABELS), 12, jnp.int32(0), 1))[0]
    x, targets = PIXEL_ROWS[rows], np.eye(CLASSES)[LABELS[rows]] * 0.9 + 0.1 / CLASSES
    logits, taught = x @ np.asarray(begun, np.float64), softmax(x @ head.astype(np.float64) / 2)
    p, warm = softmax(logits), softmax(logits / 2)
    loss = 0.3 * -(targets * np.log(p)).sum(1).mean() + 0.7 * 4 * (taught * np.log(taught / warm)).sum(1).mean()
    gradient = x.T @ (0.3 * (p - targets) + 0.7 * 4 * (warm - taught) / 2) / len(rows)
    return begun - 0.3 * gradient, loss


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_step_follows_the_formula_whoever_teaches(made, kind):
    here = made if kind == "network" else compiled(TEACHERS[kind]())
    state, losses = here.advance(here.start(), 1)
    head, loss = step_by_hand(made.start().weights.params["head"], HEAD)
    np.testing.assert_allclose(losses, [loss], rtol=1e-5)
    np.testing.assert_allclose(state.weights.params["head"], head, rtol=1e-4, atol=1e-5)


def test_its_weights_are_data_to_the_program(made):
    """Another teacher by the same program."""
    here = made.rebind(final(network_teacher(2 * HEAD)))
    assert here.program is made.program
    _, losses = here.advance(here.start(), 1)
    np.testing.assert_allclose(losses, [step_by_hand(made.start().weights.params["head"], 2 * HEAD)[1]], rtol=1e-5)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_loss_mixes_labels_and_teacher_and_leaves_the_auxiliary_head_its_labels(weight):
    random = np.random.default_rng(3)
    logits, auxiliary, other = random.normal(size=(3, 5, 3)).astype(np.float32)
    targets, taught = np.eye(3, dtype=np.float32)[[0, 1, 2, 1, 0]], softmax(other / 4).astype(np.float32)
    recipe = Recipe(distillation=weight, temperature=4.0, auxiliary_weight=0.3)
    found = loss_of(recipe, *map(jnp.asarray, (logits, auxiliary, targets, taught)))
    cross = [-(targets * np.log(softmax(x))).sum(1).mean() for x in (logits, auxiliary)]
    apart = (taught * np.log(taught / softmax(logits / 4))).sum(1).mean()
    np.testing.assert_allclose(found, (1 - weight) * cross[0] + weight * 16 * apart + 0.3 * cross[1], rtol=1e-5)


def task_of(teacher, augmentation):
    placed = jax.sharding.NamedSharding(mesh_of(jax.devices()[:1], "data"), jax.sharding.PartitionSpec())
    return TrainerTask(NETWORK, RECIPE, augmentation, CLASSES, SCALING, placed, teacher)


def batch(teacher, augmentation, known=None):
    task = task_of(teacher, augmentation)
    return batch_of(task, jax.random.key(5), jnp.asarray(IMAGES[:12]), jnp.arange(12, dtype=jnp.int32) % 3, known)


@pytest.mark.parametrize("kind", ["network", "module"])
def test_a_teacher_that_looks_sees_the_augmented_images(kind):
    found = batch(TEACHERS[kind](), Augmentation(flip=True, cutout=3, mixup=1.0))
    pixels = np.asarray(found.images).reshape(12, -1)
    np.testing.assert_allclose(found.taught, softmax(pixels @ HEAD / 2), rtol=1e-4, atol=1e-6)
    assert np.abs(pixels - PIXEL_ROWS[:12]).max() > 0.1


def test_saved_distributions_are_mixed_as_labels_are():
    """No two neighbours have one label, so what an image keeps of itself stands in its target."""
    teacher = saved()
    found = batch(teacher, Augmentation(mixup=1.0), teacher.known(jnp.arange(12)))
    share = float(found.targets[1, 1])
    assert 0.01 < share < 0.99
    alone = softmax(PIXEL_ROWS[:12] @ HEAD / 2)
    np.testing.assert_allclose(found.taught, share * alone + (1 - share) * np.roll(alone, 1, axis=0), rtol=1e-4)
    plain = batch(None, Augmentation(mixup=1.0))  # what the images come to does not depend on it
    np.testing.assert_array_equal(found.images, plain.images)
    np.testing.assert_array_equal(found.targets, plain.targets)


def test_a_module_teaches_in_its_mode_of_evaluation_and_stays_as_it_is():
    module = Linear(HEAD)
    teacher = ModuleTeacher(module)
    images = jnp.asarray(PIXEL_ROWS[:4].reshape(4, 6, 6, 1), jnp.float32)
    np.testing.assert_allclose(teacher.logits(images), PIXEL_ROWS[:4] @ HEAD, rtol=1e-4, atol=1e-5)
    assert not module.dropout.deterministic
    assert (np.asarray(module(images)) == 0).mean() > 0.5  # it would have dropped most


def carried_out(directory, teacher, data=ALL, **recipe):
    training = final(teacher, dataclasses.replace(RECIPE, **recipe))
    training = dataclasses.replace(training, dataset=lambda: data)
    return train_network(training, np.array([0], np.int32), directory, Origin("taught"), Stop(), jax.devices()[:1])


def test_the_teacher_decides_the_weights(tmp_path):
    """It stands in the folder, which another one is refused."""
    carried_out(tmp_path / "taught", network_teacher())
    record = json.loads((tmp_path / "taught" / "training.json").read_text())
    assert record["teacher"]["network"] == "LinearNetwork"
    assert len(record["teacher"]["weights"]) == 64
    for other in (network_teacher(2 * HEAD), saved()):
        with pytest.raises(RunError, match=r"holds a different training: the teacher: "):
            carried_out(tmp_path / "taught", other)


def test_folders_without_a_teacher_need_not_say_so(tmp_path):
    record = dict.fromkeys(folders.DECISIVE.keys() - {"teacher"}) | {"name": "x", "recipe": {}, "data": {}, "space": {}}
    folder = folders.enter(tmp_path / "plain", record, None)
    assert folders.open_folder(tmp_path / "plain").digest == folder.digest
    assert folders.difference(folder, record) == ""
    other = dataclasses.replace(folder, record=folder.record | {"teacher": saved().identity()})
    assert other.digest != folder.digest


def test_identities_tell_teachers_apart():
    made = [network_teacher(), network_teacher(2 * HEAD), saved(), saved(2 * HEAD), ModuleTeacher(Linear(HEAD))]
    found = [json.dumps(teacher.identity()) for teacher in (*made, ModuleTeacher(Linear(2 * HEAD)))]
    assert len(set(found)) == 6
    assert saved().identity() == saved().identity()


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda: network_teacher(**{"params/head": np.zeros((PIXELS, 4), np.float32)}),
         r"the teacher's params/head is float32\[36, 4\], expected float32\[36, 3\]"),
        (lambda: NetworkTeacher(NETWORK, {}), "the teacher's batch_stats/dropped is absent, expected"),
        (lambda: ModuleTeacher(Linear(np.zeros((PIXELS, 4)))),
         "the teacher has 4 classes, expected 3"),
        (lambda: ModuleTeacher(Linear(np.zeros((PIXELS - 1, 3)))),
         "the teacher does not take images of 6 x 6 x 1: dot_general requires contracting dimensions"),
        (lambda: SavedLogits(np.zeros((123, 4), np.float32)), "the teacher has 4 classes, expected 3"),
        (lambda: SavedLogits(np.zeros((90, 3), np.float32)),
         "the teacher's logits are of 90 images, expected 123: the train and search-validation images"),
        (lambda: SavedLogits(np.full((123, 3), np.nan, np.float32)), "hold NaN or infinite values"),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused_at_once(tmp_path, teacher, message):
    with pytest.raises(ValueError, match=message):
        carried_out(tmp_path / "none", teacher())
    assert not (tmp_path / "none").exists()


def test_saved_logits_go_by_the_images_that_are_trained_on():
    half = SavedLogits(np.zeros((90, 3), np.float16))
    half.check(ALL.search, dataclasses.replace(RECIPE, train_on="train"))
    assert half.known(jnp.array([3, 4])).shape == (2, 3)
    with pytest.raises(TypeError, match="saved logits need the indices of the training images"):
        half.logits(jnp.zeros((2, 6, 6, 1)))


def test_a_teacher_and_its_weight_go_together():
    with pytest.raises(ValueError, match=r"distillation must be 0 without a teacher; got 0\.7"):
        final(None)
    with pytest.raises(ValueError, match="distillation must be above 0 with a teacher"):
        final(saved(), dataclasses.replace(RECIPE, distillation=0.0, temperature=1.0))


def test_logits_are_read_from_a_file(tmp_path):
    np.savez(tmp_path / "good.npz", logits=np.arange(6, dtype=np.float16).reshape(2, 3))
    assert read_logits(tmp_path / "good.npz").values.tolist() == [[0, 1, 2], [3, 4, 5]]
    np.savez(tmp_path / "bad.npz", logits=np.arange(6))
    with pytest.raises(
        FileError, match=r"expected logits, float16 or float32\[images, classes\]; found int64 of shape"
    ):
        read_logits(tmp_path / "bad.npz")


@pytest.mark.slow
def test_four_devices_are_taught_as_one_is():
    """A convolutional teacher and saved logits, each spread over the batch."""
    student, space = TinyNetwork(TinySpace(), (0, 0)), TinySpace()
    master = TinyNetwork(space, (0, 1))
    params, stats = master.init(jax.random.key(9))
    found = {"params": params, "batch_stats": stats}
    weights = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(found)
    }
    for teacher in (NetworkTeacher(master, weights), saved()):
        training = FinalTraining(student, lambda: ALL, RECIPE, Augmentation(flip=True, cutmix=1.0), teacher=teacher)
        one, four = (compilation.compile_training(training, ALL.search, jax.devices()[:n]) for n in (1, 4))
        np.testing.assert_allclose(one.advance(one.start(), 1)[1], four.advance(four.start(), 1)[1], rtol=2e-5)


def test_saved_logits_are_refused_where_images_come_as_a_stream():
    with pytest.raises(ValueError, match="got streamed images: use a network as the teacher"):
        SavedLogits(np.zeros((123, 3), np.float32)).check(tiny_stream.streamed(Config()), Recipe(train_on="train"))
