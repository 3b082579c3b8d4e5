"""Where there is room for workers."""

import pytest

from lanas_jax.cluster import nodes
from lanas_jax.cluster.nodes import ClusterNode
from lanas_jax.cluster.settings import ClusterSettings

HEAD = ClusterNode("a", "10.0.0.1", {"CPU": 4.0})
GPUS = ClusterNode("b", "10.0.0.2", {"CPU": 16.0, "GPU": 8.0})
TPUS = ClusterNode("c", "10.0.0.3", {"CPU": 96.0, "TPU": 4.0})


@pytest.mark.parametrize(
    ("found", "asked", "kind"),
    [
        ([HEAD], "auto", "cpu"),
        ([HEAD, GPUS], "auto", "gpu"),
        ([HEAD, GPUS, TPUS], "auto", "tpu"),
        ([HEAD, GPUS, TPUS], "gpu", "gpu"),
        ([GPUS], "cpu", "cpu"),
    ],
)
def test_workers_compute_with_the_best_there_is_or_as_asked(found, asked, kind):
    assert nodes.device(found, ClusterSettings(device=asked)) == kind


@pytest.mark.parametrize(
    ("node", "kind", "settings", "workers"),
    [
        (HEAD, "cpu", ClusterSettings(), 4),
        (HEAD, "cpu", ClusterSettings(cores=3.0), 1),
        (HEAD, "cpu", ClusterSettings(cores=0.25), 16),
        (HEAD, "cpu", ClusterSettings(cores=8.0), 0),
        (HEAD, "gpu", ClusterSettings(), 0),
        (GPUS, "gpu", ClusterSettings(), 8),
        (GPUS, "gpu", ClusterSettings(cores=4.0), 8),  # there are two cores for each GPU: more are not waited for
        (TPUS, "tpu", ClusterSettings(), 1),  # all chips of a host
        (HEAD, "tpu", ClusterSettings(), 0),
    ],
)
def test_room(node, kind, settings, workers):
    assert nodes.room(node, nodes.need(node, kind, settings)) == workers


def test_a_worker_never_needs_more_than_its_node_has():
    assert nodes.need(GPUS, "gpu", ClusterSettings(cores=4.0)) == {"GPU": 1.0, "CPU": 2.0}
    assert nodes.need(TPUS, "tpu", ClusterSettings(cores=8.0)) == {"TPU": 4.0, "CPU": 8.0}


def test_nodes_that_are_gone_do_not_count():
    told = [
        {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 4.0}, "Alive": True},
        {"NodeID": "b", "NodeManagerAddress": "10.0.0.2", "Resources": {}, "Alive": False},
    ]
    assert nodes.alive(told) == [HEAD]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workers": 0}, "workers must be at least 1; got 0"),
        ({"tries": 0}, "tries must be at least 1; got 0"),
        ({"calls": -1}, "calls must be at least 1; got -1"),
        ({"per_device": 0}, "per_device must be at least 1; got 0"),
        ({"cores": 0.0}, "cores must be greater than 0; got 0.0"),
        ({"cores": 1.5}, "cores must be an integer, or between 0 and 1; got 1.5"),
        ({"seconds": -1.0}, "seconds must be greater than 0; got -1.0"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ClusterSettings(**wrong)
