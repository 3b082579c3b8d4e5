"""ImageNet's streams: a function of seed and step, each image once, and every fault of a folder named."""

import dataclasses
import importlib.util
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from lanas_jax.data import imagenet
from lanas_jax.data.crops import Crop
from lanas_jax.data.image_streams import DecoderWorkers
from lanas_jax.data.imagenet import Pictures
from lanas_jax.data.sources import MissingDatasetError
from lanas_jax.data.streams import EvaluationStream, TrainingStream
from lanas_jax.formats.errors import FileError
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.pixel_augmentation import PixelAugmentation
from tests.data import made_up_imagenet as made_up
from tests.data.made_up_imagenet import CONTENTS, LABELS, PICTURES

HOW = Pictures(Crop(40, "bilinear"), validation=9, workers=DecoderWorkers(threads=2))
needs_grain = pytest.mark.skipif(importlib.util.find_spec("grain") is None, reason="grain is not installed")


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Three classes instead of 1,000, and no folder to look in but those that a test names."""
    monkeypatch.setattr(imagenet, "SOURCE", dataclasses.replace(imagenet.SOURCE, contents=CONTENTS))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("LANAS_DATA", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made_up.write(tmp_path_factory.mktemp("data"))


def load(folder, notes=None, **settings):
    return imagenet.load_imagenet(
        folder, dataclasses.replace(HOW, **settings), (notes if notes is not None else []).append
    )


AUGMENTED = PixelAugmentation(Augmentation(crop=2, flip=True, policy="randaugment", magnitude_deviation=0.5))


def read(stream, n, batch_size=6, first_step=0, seed=3, host=0, hosts=1, transform=None):
    """The first batches of a training, as images and labels of all of them."""
    batches = stream.batches(seed, batch_size, first_step, host=host, hosts=hosts, transform=transform)
    found = [next(batches) for _ in range(n)]
    batches.close()
    return tuple(np.stack(column) for column in zip(*found, strict=True))


def equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def by_hand(picture):
    return np.asarray(Crop(40, "bilinear").centre(picture))


def test_streams_are_what_training_asks_for(folder):
    data = load(folder)
    assert isinstance(data.train, TrainingStream)
    assert isinstance(data.validation, EvaluationStream)
    assert (len(data.train), len(data.validation), len(data.test)) == (51, 9, 7)
    assert (data.classes, data.image_shape) == (3, (40, 40, 3))


def test_a_sample_is_of_the_first_file_alone(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copied")
    for path in copied.glob("*train*-0000[12]-of-*"):
        path.write_bytes(b"")
    assert imagenet.sample_pictures(5, copied) == PICTURES[:5]
    assert imagenet.sample_pictures(1000, copied) == PICTURES[:20]
    with pytest.raises(MissingDatasetError):
        imagenet.sample_pictures(5, tmp_path)


@needs_grain
def test_a_step_has_the_same_bits_resumed_as_reached_from_the_first(folder):
    train = load(folder).train
    whole, plain = read(train, 20, transform=AUGMENTED), read(train, 20)
    for first in (1, 8, 9, 17):  # an epoch has 8.5 batches
        found = read(train, 3, first_step=first, transform=AUGMENTED)
        equal(found, [column[first : first + 3] for column in whole])
    np.testing.assert_array_equal(whole[1], plain[1])
    assert (whole[0] != plain[0]).any(axis=(2, 3, 4)).mean() > 0.9
    assert (read(train, 1, seed=4)[0] != plain[0][:1]).any()


@needs_grain
def test_hosts_read_pieces_of_the_batch_that_one_reads(folder):
    data = load(folder)
    where = {"first_step": 2, "transform": AUGMENTED}
    first, second = (read(data.train, 10, host=host, hosts=2, **where) for host in (0, 1))
    whole = read(data.train, 10, **where)
    equal([np.concatenate(pair, axis=1) for pair in zip(first, second, strict=True)], whole)
    pieces = [list(data.test.batches(4, host=host, hosts=2)) for host in (0, 1)]
    for a, b, both in zip(*pieces, data.test.batches(4), strict=True):
        equal([np.concatenate(pair) for pair in zip(a, b, strict=True)], both)


@needs_grain
def test_every_image_comes_once_per_epoch_in_another_order(folder, monkeypatch):
    monkeypatch.setattr(Crop, "random", lambda self, data, rng: self.centre(data))
    train = load(folder).train
    images, labels = (column.reshape(-1, *column.shape[2:]) for column in read(train, 17))
    known = {by_hand(picture).tobytes(): record for record, picture in enumerate(PICTURES[:60])}
    records = np.array([known[image.tobytes()] for image in images])
    np.testing.assert_array_equal(labels, np.array(LABELS)[records])
    for epoch in (records[:51], records[51:]):
        np.testing.assert_array_equal(np.sort(epoch), train.rows)
    assert (records[:51] != records[51:]).any()


@needs_grain
def test_the_same_image_is_cropped_differently_in_each_epoch(folder):
    train = load(folder).train
    images = read(train, 17)[0].reshape(102, -1)
    assert len(np.unique(images, axis=0)) > 95


@needs_grain
def test_evaluation_reads_the_official_validation_pictures_in_order(folder):
    batches = list(load(folder).test.batches(4))
    np.testing.assert_array_equal([batch.labels for batch in batches], [[0, 1, 2, 0], [1, 2, 0, -1]])
    images = np.concatenate([batch.images for batch in batches])
    for image, picture in zip(images[:7], PICTURES[60:], strict=True):
        with Image.open(io.BytesIO(picture)) as opened:
            w, h = opened.size
            side = 0.875 * min(w, h)
            box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
            np.testing.assert_array_equal(image, np.asarray(opened.resize((40, 40), Image.Resampling.BILINEAR, box)))
    assert not images[7].any()


@needs_grain
def test_array_record_gives_what_tfrecord_gives(folder, tmp_path):
    pytest.importorskip("array_record", reason="the package array_record is not installed")
    other = load(made_up.write(tmp_path, "array_record"))
    equal(read(other.train, 4), read(load(folder).train, 4))


@pytest.mark.slow
@needs_grain
def test_worker_processes_change_nothing(folder):
    expected = read(load(folder).train, 10, transform=AUGMENTED)
    equal(read(load(folder, workers=DecoderWorkers(2, threads=1)).train, 10, transform=AUGMENTED), expected)


@needs_grain
def test_damaged_records_are_replaced_counted_and_reported(folder, tmp_path):
    pictures = list(PICTURES)
    pictures[4] = pictures[4][:300]
    pictures[61] = b"nothing"
    notes = []
    data = load(made_up.write(tmp_path, pictures=pictures), notes, most_damaged=0.2, seed=1)
    assert 4 in data.train.rows
    intact = load(folder, seed=1)
    found, expected = read(data.train, 9), read(intact.train, 9)
    differ = (found[0] != expected[0]).any(axis=(2, 3, 4))
    assert 1 <= differ.sum() <= 2  # once in the epoch, and perhaps at the beginning of the next one
    following = data.train.rows[list(data.train.rows).index(4) + 1]
    assert (found[1][differ] == LABELS[following]).all()
    equal(read(data.train, 9), found)
    assert data.train.damage.records == {4}
    assert [note for note in notes if "are damaged" in note] == [
        f"1 of 60 records are damaged, e.g. {data.train.index.shards[0].path}: record 4; they are skipped"
    ]
    labels = np.concatenate([batch.labels for batch in data.test.batches(7)])
    np.testing.assert_array_equal(labels, [0, -1, 2, 0, 1, 2, 0])


@needs_grain
def test_a_record_with_a_wrong_checksum_is_damaged(tmp_path):
    folder = made_up.write(tmp_path)
    data = load(folder, most_damaged=0.2)
    record = int(data.train.rows[7])
    shard, place = data.train.index.shards[record // 20], int(data.train.index.places[record])
    content = bytearray(shard.path.read_bytes())
    content[place + 500] ^= 1
    shard.path.write_bytes(content)
    data = load(folder, most_damaged=0.2)
    read(data.train, 9)
    assert data.train.damage.records == {record}


@needs_grain
@pytest.mark.parametrize("lost", [3, 60])
def test_too_many_damaged_records_end_the_reading(tmp_path, lost):
    pictures = [b"nothing" if i < lost else picture for i, picture in enumerate(PICTURES)]
    train = load(made_up.write(tmp_path, pictures=pictures)).train
    with pytest.raises(FileError, match=r"damaged.*(prepare the dataset again|and so are)"):
        read(train, 9)


def test_held_out_pictures_are_as_many_of_each_class_and_never_trained_on(folder):
    data, other = load(folder), load(folder, seed=1)
    np.testing.assert_array_equal(np.bincount(np.array(LABELS)[data.validation.rows]), [3, 3, 3])
    np.testing.assert_array_equal(np.sort(np.concatenate([data.train.rows, data.validation.rows])), np.arange(60))
    assert set(data.validation.rows) != set(other.validation.rows)
    for wrong in (10, 60):
        with pytest.raises(ValueError, match=f"multiple of the 3 classes, from 3 to 57, .*got {wrong}"):
            load(folder, validation=wrong)


def test_fingerprints_tell_files_rows_and_crops_apart(folder, tmp_path):
    data = load(folder)
    same = load(shutil.copytree(folder, tmp_path / "other"), workers=DecoderWorkers(2))
    assert data.train.fingerprint == same.train.fingerprint
    pictures = [*PICTURES[:-1], PICTURES[0]]
    others = [
        load(folder, seed=1).train,
        load(folder, crop=Crop(40, "bicubic")).train,
        data.validation,
        data.test,
        load(made_up.write(tmp_path, pictures=pictures)).test,
    ]
    assert len({stream.fingerprint for stream in (data.train, *others)}) == 6


def test_records_are_gone_through_once_and_again_when_a_file_changes(tmp_path):
    folder, notes = made_up.write(tmp_path), []
    load(folder, notes)
    assert [note.split(",")[0] for note in notes] == [
        f"scanning the records of {files} files in {folder}" for files in (3, 1)
    ]
    load(folder, notes)
    assert len(notes) == 2
    path = folder / "imagenet2012-train.tfrecord-00001-of-00003"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileError, match=r"00001-of-00003: record 19, .* is cut off"):
        load(folder, notes)


def test_a_cache_that_cannot_be_written_or_is_damaged_does_no_harm(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    notes = []
    assert len(load(folder, notes).train) == 51
    assert "is not cached" in notes[1]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load(folder)
    for kept in (tmp_path / "cache" / "lanas_jax" / "records").iterdir():
        kept.write_bytes(b"nothing")
    assert len(load(folder).train) == 51


def edited(folder, **values):
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | values))


def test_a_folder_that_is_not_there_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(MissingDatasetError) as caught:
        load(None)
    for part in ("ImageNet was not", "nowhere (does not exist)", "tensorflow_datasets", "tfds build imagenet2012"):
        assert part in str(caught.value)


def test_faults_of_a_folder_are_named(tmp_path):
    folder = made_up.write(tmp_path)
    path = folder / "imagenet2012-train.tfrecord-00001-of-00003"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(FileError, match=r"00001-of-00003 is missing, the first of 1 of 4 files; .* tfds build"):
        load(folder)
    path.write_bytes(content)
    features = folder / "features.json"
    features.rename(tmp_path / "features.json")
    with pytest.raises(FileError, match=r"dataset_info\.json: expected a dataset .*; ValueError: Cannot restore"):
        load(folder)
    (tmp_path / "features.json").rename(features)
    path.write_bytes(b"")
    with pytest.raises(FileError, match=r"00001-of-00003: expected 20 records, as dataset_info\.json says; found 0"):
        load(folder)
    path.write_bytes(content)
    splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
    edited(folder, splits=[splits[0] | {"shardLengths": ["20", "20"]}, splits[1]])
    (folder / "imagenet2012-train.tfrecord-00000-of-00002").write_bytes(content)
    (folder / "imagenet2012-train.tfrecord-00001-of-00002").write_bytes(content)
    with pytest.raises(FileError, match="expected 60 records of train; found 40"):
        load(folder)
    edited(folder, splits=splits, name="imagenette")
    with pytest.raises(FileError, match="expected the dataset imagenet2012; found imagenette"):
        load(folder)
    edited(folder, splits=splits[:1], name="imagenet2012")
    with pytest.raises(FileError, match="expected a dataset with the splits train and validation"):
        load(folder)


def test_a_label_out_of_range_is_named(tmp_path):
    labels = [7 if i == 45 else label for i, label in enumerate(LABELS)]
    with pytest.raises(FileError, match="00002-of-00003: record 5: expected a label from 0 to 2; found 7"):
        load(made_up.write(tmp_path, labels=labels))


@needs_grain
@pytest.mark.parametrize(("size", "host", "hosts"), [(6, 0, 4), (6, 2, 2), (0, 0, 1)])
def test_shares_that_are_none_are_refused(folder, size, host, hosts):
    with pytest.raises(ValueError, match=f"got a batch size of {size} and host {host} of {hosts}"):
        load(folder).train.batches(0, size, 0, host=host, hosts=hosts)
