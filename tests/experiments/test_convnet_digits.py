"""ConvNets on digits: the search, and a table of which no part is made twice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax import study
from lanas_jax.cli import main
from lanas_jax.experiments import convnet_digits
from lanas_jax.formats.errors import FileError
from lanas_jax.formats.npz import read_npz, write_npz
from lanas_jax.models.convnet import ConvNet
from lanas_jax.spaces.convnet import ConvNetSpace
from lanas_jax.storage.trial import Status
from lanas_jax.tables.benchmark import Benchmark
from tests.experiments.chosen import chosen, offered

SIZE = ConvNetSpace().size


@pytest.mark.slow
def test_a_process_makes_its_missing_files(tmp_path, monkeypatch):
    config = convnet_digits.TableConfig(tmp_path, epochs=4, networks=4, vmapped=4, part=1, parts=SIZE // 4)
    convnet_digits.main(config)
    (path,) = tmp_path.iterdir()
    assert path.name == "0001.npz"
    arrays, written = config.table.read(path), path.stat().st_mtime_ns
    np.testing.assert_array_equal(arrays["rows"], config.table.files[path])
    assert arrays["steps"].tolist() == [[38, 38]] * 4  # 4 x 297 images in batches of 32
    for part in ("validation", "test"):
        assert 750 * arrays[part] == pytest.approx(np.round(750 * arrays[part]), abs=1e-3)
        assert (arrays[part][:, 0] != arrays[part][:, 1]).any()
    compiled, tested = convnet_digits.programs(config)
    again = convnet_digits.train_rows(compiled, tested, arrays["rows"][[2, 0]], 2)  # in other places
    np.testing.assert_allclose(again["test_loss"], arrays["test_loss"][[2, 0]], rtol=1e-3)
    monkeypatch.delattr(convnet_digits, "programs")  # which nothing needs any more
    convnet_digits.main(config)
    assert path.stat().st_mtime_ns == written
    with pytest.raises(FileError, match="made with other settings"):
        convnet_digits.main(dataclasses.replace(config, learning_rate=0.1))


def test_the_table_is_in_the_order_of_the_space(tmp_path):
    config = convnet_digits.TableConfig(tmp_path, networks=SIZE // 3)
    with pytest.raises(FileError):
        convnet_digits.write_table(config)
    values = np.stack([np.arange(SIZE), np.arange(SIZE)[::-1]], axis=1) / SIZE
    for path, rows in config.table.files.items():
        columns = dict.fromkeys(convnet_digits.COLUMNS, values[rows]) | {"test": 1 - values[rows]}
        write_npz(path, {"settings": np.array(config.table.settings), "rows": rows, **columns})
    convnet_digits.write_table(config)
    path = tmp_path / "convnet-digits.npz"
    table = Benchmark.load(path)
    np.testing.assert_array_equal(table.codes, ConvNetSpace().enumerate())
    np.testing.assert_array_equal(table.validation, values.astype(np.float32))
    np.testing.assert_array_equal(table.test, (1 - values).astype(np.float32))
    more = read_npz(path, ("parameters", "multiply_adds", "seconds"))
    np.testing.assert_array_equal(more["seconds"], values)
    assert (more["parameters"].max(), more["multiply_adds"].max()) == (5_154, 80_080)


def test_a_part_outside_the_parts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="part must be from 0 to parts - 1, 1; got 2"):
        convnet_digits.TableConfig(tmp_path, part=2, parts=2)


def test_every_searcher_can_be_chosen():
    config = convnet_digits.Config(budget=4, batch=4)
    for name in offered(convnet_digits):
        assert chosen(convnet_digits, config, name).space == ConvNetSpace()


@pytest.mark.slow
def test_a_search_values_networks_as_the_table_does(tmp_path):
    """The values of trials are the validation accuracies of the table's program, from the same codes and keys."""
    experiment = convnet_digits.build(convnet_digits.Config(budget=4, batch=4, searcher="random", epochs=4))
    result = study.run(experiment, tmp_path / "run")
    assert [(trial.status, trial.reason) for trial in result.trials] == [(Status.DONE, None)] * 4
    codes = np.array([trial.code for trial in result.trials])
    table = convnet_digits.TableConfig(tmp_path, epochs=4, vmapped=4)
    compiled, _ = convnet_digits.programs(table)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(experiment.seed), np.arange(4))
    expected = compiled.run(codes, keys).accuracy
    assert [trial.value for trial in result.trials] == pytest.approx(expected, abs=2 / 750)


def test_the_winner_training_trains_the_network_of_its_code():
    """Its initial network has the outputs of the same code in the form of the candidates, from the same key."""
    code, key = np.array([1, 2, 1, 0, 2, 0, 0, 0, 0], np.int32), jax.random.key(3)
    training = convnet_digits.final(convnet_digits.Config(), convnet_digits.Final(), code)
    images = jnp.asarray(convnet_digits.load_few_digits().test.images[:4])
    networks = ConvNet(ConvNetSpace())
    expected, _ = networks.apply(*networks.init(key, code), code, images, train=False)
    found, auxiliary, _ = training.network.apply(
        *training.network.init(key), images, train=False, key=key, drop_path=jnp.float32(0)
    )
    assert auxiliary is None
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_winner_is_trained(tmp_path, capsys):
    run, settings = str(tmp_path / "run"), ("--searcher", "random", "--budget", "4", "--epochs", "1")
    assert main(["search", "convnet_digits", "--out", run, *settings]) == 0
    assert main(["train", run, "--recipe.epochs", "2"]) == 0
    assert "test accuracy" in capsys.readouterr().out
