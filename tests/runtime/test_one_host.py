"""What confines JAX to the TPU chips of a host: the variables by the chips, the devices' files and what others set."""

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
