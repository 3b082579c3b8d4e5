"""What confines JAX to the TPU chips of a host: the variables by the chips, the devices' files and what others set."""

import http.server
import threading

import pytest

from lanas_jax.runtime.one_host import BOUNDS, confine_to_host, local_chips, slice_hosts

SLICE = {  # of one of four hosts, as Google Kubernetes Engine sets them
    "TPU_WORKER_ID": "2",
    "TPU_WORKER_HOSTNAMES": "a,b,c,d",
    "TPU_HOST_BOUNDS": "2,2,1",
    "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
    "MEGASCALE_NUM_SLICES": "2",
}


def host(folder, chips, kind="accel"):
    folder.mkdir(exist_ok=True)
    for name in ["null", *(f"{kind}{i}" for i in range(chips))]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("kind", ["accel", "vfio/"])
@pytest.mark.parametrize("chips", BOUNDS)
def test_a_host_of_a_slice_becomes_a_slice_of_its_own(tmp_path, kind, chips):
    devices, environment = host(tmp_path / "dev", chips, kind), dict(SLICE, HOME="/root")
    (devices / "vfio").mkdir(exist_ok=True)
    (devices / "vfio" / "vfio").touch()
    assert slice_hosts(environment) == 4
    assert confine_to_host(environment, devices)
    assert slice_hosts(environment) == 1
    shape = BOUNDS[chips]
    assert len(local_chips(devices)) == chips == eval(shape.replace(",", "*"))
    assert environment == {
        "HOME": "/root",
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_HOST_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": shape,
        "TPU_CHIPS_PER_HOST_BOUNDS": shape,
        "TPU_VISIBLE_CHIPS": ",".join(str(i) for i in range(chips)),
        "TPU_VISIBLE_DEVICES": ",".join(str(i) for i in range(chips)),
        "TPU_PROCESS_ADDRESSES": "localhost:8476",
        "TPU_PROCESS_PORT": "8476",
        "CLOUD_TPU_TASK_ID": "0",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }


def test_chips_that_were_chosen_stay_the_only_ones_and_have_a_port_of_their_own(tmp_path):
    environment = {"TPU_VISIBLE_CHIPS": "2,3"}
    assert confine_to_host(environment, host(tmp_path / "dev", 4))
    assert environment["TPU_VISIBLE_CHIPS"] == environment["TPU_VISIBLE_DEVICES"] == "2,3"
    assert environment["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,2,1"
    assert environment["TPU_PROCESS_ADDRESSES"] == "localhost:8478"


def test_without_chips_nothing_changes_and_odd_numbers_are_refused(tmp_path):
    environment = dict(SLICE)
    assert not confine_to_host(environment, host(tmp_path / "dev", 0))
    assert environment == SLICE
    with pytest.raises(ValueError, match="one of 1, 2, 4, 8; got 3"):
        confine_to_host(environment, host(tmp_path / "dev", 3))
    assert environment == SLICE


class Metadata(http.server.BaseHTTPRequestHandler):
    """A metadata server that knows four hosts, each as name, number and address."""

    def do_GET(self):
        known = self.path == "/computeMetadata/v1/instance/attributes/worker-network-endpoints"
        known &= self.headers["Metadata-Flavor"] == "Google"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(b"a:0:10.0.0.1,b:1:10.0.0.2,c:2:10.0.0.3,d:3:10.0.0.4" if known else b"no, not, here")

    def log_message(self, *arguments):
        pass


def test_where_the_environment_names_no_hosts_the_metadata_server_does(tmp_path, monkeypatch):
    """Only for a process that would open TPU chips, and through no proxy."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    devices = host(tmp_path / "dev", 4)
    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        machine = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
        assert slice_hosts(machine, devices) == 4
        assert slice_hosts(machine | {"JAX_PLATFORMS": "tpu,cpu"}, devices) == 4
        for others in ({"JAX_PLATFORMS": "cpu"}, {"TPU_SKIP_MDS_QUERY": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}):
            assert slice_hosts(machine | others, devices) == 1
        assert slice_hosts(machine, host(tmp_path / "none", 0)) == 1
        assert slice_hosts(machine | {"TPU_WORKER_HOSTNAMES": "a,b"}, devices) == 2
        server.shutdown()
    assert slice_hosts(machine, devices) == 1  # nobody answers
