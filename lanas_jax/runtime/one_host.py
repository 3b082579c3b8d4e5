"""Confining JAX to the TPU chips of one host, of a slice of several.

On a slice of several hosts, JAX waits at its start until all of them have started. A command that runs on one host, and
a worker that must come back alone when it is lost, therefore describe to the TPU's driver a slice of their own chips.
The driver reads environment variables when JAX opens the TPU. On a machine without TPU chips nothing is changed: JAX
joins other processes there only with the options --hosts.
"""

import http.client
import urllib.request
from collections.abc import Mapping, MutableMapping
from pathlib import Path

BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}  # chips of a host -> their arrangement
FIRST_PORT = 8476  # of the driver; a process uses the port of its first chip
METADATA_SECONDS = 5.0  # maximum time to wait for the metadata server
_VISIBLE = ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")  # the present name and the former one
_OTHER_SLICES = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID", "MEGASCALE_PORT")


def local_chips(devices: Path = Path("/dev")) -> list[int]:
    """Returns the numbers of this host's TPU chips.

    Args:
      devices: folder of the device files: ``accel0``, ... for older chips, ``vfio/0``, ... for newer ones.
    """
    names = [path.name.removeprefix("accel") for path in devices.glob("accel*")]
    names = names or [path.name for path in devices.glob("vfio/*")]
    return list(range(sum(name.isdigit() for name in names)))


def slice_hosts(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """Returns the number of hosts that JAX would wait for; 1 if that is unknown.

    Google Kubernetes Engine names the hosts of a slice in the environment. On other TPU machines of Google Cloud, this
    function asks the metadata server, as the TPU's driver does.

    Args:
      environment: environment of this process.
      devices: folder of the device files.
    """
    platforms = environment.get("JAX_PLATFORMS")
    if environment.get("TPU_PROCESS_BOUNDS") == "1,1,1" or (platforms and "tpu" not in platforms):
        return 1
    names = environment.get("TPU_WORKER_HOSTNAMES")
    if names is None and "TPU_SKIP_MDS_QUERY" not in environment and local_chips(devices):
        names = _machine_attribute("worker-network-endpoints", environment)
    return (names or "").count(",") + 1


def _machine_attribute(name: str, environment: Mapping[str, str]) -> str | None:
    """Returns an attribute of this machine from the metadata server of Google Cloud; None if there is none."""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")  # the variable is JAX's
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{name}", headers={"Metadata-Flavor": "Google"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=METADATA_SECONDS) as answer:
            found: bytes = answer.read()
    except (OSError, http.client.HTTPException):
        return None
    return found.decode(errors="replace")


def confine_to_host(environment: MutableMapping[str, str], devices: Path = Path("/dev")) -> bool:
    """Sets the variables that confine JAX to the chips of this host. Must be called before JAX opens the TPU.

    Chips that were chosen by ``TPU_VISIBLE_CHIPS``, as Ray does for a worker that takes some of a host's chips, stay
    the only ones.

    Args:
      environment: environment of this process.
      devices: folder of the device files.

    Returns:
      True if variables were set; False if there are no chips.

    Raises:
      ValueError: there is no arrangement of that number of chips.
    """
    chosen = next((environment[name] for name in _VISIBLE if environment.get(name)), None)
    chips = local_chips(devices) if chosen is None else [int(chip) for chip in chosen.split(",")]
    if not chips:
        return False
    if len(chips) not in BOUNDS:
        raise ValueError(f"the number of TPU chips must be one of {', '.join(map(str, BOUNDS))}; got {len(chips)}")
    visible, port = ",".join(map(str, chips)), FIRST_PORT + chips[0]
    for name in _OTHER_SLICES:
        environment.pop(name, None)
    environment.update(
        {
            **dict.fromkeys(("TPU_PROCESS_BOUNDS", "TPU_HOST_BOUNDS"), "1,1,1"),
            **dict.fromkeys(("TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_CHIPS_PER_HOST_BOUNDS"), BOUNDS[len(chips)]),
            **dict.fromkeys(_VISIBLE, visible),
            "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
            "TPU_PROCESS_PORT": str(port),
            "CLOUD_TPU_TASK_ID": "0",
            "TPU_WORKER_ID": "0",
            "TPU_WORKER_HOSTNAMES": "localhost",
        }
    )
    return True
