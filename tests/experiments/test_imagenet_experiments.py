"""The ImageNet experiments are what they say, and stay within their limits; nothing is trained."""

import dataclasses

import jax
import numpy as np
import pytest

from lanas_jax.data import cifar10, imagenet
from lanas_jax.data.splits import Dataset, SearchData, Split
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.evaluators.base import Evaluator, Prepared
from lanas_jax.experiments import imagenet_240m, imagenet_600m, imagenet_dry_run, prepared_pictures
from lanas_jax.spaces.latency import LatencyTable
from lanas_jax.storage.weights import names
from lanas_jax.trainer.task import Weights
from lanas_jax.trainer.teacher import NetworkTeacher
from tests.experiments.chosen import chosen, offered

EXPERIMENTS = (imagenet_600m, imagenet_240m, imagenet_dry_run)
NAMES = ("lanas", "random", "evolution")
PRESETS = ("from_scratch", "finetune")
LIMITS = (600_000_000, 240_000_000, 1_300_000)


@pytest.fixture
def unread(monkeypatch):
    """Fails where images are loaded."""

    def load(*_, **__):
        raise AssertionError

    monkeypatch.setattr(imagenet, "load_imagenet", load)
    monkeypatch.setattr(cifar10, "load_cifar10", load)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("experiment", "limit"),
    [
        pytest.param(experiment, limit, id=name, marks=[pytest.mark.slow] * (name != "600m"))
        for experiment, limit, name in zip(EXPERIMENTS, LIMITS, ("600m", "240m", "dry"), strict=True)
    ],
)
def test_a_search_is_limited_and_its_supernet_is_not(experiment, limit):
    built = experiment.build(experiment.Config())
    for protocol in (Evaluator, Prepared):
        assert isinstance(built.evaluator, protocol)
    whole = built.evaluator.supernet.space
    assert (built.space.max_multiply_adds, whole.max_multiply_adds) == (limit, None)
    assert built.space.choices == whole.choices
    assert whole.smallest.multiply_adds < limit < whole.largest.multiply_adds
    ends = built.evaluator.sandwich.largest, built.evaluator.sandwich.smallest
    costs = whole.cost(np.array(ends)).multiply_adds
    assert costs.tolist() == [whole.largest.multiply_adds, whole.smallest.multiply_adds]
    searcher = experiment.build(experiment.Config(searcher="random")).searcher
    _, codes = searcher.ask(searcher.init(jax.random.key(0)), 32)
    assert (whole.cost(np.asarray(codes)).multiply_adds <= limit).all()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=["600m", "240m", "dry"])
def test_every_searcher_can_be_chosen(experiment, name):
    assert offered(experiment) == NAMES
    chosen(experiment, experiment.Config(), name)


def test_the_spaces_are_of_the_published_size():
    for experiment in (imagenet_600m, imagenet_240m):
        config = experiment.Config()
        space = experiment.build(config).space
        assert space.networks == len(config.sizes) * (9**2 + 9**3 + 9**4) ** 5  # 2.2e19 at each resolution


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutions": (192, 200)}, "has no resolution of 200 pixels; choose from 192, 224, 256, 288"),
        ({"width": 1.0}, "does not take --width, which is for space once_for_all: leave it out"),
        ({"limit": 150}, "max_multiply_adds of 150,000,000 is below the smallest network of the space"),
    ],
)
def test_settings_that_a_space_lacks_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        imagenet_600m.limited(imagenet_600m.Config(space="attentive", **settings))


@pytest.mark.usefixtures("unread")
def test_a_latency_limit_comes_from_a_table(tmp_path):
    config = imagenet_600m.Config()
    names = {name for r in range(3) for name in _layers(imagenet_600m.space(config), r)}
    LatencyTable("a phone", 1, dict.fromkeys(names, 1_000_000)).write(tmp_path / "table.json")
    config = dataclasses.replace(config, latency=tmp_path / "table.json", max_milliseconds=20.5)
    space = imagenet_600m.build(config).space
    deepest, shallowest = (np.array([space.named_codes[name]]) for name in ("largest", "smallest"))
    assert space.nanoseconds(shallowest) == 13_000_000  # stem, first block, ten layers, head
    assert space.nanoseconds(deepest) == 23_000_000
    assert np.asarray(space.valid(np.concatenate([shallowest, deepest]))).tolist() == [True, False]
    built = imagenet_600m.build(dataclasses.replace(config, objectives="accuracy,latency"))
    assert (built.objectives, built.outcomes) == (("accuracy", "latency"), ("latency",))
    assert built.searcher.is_exact == (False, True)


def _layers(space, resolution):
    from lanas_jax.models.mobilenet import latency as mobilenet_latency
    from lanas_jax.spaces import mobilenet_layers

    for network in mobilenet_latency._networks(space):
        yield from (layer.name for layer in mobilenet_layers.layers(network))


@pytest.mark.slow
@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("experiment", EXPERIMENTS[1:], ids=["240m", "dry_run"])
def test_extracted_weights_fit_the_winner_and_its_teacher(experiment, tmp_path, monkeypatch):
    """Names, shapes and dtypes alike; no weight is computed."""
    config = experiment.Config()
    built = experiment.build(config)
    supernet = built.evaluator.supernet
    weights = Weights(*jax.eval_shape(supernet.init, jax.random.key(0)))
    code = np.array(built.space.named_codes["smallest"], np.int32)
    extracted = Weights(*jax.eval_shape(lambda weights: supernet.extract(*weights, code), weights))
    largest = Weights(*jax.eval_shape(supernet.standalone(supernet.space.cardinalities - 1).init, jax.random.key(0)))
    zeros = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in names(largest).items()}
    teacher = NetworkTeacher(supernet.standalone(supernet.space.cardinalities - 1), zeros)
    module = experiment if experiment is imagenet_dry_run else imagenet_600m
    monkeypatch.setattr(module, "read_teacher", lambda *_: teacher)
    training = experiment.final(config, experiment.Final(teacher=str(tmp_path)), code)
    expected = names(Weights(*jax.eval_shape(training.network.init, jax.random.key(0))))
    assert {name: leaf.shape for name, leaf in names(extracted).items()} == {n: x.shape for n, x in expected.items()}
    assert training.recipe.distillation == 0.5
    assert isinstance(training.teacher, NetworkTeacher)
    assert experiment.final(config, experiment.Final(), code).teacher is None


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("experiment", EXPERIMENTS[:2], ids=["600m", "240m"])
def test_the_recipes_are_those_of_their_sources(experiment):
    """AlphaNet's supernet (configs/train_alphanet_models.yml of its code), and EfficientNet's networks."""
    evaluator = experiment.build(experiment.Config()).evaluator
    recipe, sandwich = evaluator.recipe, evaluator.sandwich
    assert (recipe.epochs, recipe.warm_up, recipe.batch_size, recipe.learning_rate) == (360, 5, 64 * 32, 8 * 0.1)
    assert (recipe.clip, recipe.clip_by, recipe.weight_decay, recipe.decay_all) == (1.0, "value", 1e-5, False)
    assert (sandwich.gradient, sandwich.random, sandwich.dropout, sandwich.drop_path) == ("sum", 2, 0.2, 0.2)
    assert recipe.final_learning_rate == pytest.approx(0.05 * recipe.learning_rate)  # BigNAS
    assert recipe.constant_epochs == pytest.approx(0.05 * recipe.epochs)
    assert evaluator.supernet.zero_residuals
    assert evaluator.augmentation.policy == "autoaugment_imagenet"
    code = np.zeros(evaluator.supernet.space.dims, np.int32)
    scratch, tuned = (experiment.final(experiment.Config(), experiment.PRESETS[name], code) for name in PRESETS)
    assert experiment.PRESETS["from_scratch"] == experiment.Final()
    assert (scratch.recipe.optimizer, scratch.recipe.epochs, tuned.recipe.epochs) == ("rmsprop", 350, 75)
    assert scratch.recipe.learning_rate == 0.256 * scratch.recipe.batch_size / 4096
    assert (scratch.network.norm, tuned.network.norm) == ((0.99, 1e-3), evaluator.supernet.norm)
    assert (scratch.augmentation.magnitude, scratch.augmentation.magnitude_deviation) == (9, 0.5)


def test_images_are_cropped_at_the_resolution_of_the_network_that_trains(monkeypatch):
    """A supernet's networks have several, so its images have the highest."""

    def load(folder, how):
        raise FileNotFoundError(how.crop.resolution)

    monkeypatch.setattr(imagenet, "load_imagenet", load)
    config = imagenet_600m.Config()
    codes = imagenet_600m.space(config).named_codes
    trainings = [
        imagenet_600m.final(config, imagenet_600m.Final(), np.array(codes[name], np.int32))
        for name in ("smallest", "largest")
    ]
    for training, expected in zip([*trainings, imagenet_600m.one_shot(config)], (192, 256, 256), strict=True):
        with pytest.raises(FileNotFoundError, match=str(expected)):
            training.dataset()


def _random_images(seed, n):
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (n, 1, 1, 3))
    images = np.clip(colours + rng.integers(-20, 20, (n, 32, 32, 3)), 0, 255)
    return Split(images.astype(np.uint8), np.arange(n, dtype=np.int32) % 10)


@pytest.fixture
def pictures(monkeypatch, tmp_path):
    """The dry run's data, of random pixels in place of CIFAR-10."""
    pytest.importorskip("grain", reason="grain is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def load(data_dir, *, train, validation, test):
        asked.append((train, test))
        search = SearchData(_random_images(0, train), _random_images(1, validation), 10, imagenet.SCALING)
        return Dataset(search, _random_images(2, test))

    monkeypatch.setattr(cifar10, "load_cifar10", load)
    return asked


def test_pictures_are_prepared_once_and_read_as_imagenet_is(pictures):
    config = imagenet_dry_run.Config(train=60, validation=20, test=30)
    data = imagenet_dry_run.load_images(config)
    assert isinstance(data, StreamedDataset)
    assert (len(data.train), len(data.validation), len(data.test)) == (60, 20, 30)
    assert (data.classes, data.image_shape) == (10, (32, 32, 3))
    (batch,) = data.test.batches(30, host=0, hosts=1)
    assert sorted(batch.labels.tolist()) == sorted(list(range(10)) * 3)
    means = batch.images.mean(axis=(1, 2))  # of each channel, which JPEG hardly changes and which tell images apart
    originals = _random_images(2, 30).images.mean(axis=(1, 2))
    nearest = np.abs(means[:, None] - originals[None]).sum(axis=2).argmin(axis=1)
    assert sorted(nearest.tolist()) == list(range(30))
    np.testing.assert_array_equal(batch.labels, nearest % 10)
    imagenet_dry_run.load_images(config)
    assert pictures == [(80, 30)]


@pytest.mark.slow
def test_the_supernets_order_is_compared_with_trainings(pictures, tmp_path):
    config = imagenet_dry_run.Config(train=60, validation=20, test=30)
    ranking = imagenet_dry_run.rank(config, imagenet_dry_run.Rank(epochs=1, images=40, batch_size=20), tmp_path)
    assert ranking.estimates["one-shot"].directory == tmp_path / "supernet"
    codes = imagenet_dry_run.ends(imagenet_dry_run.space())
    large, small = ranking.truth.evaluate(codes, jax.random.split(jax.random.key(0), 2))
    assert 0 <= small.value <= 1
    assert large.multiply_adds > 5 * small.multiply_adds
    assert large.parameters == ranking.truth.network.space.cost(codes).parameters[0]


def test_a_folder_is_written_in_files_of_limited_size(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_pictures, "SHARD", 8)
    folder = prepared_pictures.write_pictures(
        tmp_path, {"train": _random_images(0, 20), "validation": _random_images(1, 5)}
    )
    files = sorted(path.name for path in folder.glob("*.tfrecord-*"))
    assert files == [
        *(f"imagenet2012-train.tfrecord-0000{i}-of-00003" for i in range(3)),
        "imagenet2012-validation.tfrecord-00000-of-00001",
    ]
    before = folder.stat().st_mtime_ns
    assert prepared_pictures.write_pictures(tmp_path, {}) == folder
    assert folder.stat().st_mtime_ns == before


def test_of_two_processes_the_slower_one_finds_what_the_other_wrote(tmp_path, monkeypatch):
    pictures = {"train": _random_images(0, 20), "validation": _random_images(1, 5)}
    write_split = prepared_pictures._write_split

    def overtaken(*arguments):
        monkeypatch.undo()
        prepared_pictures.write_pictures(tmp_path, pictures)
        return write_split(*arguments)

    monkeypatch.setattr(prepared_pictures, "_write_split", overtaken)
    folder = prepared_pictures.write_pictures(tmp_path, pictures)
    assert (folder / "dataset_info.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["imagenet2012"]


@pytest.mark.usefixtures("unread")
@pytest.mark.slow
def test_stages_are_those_of_the_commands():
    stages = imagenet_dry_run.stages(imagenet_dry_run.Config())
    assert [stage.name for stage in stages] == ["supernet", "search", "final"]
