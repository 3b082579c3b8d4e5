"""`lanas train` and `lanas export`, from a search to logits in another process."""

import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.cli import main
from lanas_jax.export import load
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.results import network_results
from lanas_jax.storage.trial import best
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study.discovery import ExperimentError
from tests.refusals import refused
from tests.trainer.tiny_experiment import SCALING, Config, TinyNetwork, TinySpace, dataset

ROOT = Path(__file__).parents[2]
EXPERIMENT = str(ROOT / "tests" / "trainer" / "tiny_experiment.py")
IMAGES = dataset(Config()).test.images


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A search, and the training of its winner: the run, and what the training printed."""
    run, printed = tmp_path_factory.mktemp("search") / "runs[2]" / "run", io.StringIO()
    stdout, sys.stdout = sys.stdout, printed
    try:
        assert main(["search", EXPERIMENT, "--out", str(run)]) == 0
        printed.truncate(printed.seek(0))
        assert main(["train", str(run), "--recipe.epochs", "2", "--recipe.train-on", "train"]) == 0
    finally:
        sys.stdout = stdout
    return run, printed.getvalue()


def test_the_winner_is_trained_with_the_settings_given(trained):
    run, printed = trained
    final = json.loads((run / "final" / "final.json").read_text())
    with TrialStore.open(run / "trials.sqlite") as store:
        assert tuple(final["code"]) == best(store.trials()).code == (0, 1)
    assert final["settings"]["recipe"]["epochs"] == 2
    assert final["steps"] == 15
    assert len((run / "final" / "metrics.csv").read_text().splitlines()) == 1 + 15
    assert {path.name for path in (run / "final").iterdir()} >= {
        "training.json", "final.json", "metrics.csv", "checkpoint", "experiment.py",
    }  # fmt: skip
    lines = printed.splitlines()
    assert lines[0] == f"tiny: 2 epochs, in {run / 'final'}"
    assert lines[1].startswith("epoch 1/2 · step 5/15 · loss ")
    assert lines[2].startswith("epoch 2/2 · step 15/15 · loss ")
    accuracy = f"{final['test_accuracy']:.4f}, average of weights {final['ema_test_accuracy']:.4f}"
    assert f"test accuracy {accuracy}" in lines
    assert f"search-validation accuracy {final['validation_accuracy']:.4f}, average of weights" in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize("command", ["resume", "trials", "report"])
def test_the_run_is_still_one(trained, capsys, command):
    assert main([command, str(trained[0])]) == 0
    assert "error" not in capsys.readouterr().out


def test_same_command_again_reports_what_is_recorded(trained, capsys):
    run, printed = trained
    for again in (["train", str(run / "final")], ["train", str(run)], ["train", str(run), "--recipe.epochs=2"]):
        assert main(again) == 0
        out = capsys.readouterr().out
        assert "this training is already complete; showing its recorded result" in out
        assert out.splitlines()[-3:] == printed.splitlines()[-3:]


def test_test_images_are_read_once_per_network_of_a_run(trained, tmp_path, capsys):
    """The same training in another folder shows the recorded result; another recipe is another network."""
    run, printed = trained
    assert main(["train", str(run), "--out", str(tmp_path / "same")]) == 0
    out = capsys.readouterr().out
    assert "the run already has the result of this training; showing it" in out
    assert out.splitlines()[-3:-1] == printed.splitlines()[-3:-1]
    assert not (tmp_path / "same").exists()
    assert main(["train", str(run), "--out", str(tmp_path / "other"), "--recipe.learning-rate", "0.05"]) == 0
    said = f"the test images have been read before, for another network of this run: {run / 'final'}"
    assert said in capsys.readouterr().out
    assert json.loads((tmp_path / "other" / "final.json").read_text())["networks_tested_before"] == 1
    (tmp_path / "other" / "final.json").unlink()  # killed between the two records
    assert main(["train", str(tmp_path / "other")]) == 0
    assert "this training is already complete; showing its recorded result" in capsys.readouterr().out
    assert (tmp_path / "other" / "final.json").exists()
    assert [Path(one.directory) for one in network_results(run)] == [run / "final", tmp_path / "other"]
    assert main(["report", str(run)]) == 0
    assert "test images read for 2 networks" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_trial_that_is_picked_is_trained_in_a_folder_of_its_own(trained, capsys):
    run, _ = trained
    with TrialStore.open(run / "trials.sqlite") as store:
        other = min((trial for trial in store.trials() if trial.value is not None), key=lambda trial: trial.value)
    options = ["--recipe.epochs", "1", "--recipe.train-on", "train"]
    assert main(["train", str(run), "--pick", f"trial {other.id}", *options]) == 0
    final = json.loads((run / f"trial-{other.id}" / "final.json").read_text())
    assert tuple(final["code"]) == other.code != (0, 1)
    capsys.readouterr()
    assert main(["train", str(run), "--pick", f"trial {other.id}"]) == 0  # with the settings of that training
    assert "1 epochs, in" in capsys.readouterr().out
    assert "trial 999 does not exist" in refused(capsys, "train", run, "--pick", "knee", "--pick", "trial 999")
    assert "give --code or --pick, not both" in refused(capsys, "train", run, "--pick", "knee", "--code", "2,1")
    assert "--pick needs the folder of a search" in refused(capsys, "train", run / "final", "--pick", "knee")
    assert "has one objective, so its front is its best trial" in refused(capsys, "front", run)


def test_other_settings_are_refused_and_named(trained, capsys):
    run, _ = trained
    message = refused(capsys, "train", run, "--recipe.epochs", "3", "--recipe.train-on", "train")
    assert f"{run / 'final'} holds a different training: the settings: recipe.epochs 2, now 3" in message
    assert f"lanas train '{run / 'final'}'; to start a new one, give another folder" in message
    assert "the code: [0, 1], now [2, 1]" in refused(capsys, "train", run / "final", "--code", "2,1")


@pytest.mark.slow
def test_a_preset_is_where_other_settings_begin(trained, tmp_path, capsys):
    out = tmp_path / "short"
    assert (
        main(["train", EXPERIMENT, "--code", "0,1", "--out", str(out), "--preset=short", "--recipe.ema", "None"]) == 0
    )
    settings = json.loads((out / "final.json").read_text())["settings"]
    assert (settings["seed"], settings["recipe"]["epochs"], settings["recipe"]["batch_size"]) == (5, 1, 36)
    assert settings["recipe"]["ema"] is None
    capsys.readouterr()
    run, _ = trained
    assert "recipe.epochs 2, now 1" in refused(capsys, "train", run, "--preset", "short")
    assert "tiny has no preset 'long': choose from short" in refused(capsys, "train", run, "--preset", "long")
    with pytest.raises(SystemExit):
        main(["train", str(run), "--help"])
    assert "short" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("0,1,2", "the code has 3 integers, expected 2"),
        ("0,7", "position 1 (width) holds 7, expected 0 to 1"),
        ("1,0", "the code violates a rule or a cost limit"),
        ("0,x", "is 'x', which is not an integer"),
    ],
)
def test_wrong_codes(trained, tmp_path, capsys, code, message):
    for target in (trained[0], EXPERIMENT):
        assert message in refused(capsys, "train", target, "--code", code, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_trained(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "tiny_experiment is an experiment, which has no best network" in refused(capsys, "train", EXPERIMENT)
    assert "contains neither a run nor a training" in refused(capsys, "train", tmp_path)
    assert "there is no experiment 'digitz'" in refused(capsys, "train", "digitz")
    assert "usage: lanas train RUN" in refused(capsys, "train")
    message = refused(capsys, "train", ROOT / "tests" / "quick_experiment.py", "--code", "0,0,0,0")
    assert "missing dataclass Final and function final(config, settings, code)" in message
    code = ("--code", "0,1")
    assert "at most the number of training images, 123; got 7000" in refused(
        capsys, "train", EXPERIMENT, *code, "--recipe.batch-size", "7000"
    )
    assert "multiple of the number of devices, 4; got 9" in refused(
        capsys, "train", EXPERIMENT, *code, "--recipe.batch-size", "9"
    )
    assert "drop_path must be in [0, 1); got 1.5" in refused(
        capsys, "train", EXPERIMENT, *code, "--recipe.drop-path", "1.5"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_winner_or_final_says_what_to_do(trained, tmp_path, capsys):
    run, _ = trained
    for name in ("config.json", "experiment.py"):
        shutil.copy(run / name, tmp_path)
    TrialStore.create(tmp_path / "trials.sqlite").close()
    assert f"no trial of {tmp_path} has succeeded yet" in refused(capsys, "train", tmp_path)
    shutil.copy(run / "trials.sqlite", tmp_path)
    old = (tmp_path / "experiment.py").read_text().replace("def final(", "def formerly(")
    (tmp_path / "experiment.py").write_text(old)
    assert "to use a newer file, give the winner's code: lanas train EXPERIMENT --code 0,1" in refused(
        capsys, "train", tmp_path
    )


def test_an_experiment_is_trained_without_a_run_and_stops_where_it_breaks(tmp_path, capsys):
    """With settings of the experiment: its bright image breaks the network that takes a root."""
    out = tmp_path / "out"
    message = refused(
        capsys,
        "train",
        EXPERIMENT,
        "--code",
        "2,1",
        "--config.bright",
        "3",
        "--recipe.epochs",
        "1",
        "--out",
        out,
        code=1,
    )
    assert "lanas train: the loss is nan at step" in message
    assert "no checkpoint yet" in message
    assert json.loads((out / "training.json").read_text())["config"]["bright"] == 3
    assert not (out / "final.json").exists()
    assert f"{out} holds an incomplete training: run lanas train {out} first" in refused(capsys, "export", out)


def logits(images, weights):
    network = TinyNetwork(TinySpace(), (0, 1))
    apply = jax.jit(lambda images: network.apply(
        *weights, SCALING(images), train=False, key=jax.random.key(1), drop_path=jnp.float32(0.7)
    )[0])  # fmt: skip
    return np.asarray(apply(images))


def last_state(run):
    """The weights as orbax wrote them, read without anything of ours."""
    import orbax.checkpoint as ocp

    saved = ocp.PyTreeCheckpointer().restore(run / "final" / "checkpoint" / "15" / "state")
    return {int(number): np.asarray(leaf) for number, leaf in saved.items()}


def weights_of(run, average=False):
    """The weights of a run's network: 7 parameters and 2 statistics, followed in its state by their average."""
    shapes = jax.eval_shape(TinyNetwork(TinySpace(), (0, 1)).init, jax.random.key(0))
    saved = last_state(run)
    return jax.tree.unflatten(jax.tree.structure(shapes), [saved[i + 9 * average] for i in range(9)])


@pytest.mark.parametrize(
    ("weights", "kind"), [("last", "safetensors"), ("ema", "safetensors"), ("last", "orbax"), ("ema", "orbax")]
)
def test_exported_weights_give_the_logits_of_the_trained_network(trained, tmp_path, weights, kind, capsys):
    run, _ = trained
    out = tmp_path / "out"
    assert main(["export", str(run), "--out", str(out), "--weights", weights, "--format", kind]) == 0
    network = load.load(out)
    expected = weights_of(run, average=weights == "ema")
    np.testing.assert_allclose(network(IMAGES), logits(IMAGES, expected), rtol=1e-5, atol=1e-6)
    final = json.loads((run / "final" / "final.json").read_text())
    about = json.loads((out / "architecture.json").read_text())
    assert about["test_accuracy"] == final["test_accuracy" if weights == "last" else "ema_test_accuracy"]
    assert about["test_accuracy"] == np.mean(np.argmax(network(IMAGES), axis=1) == dataset(Config()).test.labels)
    assert (about["code"], about["weights"], about["parameters"]) == ([0, 1], weights, 691)
    assert about["scaling"] == {"mean": [0.5], "deviation": [0.5]}
    assert about["description"] == "activation  relu\nwidth       8"


@pytest.mark.slow
def test_load_runs_in_a_process_of_its_own(trained, tmp_path, capsys):
    run, _ = trained
    assert main(["export", str(run / "final"), "--out", str(tmp_path / "out")]) == 0
    np.save(tmp_path / "images.npy", IMAGES)
    command = [sys.executable, str(tmp_path / "out" / "load.py"), "images.npy", "logits.npy"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    expected = logits(IMAGES, load.load(tmp_path / "out").weights)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-5, atol=1e-6)


def test_a_program_runs_without_this_package_for_any_number_of_images(trained, tmp_path, monkeypatch, capsys):
    run, _ = trained
    expected = logits(IMAGES, weights_of(run))
    assert main(["export", str(run), "--out", str(tmp_path / "out"), "--format", "stablehlo"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: python load.py IMAGES.npy LOGITS.npy\n"
    program = jax.export.deserialize(bytearray((tmp_path / "out" / "network.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "rocm", "tpu")
    assert str(program.in_avals) == "(ShapedArray(uint8[batch,6,6,1]),)"
    for n in (1, 45):
        np.testing.assert_allclose(program.call(IMAGES[:n]), expected[:n], rtol=1e-5, atol=1e-6)
    script = tmp_path / "out" / "load.py"
    assert "lanas_jax" not in script.read_text()
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", IMAGES)
    monkeypatch.setattr(sys, "argv", [str(script), "images.npy", "logits.npy"])
    runpy.run_path(str(script), run_name="__main__")
    np.testing.assert_allclose(np.load("logits.npy"), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(RunError, match="holds a program of format stablehlo: run its load"):
        load.load(tmp_path / "out")


def test_weights_become_a_program_later(trained, tmp_path, capsys):
    weights, program = tmp_path / "weights", tmp_path / "program"
    assert main(["export", str(trained[0]), "--out", str(weights), "--weights", "ema"]) == 0
    assert main(["export", str(weights), "--format", "stablehlo", "--out", str(program)]) == 0
    message = refused(capsys, "export", weights, "--format", "stablehlo", "--weights", "last", "--out", tmp_path / "no")
    assert f"{weights} contains the weights ema, not last: leave out --weights" in message
    about = json.loads((program / "architecture.json").read_text())
    assert about == json.loads((weights / "architecture.json").read_text()) | {"format": "stablehlo"}
    assert "is not empty" in refused(capsys, "export", weights, "--format", "stablehlo", "--out", program)
    found = jax.export.deserialize(bytearray((program / "network.stablehlo").read_bytes())).call(IMAGES)
    np.testing.assert_allclose(found, load.load(weights)(IMAGES), rtol=1e-5, atol=1e-6)


def test_a_network_is_loaded_without_the_teacher_that_it_had(trained, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(trained[0]), "--out", str(out)]) == 0
    about, source = json.loads((out / "architecture.json").read_text()), (out / "experiment.py").read_text()
    about["settings"]["teacher"] = str(tmp_path / "missing")
    (out / "architecture.json").write_text(json.dumps(about))
    body = """
    from lanas_jax.export.teachers import read_teacher
    teacher = None if settings.teacher is None else read_teacher(settings.teacher)
    recipe = dataclasses.replace(settings.recipe, distillation=0.0 if teacher is None else 0.5)
    settings = dataclasses.replace(settings, recipe=recipe)
"""
    source = source.replace(seed := "    seed: int = 0\n", f"{seed}    teacher: str | None = None\n")
    source = source.replace(said := '    """The final training of one network."""\n', said + body)
    (out / "experiment.py").write_text(source.replace("MIRRORED, settings.seed)", "MIRRORED, settings.seed, teacher)"))
    assert load.load(out).architecture["settings"]["teacher"].endswith("missing")
    (out / "experiment.py").write_text(source.replace(body, body + "    read_teacher(str(settings.teacher))\n"))
    with pytest.raises(ExperimentError, match="the teacher must be a folder of lanas extract or lanas export"):
        load.load(out)


def test_the_script_writes_features_of_images_of_any_size(trained, tmp_path, monkeypatch, capsys):
    assert main(["export", str(trained[0]), "--out", str(tmp_path / "out")]) == 0
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 200, (3, 12, 8, 1)).astype(np.uint8)
    np.save("images.npy", images)
    monkeypatch.setattr(sys, "argv", ["load.py", "images.npy", "features.npz"])
    runpy.run_path(str(tmp_path / "out" / "load.py"), run_name="__main__")
    found = np.load("features.npz")
    assert found.files == ["stage0"]
    assert found["stage0"].shape == (3, 12, 8, 8)
    network = load.load(tmp_path / "out")
    head = jax.tree.map(np.asarray, network.weights.params["head"])
    pooled = np.asarray(network.features(IMAGES)[0]).mean((1, 2))
    np.testing.assert_allclose(pooled @ head["kernel"] + head["bias"], network(IMAGES), rtol=1e-4, atol=1e-5)


def test_weights_have_names_that_say_where_they_belong(trained, tmp_path, capsys):
    from safetensors.numpy import load_file

    assert main(["export", str(trained[0]), "--out", str(tmp_path / "out")]) == 0
    shapes = {name: array.shape for name, array in load_file(tmp_path / "out" / "weights.safetensors").items()}
    assert shapes == {
        "params/auxiliary/kernel": (8, 3),
        "params/branch": (3, 3, 8, 8),
        "params/head/bias": (3,),
        "params/head/kernel": (8, 3),
        "params/norm/bias": (8,),
        "params/norm/scale": (8,),
        "params/stem": (3, 3, 1, 8),
        "batch_stats/norm/mean": (8,),
        "batch_stats/norm/var": (8,),
    }


def test_export_that_cannot_be(trained, tmp_path, capsys, monkeypatch):
    run, _ = trained
    assert "contains no training: it has no training.json" in refused(capsys, "export", tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").touch()
    assert "used is not empty: give a new or an empty folder" in refused(
        capsys, "export", run, "--out", tmp_path / "used"
    )
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    message = refused(capsys, "export", run, "--out", tmp_path / "out", "--format", "onnx")
    assert "jax2onnx is not installed: pip install 'lanas-jax[onnx]', or use --format stablehlo" in message
    message = refused(capsys, "export", run, "--out", tmp_path / "out")
    assert "safetensors is not installed: pip install 'lanas-jax[export]', or use --format orbax" in message


def test_exported_network_refuses_other_images_and_other_weights(trained, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    assert main(["export", str(trained[0]), "--out", str(tmp_path / "out")]) == 0
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \[n, 6, 6, 1\]; got float32"):
        load.load(tmp_path / "out")(IMAGES.astype(np.float32))
    file = tmp_path / "out" / "weights.safetensors"
    save_file(load_file(file) | {"params/stem": np.zeros((3, 3, 1, 4), np.float32)}, file)
    with pytest.raises(RunError, match=r"params/stem is float32\[3, 3, 1, 4\], expected float32\[3, 3, 1, 8\]"):
        load.load(tmp_path / "out")
    with pytest.raises(RunError, match="contains no exported network"):
        load.load(tmp_path)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(RunError, match=r"weights.safetensors is damaged"):
        load.load(tmp_path / "out")
    for text, message in (("[1", "is damaged"), ("{}", "is incomplete: missing keys code"), ("[]", "found list")):
        (tmp_path / "out" / "architecture.json").write_text(text)
        assert message in refused(capsys, "export", tmp_path / "out", "--format", "stablehlo")


def test_a_network_whose_options_moved_is_refused(trained, tmp_path, capsys):
    """Its weights would still fit, since both activations have none."""
    run, _ = trained
    out = tmp_path / "out"
    assert main(["export", str(run), "--out", str(out)]) == 0
    for folder in (out, shutil.copytree(run / "final", tmp_path / "final")):
        moved = (folder / "experiment.py").read_text().replace('("relu", "identity"', '("identity", "relu"')
        (folder / "experiment.py").write_text(moved)
    changed = (
        "belongs to another space: options of choice 'activation': 'relu', 'identity', 'root', now 'identity', 'relu'"
    )
    with pytest.raises(RunError, match=changed):
        load.load(out)
    assert changed in refused(capsys, "export", tmp_path / "final", "--out", tmp_path / "more")


def test_a_resumed_search_says_whose_training_it_keeps(trained, tmp_path, capsys):
    run = shutil.copytree(trained[0], tmp_path / "run")
    assert main(["resume", str(run)]) == 0
    assert "earlier winner" not in capsys.readouterr().out
    record = run / "final" / "training.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"code": [2, 1]}))
    assert main(["resume", str(run)]) == 0
    kept = (
        f"{run / 'final'} holds the training of an earlier winner (2,1); to train the new one: lanas train {run} --out"
    )
    assert kept in capsys.readouterr().out
