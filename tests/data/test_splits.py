import numpy as np
import pytest

from lanas_jax.data import digits
from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import Dataset, SearchData, Split


def split(n=6, size=4, classes=3, dtype=np.float32):
    return Split(np.zeros((n, size, size, 1), dtype), np.arange(n, dtype=np.int32) % classes)


def test_digits_are_all_there_once():
    from sklearn import datasets

    data = digits.load_digits()
    parts = (data.search.train, data.search.validation, data.test)
    assert [len(part) for part in parts] == [1077, 360, 360]
    ours = np.concatenate([part.images.reshape(len(part), -1) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    raw = datasets.load_digits()
    theirs = np.column_stack([raw.data / 16, raw.target])
    found = np.column_stack([ours, labels]).astype(np.float64)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], theirs[np.lexsort(theirs.T)])


def test_digits_are_stratified():
    data = digits.load_digits()
    everything = np.bincount(np.concatenate([p.labels for p in (data.search.train, data.search.validation, data.test)]))
    for part in (data.search.train, data.search.validation, data.test):
        expected = everything * len(part) / everything.sum()
        assert np.abs(np.bincount(part.labels, minlength=10) - expected).max() <= 1


def test_the_seed_fixes_the_split():
    first, again, other = digits.load_digits(3), digits.load_digits(3), digits.load_digits(4)
    np.testing.assert_array_equal(first.test.images, again.test.images)
    assert (first.test.images != other.test.images).any()


def test_parts_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match="each part needs at least 10"):
        digits.load_digits(validation=900, test=890)


def test_what_a_search_sees_has_no_test_images():
    search = digits.load_digits().search
    assert set(vars(search)) == {"train", "validation", "classes", "scaling"}


def test_wrong_splits_are_refused():
    with pytest.raises(ValueError, match="finite"):
        Split(np.full((2, 4, 4, 1), np.nan, np.float32), np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="at least one image"):
        split(n=0)
    with pytest.raises(ValueError, match="validation labels run from 0 to 4, expected 0 to 2"):
        SearchData(split(), split(classes=5), 3)
    with pytest.raises(ValueError, match=r"validation images have shape \(5, 5, 1\), expected \(4, 4, 1\)"):
        SearchData(split(), split(size=5), 3)
    with pytest.raises(ValueError, match="test images are uint8, those of the search float32"):
        Dataset(SearchData(split(), split(), 3), split(dtype=np.uint8))
    with pytest.raises(ValueError, match="test labels"):
        Dataset(SearchData(split(), split(), 3), split(classes=4))


def test_images_of_8_bits_need_a_scaling_and_others_have_none():
    bits = Split(np.zeros((3, 4, 4, 1), np.uint8), np.arange(3, dtype=np.int32))
    scaling = Scaling((0.5,), (0.25,))
    assert SearchData(bits, bits, 3, scaling).scaling is scaling
    for parts in ((bits, bits, 3), (split(), split(), 3, scaling), (bits, split(), 3, scaling)):
        with pytest.raises(ValueError, match="uint8 needs a scaling"):
            SearchData(*parts)
