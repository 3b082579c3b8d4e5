"""Benchmarks: validation and test apart, repeats, files, and what is refused."""

import errno
import json
import os

import jax
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.formats.errors import FileError

SPACE = lx.NATSBenchSizeSpace()
CODES = np.array([[0, 0, 0, 0, 0], [1, 2, 3, 4, 5], [7, 7, 7, 7, 7]], np.int32)
VALIDATION = np.array([[0.1, 0.2], [0.3, 0.5], [0.6, 0.9]])
TEST = np.array([[0.15], [0.35], [0.65]])


def benchmark(**changes):
    parts = {"name": "made up", "space": SPACE, "codes": CODES, "validation": VALIDATION, "test": TEST, "notes": "none"}
    return lx.Benchmark(**parts | changes)


def test_searches_see_validation_and_never_test():
    made = benchmark()
    for table, expected in ((made.table(), [0.15, 0.4, 0.75]), (made.table(repeat=1), [0.2, 0.5, 0.9])):
        np.testing.assert_allclose(table.lookup(CODES), expected, rtol=1e-6)
    np.testing.assert_allclose(made.test_of(CODES[::-1]), [0.65, 0.35, 0.15], rtol=1e-6)
    assert np.isnan(made.test_of(CODES[:1] + 3)).all()


def test_losses_are_negated_values():
    made = benchmark(validation=-100 * VALIDATION, test=-TEST)
    assert made.has_losses
    assert made.table().best == pytest.approx(-15)
    for wrong in (-np.inf, np.nan, 0.5):  # a loss and an accuracy do not mix
        with pytest.raises(ValueError, match=r"rows hold validation .*; losses must be finite and negated"):
            benchmark(validation=np.array([[-2.0], [-1.0], [wrong]]))


def test_limits_on_multiply_adds_count_a_cifar10_image():
    made = benchmark(name="of ImageNet16-120")
    millions = sorted(SPACE.cost(CODES).multiply_adds / 1e6)
    within = made.within(round(millions[1]) + 1)
    assert within.name == f"of ImageNet16-120, at most {round(millions[1]) + 1} M multiply-adds of a CIFAR-10 image"
    assert len(within) == 2
    with pytest.raises(ValueError, match="has at most 1 M multiply-adds of a CIFAR-10 image: they have"):
        made.within(1)


def test_a_drawn_repeat_is_one_of_each_code():
    codes = SPACE.enumerate()[:4000]
    values = np.stack([np.full(4000, 0.25), np.full(4000, 0.75)], axis=1)
    drawn = benchmark(codes=codes, validation=values, test=values).table(key=jax.random.key(1)).values
    assert set(np.unique(drawn)) == {0.25, 0.75}
    # A fair coin leaves 4000 draws within 200 of 2000 but for a probability of 3e-10.
    assert abs((np.asarray(drawn) == 0.25).sum() - 2000) < 200


def test_networks_of_other_sizes_than_the_benchmarks_are_not_written(tmp_path):
    codes = np.zeros((3, 6), np.int32) + np.arange(3, dtype=np.int32)[:, None]
    with pytest.raises(ValueError, match=r"NASBench201Space cannot be written: .* without arguments"):
        benchmark(space=lx.NASBench201Space(channels=8), codes=codes).save(tmp_path / "small.npz")
    assert not os.listdir(tmp_path)


PLAIN = [lx.Choice(f"c{i}", range(9)) for i in range(5)]
CONDITIONAL = [lx.Choice("a", "abcdefgh"), lx.Range("b", 0.1, 1.0, steps=8, when={"a": ("a", "b", "h")}), *PLAIN[2:]]


@pytest.mark.parametrize("space", [SPACE, lx.SearchSpace(PLAIN), lx.SearchSpace(CONDITIONAL)])
def test_files_keep_everything(tmp_path, space):
    path = tmp_path / "made_up.npz"
    made = benchmark(space=space)
    made.save(path)
    loaded = lx.Benchmark.load(path)
    for part in ("name", "space", "codes", "validation", "test", "notes"):
        np.testing.assert_array_equal(getattr(loaded, part), getattr(made, part))
    assert os.listdir(tmp_path) == ["made_up.npz"]
    assert loaded.space.definition() == space.definition()


def test_options_of_the_older_format_are_labels(tmp_path):
    path = tmp_path / "made_up.npz"
    benchmark(space=lx.SearchSpace(PLAIN)).save(path)
    arrays = dict(np.load(path))
    choices = [[choice.name, list(choice.texts)] for choice in PLAIN]
    arrays |= {"format": np.array("lanas benchmark 1"), "space": np.array(json.dumps(choices))}
    np.savez(path, **arrays)
    loaded = lx.Benchmark.load(path)
    assert loaded.space == lx.SearchSpace(lx.Choice(f"c{i}", "012345678") for i in range(5))
    np.testing.assert_array_equal(loaded.codes, CODES)


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "made_up.npz"
    benchmark().save(path)
    before = path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="no space left"):
        benchmark(name="another").save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["made_up.npz"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": CODES[[0, 1, 0]]}, "1 rows of the table repeat the code of an earlier row: 2"),
        ({"codes": CODES + 1}, r"code 2: position 0 \(width 0\) holds 8, expected 0 to 7"),
        (
            {"validation": np.where(VALIDATION == 0.5, np.nan, VALIDATION)},
            r"1 rows hold validation .* first in row 1: .*nan",
        ),
        ({"test": TEST * 100}, r"3 rows hold test values that are not in \[0, 1\], the first in row 0"),
        ({"test": TEST[:2]}, r"3 codes need test values of shape .*; got \(2, 1\)"),
    ],
)
def test_bad_rows_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        benchmark(**changes)


def test_graphs_that_are_no_architecture_are_refused():
    codes = np.zeros((1, 26), np.int32)
    with pytest.raises(ValueError, match="1 rows of the table are not valid in the space: 0"):
        benchmark(space=lx.NASBench101Space(), codes=codes, validation=VALIDATION[:1], test=TEST[:1])


@pytest.mark.parametrize("settings", [{"repeat": 2}, {"repeat": -1}, {"repeat": 0, "key": jax.random.key(0)}])
def test_repeats_that_are_not_there_are_refused(settings):
    with pytest.raises(ValueError, match=r"repeat must be 0 to 1; got|a repeat or a key, not both"):
        benchmark().table(**settings)


def test_damaged_files_say_where(tmp_path):
    path = tmp_path / "made_up.npz"
    benchmark().save(path)
    whole = path.read_bytes()
    for content, message in (
        (whole[:-100], f"damaged or cut off at byte {len(whole) - 100}"),
        (b"1,2,3\n", r"expected an .npz file, .* at byte 0; found b'1,2,"),
        (b"", "at byte 0; found b''"),
    ):
        path.write_bytes(content)
        with pytest.raises(FileError, match=message):
            lx.Benchmark.load(path)
    middle = whole.index(b"validation.npy") + 40
    path.write_bytes(whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 8]) + whole[middle + 8 :])
    with pytest.raises(FileError, match="the field 'validation' is damaged"):
        lx.Benchmark.load(path)


def test_other_npz_files_say_what_is_missing(tmp_path):
    np.savez(tmp_path / "other.npz", some=np.zeros(3))
    with pytest.raises(FileError, match="expected a field 'format'; found some"):
        lx.Benchmark.load(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", format=np.array([{}], object))
    with pytest.raises(FileError, match="the field 'format' is damaged: Object arrays cannot be loaded"):
        lx.Benchmark.load(tmp_path / "objects.npz")


def test_names_without_npz_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a file name that ends in \.npz"):
        benchmark().save(tmp_path / "made_up")
