"""`lanas extract`, from a search by a supernet to logits in another process, and on to `lanas train`."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.cli import main
from lanas_jax.export import load
from lanas_jax.storage.trial import best
from lanas_jax.storage.trials import TrialStore
from lanas_jax.storage.weights import names
from lanas_jax.study import run_folder
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.loop import restored
from lanas_jax.trainer.step import shapes
from tests.refusals import refused
from tests.supernet.linear_experiment import Config, Final, final
from tests.supernet.linear_supernet import SCALING, dataset

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "tests" / "supernet" / "linear_experiment.py"
DATA = dataset()
STILL = ("--recipe.learning-rate", "1e-12", "--recipe.final-learning-rate", "0", "--recipe.epochs", "1")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run, what searching printed, and the evaluator as another process would have it."""
    run, printed = tmp_path_factory.mktemp("searched") / "a*b?[/c]" / "run", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["search", str(EXPERIMENT), "--out", str(run)]) == 0
    evaluator = run_folder.open_run(run).experiment().evaluator
    evaluator.prepare(run, print)
    return run, printed.getvalue(), evaluator


@pytest.fixture(scope="module")
def extracted(searched):
    """The best network of the run, in the default folder and format."""
    run, _, _ = searched
    assert main(["extract", str(run)]) == 0
    return run / "extracted"


def trials(run):
    with TrialStore.open(run / "trials.sqlite", read_only=True) as store:
        return store.trials()


def logits(evaluator, code, images):
    """Of the supernet, with the batch statistics by which it values the code."""
    weights = evaluator.trained.weights
    stats = evaluator.valuation.statistics(weights, np.array(code))
    scaled = SCALING(jnp.asarray(images))
    return evaluator.supernet.apply(weights.params, stats, np.array(code), scaled, train=False)[0]


def test_the_search_trains_the_supernet_once_and_values_by_it(searched):
    run, printed, evaluator = searched
    assert printed.count("supernet: 40 steps") == 1
    assert "supernet: 40 of 40 steps" in printed
    found = trials(run)
    assert len(found) == 6
    codes = np.array([trial.code for trial in found], np.int32)
    expected = evaluator.valuation(evaluator.trained.weights, codes).accuracy
    assert [trial.value for trial in found] == expected.tolist()


def test_the_best_network_is_extracted(searched, extracted):
    run, _, evaluator = searched
    winner = best(trials(run))
    network = load.load(extracted)
    images = DATA.search.validation.images
    ours = network(images)
    np.testing.assert_allclose(ours, logits(evaluator, winner.code, images), rtol=1e-4, atol=1e-5)
    assert np.mean(np.argmax(ours, axis=1) == DATA.search.validation.labels) == pytest.approx(winner.value)
    about = json.loads((extracted / "architecture.json").read_text())
    assert about["code"] == list(winner.code)
    assert about["validation_accuracy"] == winner.value
    assert (about["weights"], about["format"], about["test_accuracy"]) == ("extracted", "safetensors", None)
    assert (about["multiply_adds"], about["parameters"], about["trained_parameters"]) == (None, None, 2 * 36 * 3)
    assert (about["image_shape"], about["classes"]) == ([6, 6, 1], 3)


@pytest.mark.parametrize("kind", ["safetensors", "orbax"])
def test_any_network_in_either_format(searched, tmp_path, kind, capsys):
    run, _, evaluator = searched
    out = tmp_path / "out"
    assert main(["extract", str(run), "--code", "2,1", "--out", str(out), "--format", kind]) == 0
    assert f"{out}: python load.py IMAGES.npy LOGITS.npy" in capsys.readouterr().out
    assert (out / "weights.safetensors").exists() == (kind == "safetensors")
    found = load.load(out)(DATA.test.images)
    np.testing.assert_allclose(found, logits(evaluator, (2, 1), DATA.test.images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_load_runs_in_a_process_of_its_own(searched, extracted, tmp_path):
    run, _, evaluator = searched
    np.save(tmp_path / "images.npy", DATA.test.images)
    command = [sys.executable, str(extracted / "load.py"), "images.npy", "logits.npy"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    expected = logits(evaluator, best(trials(run)).code, DATA.test.images)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_extracted(searched, extracted, tmp_path, capsys):
    run, _, _ = searched
    assert f"{extracted} is not empty: give a new or an empty folder with --out" in refused(capsys, "extract", run)
    code = ("--out", tmp_path / "out", "--code")
    assert "the code has 3 integers, expected 2" in refused(capsys, "extract", run, *code, "0,1,2")
    assert "position 1 (second) holds 7, expected 0 to 2" in refused(capsys, "extract", run, *code, "0,7")
    assert "contains no run" in refused(capsys, "extract", tmp_path)
    plain = tmp_path / "plain"
    assert main(["search", str(EXPERIMENT), "--values", "random", "--out", str(plain)]) == 0
    message = f"{plain} did not use a supernet, so there is nothing to extract"
    assert message in refused(capsys, "extract", plain)
    assert not (tmp_path / "out").exists()


def test_a_run_without_trials_has_no_best_network(searched, tmp_path, capsys):
    run, _, _ = searched
    for name in ("config.json", "experiment.py"):
        shutil.copy(run / name, tmp_path)
    TrialStore.create(tmp_path / "trials.sqlite").close()
    message = refused(capsys, "extract", tmp_path)
    assert f"no trial of {tmp_path} has succeeded yet: choose a network with --code" in message


def state(folder):
    """The last state of a training."""
    made = final(Config(), Final(), np.array(json.loads((folder / "training.json").read_text())["code"]))
    return restored(folders.open_folder(folder), shapes(made.network, made.recipe)).state


def test_a_training_begins_with_extracted_weights(searched, extracted, tmp_path):
    """With next to no learning rate it ends with them; the batch statistics move."""
    run, _, _ = searched
    out = tmp_path / "out"
    assert main(["train", str(run), "--weights", str(extracted), "--out", str(out), *STILL]) == 0
    weights, given = state(out).weights, load.load(extracted).weights
    np.testing.assert_allclose(weights.params["kernel"], given.params["kernel"], atol=1e-9)
    assert not np.allclose(weights.batch_stats["mean"], given.batch_stats["mean"])


@pytest.mark.slow
def test_a_training_with_given_weights_is_continued_from_its_folder_alone(searched, extracted, tmp_path, capsys):
    """At its end it is reported; without its checkpoints, as if killed early, it begins with the kept weights."""
    run, _, _ = searched
    given, out = shutil.copytree(extracted, tmp_path / "given"), tmp_path / "out"
    command = ["train", str(run), "--weights", str(given), "--out", str(out), "--recipe.epochs", "1"]
    assert main(command) == 0
    weights = state(out).weights
    shutil.rmtree(given)
    assert main(["train", str(out)]) == 0
    assert "this training is already complete" in capsys.readouterr().out
    (out / "final.json").unlink()
    shutil.rmtree(out / "checkpoint")
    (run / "results.jsonl").unlink()  # or the run's result would be shown
    assert main(["train", str(out)]) == 0
    again = names(state(out).weights)
    for name, array in names(weights).items():
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.slow
def test_other_weights_or_none_in_the_same_folder_are_refused(searched, extracted, tmp_path, capsys):
    run, _, _ = searched
    other, out = tmp_path / "other", tmp_path / "out"
    code = ("--code", ",".join(map(str, best(trials(run)).code)))
    shutil.copytree(extracted, other)
    arrays = load.read_weights(other)
    from safetensors.numpy import save_file

    save_file(arrays | {"params/kernel": arrays["params/kernel"] + 1}, other / "weights.safetensors")
    command = ("train", run, *code, "--out", out, *STILL)
    assert main(list(map(str, (*command, "--weights", extracted)))) == 0
    message = refused(capsys, *command, "--weights", other)
    assert "holds a different training: the initial weights: " in message
    assert ", now None. To continue" in refused(capsys, *command)


def test_weights_of_another_shape_are_refused_before_anything_is_written(searched, extracted, tmp_path, capsys):
    from safetensors.numpy import save_file

    run, _, _ = searched
    wrong = shutil.copytree(extracted, tmp_path / "wrong")
    kernel = np.zeros((2, 36, 4), np.float32)
    save_file({"params/kernel": kernel}, wrong / "weights.safetensors")
    out = tmp_path / "out"
    message = refused(capsys, "train", run, "--weights", wrong, "--out", out)
    assert "params/kernel is float32[2, 36, 4], expected float32[2, 36, 3]" in message
    assert not out.exists()
    message = refused(capsys, "train", run, "--weights", tmp_path, "--out", out)
    assert f"{tmp_path} holds no weights: expected weights.safetensors or weights" in message
    assert not out.exists()


def test_weights_have_names_that_say_where_they_belong(extracted):
    found = names(load.load(extracted).weights)
    assert {name: array.shape for name, array in found.items()} == {
        "params/kernel": (2, 36, 3), "batch_stats/mean": (2, 3), "batch_stats/var": (2, 3),
    }  # fmt: skip
    assert set(load.read_weights(extracted)) == set(found)


@pytest.mark.slow
def test_few_shot_from_search_to_extraction(tmp_path):
    run = tmp_path / "run"
    assert main(["search", str(EXPERIMENT), "--values", "few_shot", "--out", str(run)]) == 0
    assert main(["extract", str(run)]) == 0
    accuracy = np.mean(
        np.argmax(load.load(run / "extracted")(DATA.search.validation.images), axis=1) == DATA.search.validation.labels
    )
    assert accuracy == pytest.approx(best(trials(run)).value)


@pytest.mark.slow
def test_its_values_are_ranked_against_trainings_from_scratch(searched, tmp_path):
    run = shutil.copytree(searched[0], tmp_path / "run")
    assert main(["rank", str(run), "--networks", "4", "--pool", "9"]) == 0
    found = json.loads((run / "ranking" / "ranking.json").read_text())
    assert found["correlations"]["one-shot"]["networks"] == 4
