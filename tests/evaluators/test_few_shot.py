"""Values by sub-supernets: each code by that of its region."""

import dataclasses

import jax
import numpy as np
import pytest

from lanas_jax.evaluators.base import Evaluator, NotPreparedError, Prepared, PreparedInParts
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.supernet import training
from lanas_jax.supernet.base import Extracting
from lanas_jax.supernet.regions import OptionSplit, TreeSplit
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer import compilation
from tests.supernet.linear_supernet import RECIPE, SPACE, LinearSupernet, dataset

DATA = dataset().search
CODES = SPACE.enumerate()
KEYS = jax.random.split(jax.random.key(0), len(CODES))
FURTHER = dataclasses.replace(RECIPE, epochs=2, learning_rate=0.1)


def ignore(line):
    del line


def few_shot(split=None, recipe=FURTHER, one_shot=None, **changes):
    if one_shot is None:
        devices = jax.devices()[:1]
        one_shot = OneShot(LinearSupernet(), lambda: DATA, RECIPE, recalibration=48, batch_size=16, devices=devices)
    return FewShot(one_shot, split or OptionSplit("second"), recipe, **changes)


def values(evaluator):
    return [outcome.value for outcome in evaluator.evaluate(CODES, KEYS)]


class Compilations:
    """Counts programs for trainings."""

    def __init__(self, monkeypatch):
        self.count = 0
        monkeypatch.setattr(training, "compile_training", self)

    def __call__(self, *arguments):
        self.count += 1
        return compilation.compile_training(*arguments)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """By the options of a choice: the evaluator, the run's folder, what was said, programs compiled."""
    directory, lines = tmp_path_factory.mktemp("run"), []
    with pytest.MonkeyPatch.context() as patch:
        compilations = Compilations(patch)
        (evaluator := few_shot()).prepare(directory, lines.append)
    return evaluator, directory, lines, compilations.count


def test_before_it_is_prepared_it_says_what_to_do():
    evaluator = few_shot()
    for protocol in (Evaluator, Prepared):
        assert isinstance(evaluator, protocol)
    with pytest.raises(NotPreparedError, match=r"the sub-supernets are not trained: call prepare\(directory, note\)"):
        evaluator.evaluate(CODES, KEYS)


def test_programs_are_compiled_once_for_the_supernet_and_once_for_all_regions(prepared):
    evaluator, directory, lines, compilations = prepared
    assert compilations == 2
    assert [line for line in lines if line.startswith("sub-supernet")] == [
        f"sub-supernet {i + 1} of 3 (second: {option})" for i, option in enumerate(("all", "half", "few"))
    ]
    assert {path.name for path in (directory / "few_shot").iterdir()} == {
        "split.npz", "region-0", "region-1", "region-2",
    }  # fmt: skip
    assert isinstance(evaluator, Extracting)


@dataclasses.dataclass(frozen=True)
class ListedSupernet(LinearSupernet):
    """A supernet that cannot be hashed, so its programs are not shared."""

    notes: list[str] = dataclasses.field(default_factory=list)


@pytest.mark.slow
def test_a_supernet_that_cannot_be_hashed_has_programs_for_each_region(prepared, tmp_path):
    devices = jax.devices()[:1]
    shared = OneShot(ListedSupernet(), lambda: DATA, RECIPE, recalibration=48, batch_size=16, devices=devices)
    evaluator = few_shot(one_shot=shared)
    evaluator.prepare(tmp_path, ignore)
    assert values(evaluator) == values(prepared[0])


def test_parts_done_by_others_are_found(prepared, tmp_path, monkeypatch):
    """As by the workers of a cluster, each with an evaluator of its own and the same folder."""
    assert isinstance(few_shot(), PreparedInParts)
    for i in (2, 0, 1):
        other = few_shot()
        assert other.begin(tmp_path, ignore) == 3
        other.part(i, tmp_path, ignore)
    compilations = Compilations(monkeypatch)
    (evaluator := few_shot()).prepare(tmp_path, ignore)
    assert compilations.count == 0
    assert values(evaluator) == values(prepared[0])


def test_a_code_is_valued_by_the_weights_of_its_region(prepared):
    evaluator, _, _, _ = prepared
    found = values(evaluator)
    for i, weights in enumerate(evaluator.weights):
        by_hand = evaluator.one_shot.valuation(weights, CODES).accuracy
        assert [found[row] for row in range(9) if CODES[row, 1] == i] == by_hand[CODES[:, 1] == i].tolist()
        params, stats = evaluator.extract(CODES[i])  # codes begin with 0,0 0,1 0,2
        kernel = weights.params["kernel"]
        np.testing.assert_array_equal(params["kernel"], kernel[np.arange(2), [0, i]])
        expected = evaluator.one_shot.valuation.statistics(weights, CODES[i])
        np.testing.assert_allclose(stats["mean"], expected["mean"][np.arange(2), [0, i]])
    assert evaluator.one_shot.trained.weights.params["kernel"].sum() != evaluator.weights[0].params["kernel"].sum()


def test_sub_supernets_learn_from_codes_of_their_region_alone(prepared):
    evaluator, _, _, _ = prepared
    begun = np.asarray(evaluator.one_shot.trained.weights.params["kernel"])
    for i, weights in enumerate(evaluator.weights):
        moved = (np.asarray(weights.params["kernel"]) != begun).any(axis=(2, 3))
        assert moved.tolist() == [[True] * 3, [option == i for option in range(3)]]


def test_sub_supernets_begin_with_the_weights_of_the_supernet(tmp_path, prepared):
    """Trained with next to no learning rate, they give its values to all codes."""
    evaluator, _, _, _ = prepared
    recipe = dataclasses.replace(FURTHER, learning_rate=1e-12, final_learning_rate=0.0, epochs=1)
    still = few_shot(recipe=recipe, one_shot=evaluator.one_shot)
    still.prepare(tmp_path, ignore)
    expected = evaluator.one_shot.evaluate(CODES, KEYS)
    assert values(still) == [outcome.value for outcome in expected]
    assert values(still) != values(evaluator)


def test_prepared_again_everything_is_read(prepared, monkeypatch):
    evaluator, directory, _, _ = prepared
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    compilations = Compilations(monkeypatch)
    (again := few_shot()).prepare(directory, ignore)
    assert compilations.count == 0
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()} == before
    assert values(again) == values(evaluator)


class Stop:
    def __init__(self, at):
        self.at = at

    def __call__(self, line):
        if line.startswith(self.at):
            raise KeyboardInterrupt


@pytest.mark.slow
def test_interrupted_it_keeps_the_split_and_what_is_trained(prepared, tmp_path, monkeypatch):
    """By a tree: it is learned from values on a disk, whatever they would be now."""
    settings = {"split": TreeSplit(depth=1, samples=40), "directory": tmp_path / "leaves"}
    settings |= {"one_shot": prepared[0].one_shot, "recipe": dataclasses.replace(FURTHER, epochs=1)}
    with pytest.raises(KeyboardInterrupt):
        few_shot(**settings).prepare(tmp_path, Stop("sub-supernet 2"))
    done = tmp_path / "leaves" / "region-0" / "final.json"
    before = done.stat().st_mtime_ns
    with np.load(tmp_path / "leaves" / "split.npz") as file:
        kept = {name: file[name] for name in ("codes", "values")}
    assert kept["codes"].shape == (40, 2)
    monkeypatch.setattr(Valuation, "__call__", None)  # to learn a tree again would ask for values
    (again := few_shot(**settings)).prepare(tmp_path, ignore)
    monkeypatch.undo()
    assert done.stat().st_mtime_ns == before
    assert len(again.regions.names) == 2
    region = again.regions.of(kept["codes"])
    assert kept["values"][region == 0].mean() > kept["values"][region == 1].mean()
    assert len(values(again)) == 9


def test_an_unknown_choice_is_refused(tmp_path, prepared):
    evaluator = few_shot(OptionSplit("third"), one_shot=prepared[0].one_shot)
    with pytest.raises(NotPreparedError, match=r"unknown choice 'third'; choose from first, second"):
        evaluator.prepare(tmp_path, ignore)


@dataclasses.dataclass(frozen=True)
class Lopsided:
    """Two regions, one of them without codes."""

    samples: int = 0

    def regions(self, space, codes, values):
        return self

    names = ("nothing", "everything")

    def of(self, codes):
        return np.ones(len(codes), np.int64)


def test_a_region_without_codes_is_refused(tmp_path, prepared):
    evaluator = few_shot(Lopsided(), dataclasses.replace(FURTHER, epochs=1), prepared[0].one_shot)
    with pytest.raises(NotPreparedError, match="nothing: no code of the region among"):
        evaluator.prepare(tmp_path, ignore)
