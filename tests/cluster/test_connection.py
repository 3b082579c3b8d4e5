"""Addresses of clusters."""

import importlib
import importlib.util
import socket

import pytest

from lanas_jax import cli
from lanas_jax.cluster import connection
from lanas_jax.cluster.connection import ClusterError

GOOD = ("ray", "ray:10.0.0.1:6379", "ray:head:6379", "ray:[::1]:6379", "ray://head:10001")
EXPERIMENT = "tests/quick_experiment.py"


@pytest.mark.parametrize("address", GOOD)
def test_addresses(address, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert connection.check_address(address) == address


@pytest.mark.parametrize(
    "address", ["", "dask", "ray:", "ray://", "ray:head", "ray:head:port", "10.0.0.1:6379", "http://a:1", "ray:///a:1"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ClusterError, match="is not a cluster address: choose from local, ray, ray:HOST:PORT"):
        connection.check_address(address)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert connection.check_address("local") == "local"
    with pytest.raises(ClusterError, match=r"needs Ray, which is not installed: pip install 'lanas-jax\[ray\]'"):
        connection.check_address("ray")


@pytest.mark.parametrize("command", [("search", EXPERIMENT), ("resume",)])
def test_the_command_line_refuses_before_anything_is_made(command, tmp_path, capsys):
    run = tmp_path / "run"
    if command[0] == "resume":
        assert cli.main(["search", EXPERIMENT, "--budget", "4", "--out", str(run)]) == 0
        before = sorted(path.name for path in run.iterdir())
    where = ["--out", str(run)] if command[0] == "search" else [str(run)]
    assert cli.main([*command, *where, "--cluster", "slurm"]) == 2
    assert "'slurm' is not a cluster address: choose from local, ray" in capsys.readouterr().err
    assert not run.exists() if command[0] == "search" else sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize("form", ["ray:{}", "ray://{}"])
def test_an_address_at_which_nothing_answers_is_refused_at_once(form, monkeypatch):
    """Ray itself, which is not even asked, would try for minutes."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = form.format(f"127.0.0.1:{listening.getsockname()[1]}")
        refused = pytest.raises(ClusterError, match=rf"no Ray cluster can be reached at {address}: .*refused")
        with refused, connection.connected(address):
            pass
        listening.listen()
        connection._check_reachable(address)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connection._check_reachable("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(OSError, match="refused"):
        connection._check_reachable("ray")
