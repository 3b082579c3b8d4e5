"""Pickles: arrays of bytes come back, anything else is refused and never run."""

import pickle

import numpy as np
import pytest

from lanas_jax.formats.array_pickle import load_array_pickle


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


def test_plain_containers_come_back():
    content = {"labels": [1, 2, 3], "nested": {"a": (1.5, None)}}
    assert load_array_pickle(pickle.dumps(content, protocol=3)) == content


def test_arrays_come_back():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(load_array_pickle(pickle.dumps({"data": array}, protocol=3))["data"], array)
    np.testing.assert_array_equal(load_array_pickle(pickle.dumps(np.asfortranarray(array), protocol=3)), array)


@pytest.mark.parametrize("content", [Malicious(), {"data": Malicious()}, [Malicious()]])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(content, protocol):
    with pytest.raises(ValueError, match=r"names (builtins|__builtin__).exec, which is not allowed"):
        load_array_pickle(pickle.dumps(content, protocol=protocol))


@pytest.mark.parametrize(
    "array",
    [np.zeros(3), np.zeros(3, ">i4"), np.array([None])],
    ids=["doubles", "integers", "objects"],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match="expected an array of unsigned bytes"):
        load_array_pickle(pickle.dumps(array, protocol=3))


def test_every_cut_is_an_error():
    whole = pickle.dumps({"data": np.arange(6, dtype=np.uint8), "labels": [1]}, protocol=3)
    for end in range(len(whole)):
        with pytest.raises(ValueError, match="not a pickle of lists and arrays"):
            load_array_pickle(whole[:end])
