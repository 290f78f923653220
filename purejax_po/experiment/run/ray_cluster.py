"""The Ray cluster that a run joins: one that is there, or one of this process's own."""

import importlib
import os
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if "ray" not in sys.modules:  # it reads this when it is imported
    os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RaySystemError

from purejax_po.experiment.run import devices

LOOPBACK = "127.0.0.1"
ANSWER_SECONDS = 5.0
"""That a cluster has to answer."""
SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""With which both sides of HTTP/2 begin: RFC 9113, section 6.5; the fourth byte is its type."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME
PRELOAD = "RAY_preload_python_modules"
"""Names what workers import while their cluster starts, before they are asked for."""
PRELOADED = "purejax_po.experiment.run.ray_pool"
PRIORITY = {"RAY_worker_niceness": "0"}
"""Workers of a cluster of our own run at the priority that threads have."""

_own: list[str] = []
"""The cluster that this process has started for itself, if it has."""
_joined: list[str] = []
"""The address of the cluster that this process has joined, if it has joined one."""
_ending: list[threading.Thread] = []
"""Who ends the cluster of our own, if it is under way."""


def connect(address: str) -> None:
    """Join a cluster: `auto` (that of this machine, else one of our own here) or HOST:PORT.

    The process that drives a run computes nothing, so it leaves accelerators to the workers.

    Raises:
        ValueError: if there is no such cluster, or it refuses.
    """
    devices.leave_accelerators()
    if address != "auto":
        leave()  # one of our own that a run has left when it failed
    if not _own:
        leave()  # waits for an earlier one's end
    if ray.is_initialized():
        if address in ("auto", *_joined):
            return
        if not _joined:
            there = ray.get_runtime_context().gcs_address
            if not _may_be_one(there, address):
                warnings.warn(
                    f"cluster is {there}, which ray.init has joined in this process, not {address}",
                    stacklevel=2,
                )
            return
        ray.shutdown()  # an earlier run's, which goes on
        _joined.clear()
    found = _running() if address == "auto" else address
    if found is not None and not _answers(found):
        raise _no_cluster(found, "no server of Ray answers there")
    if found is None and os.environ.get("RAY_AUTH_MODE") != "token":
        raise ValueError(
            "cluster is a new one with token authentication, but ray was imported without: set "
            "RAY_AUTH_MODE=token in the environment before `import ray`"
        )
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    environment = {}
    if found is None:
        options.update(_node_ip_address=LOOPBACK, include_dashboard=False)
        environment = {**python_path(), **PRIORITY, PRELOAD: preloaded(_has_gpus())}
    with _in_environment(environment), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*os\.fork\(\).*")
        try:
            ray.init(found or "local", **options)
        except (ConnectionError, RuntimeError, ValueError, RaySystemError) as error:
            raise _no_cluster(address, str(error).strip().partition("\n")[0]) from None
    (_joined if found else _own).append(address)
    _keep_token_private()


def preloaded(has_gpus: bool) -> str:
    """What workers of a cluster of our own import before they are asked for.

    gymnax makes arrays while it is imported: every process would take a part of each GPU, before
    it is told which one is its own.
    """
    return PRELOADED if has_gpus else f"{PRELOADED},gymnax"


def _has_gpus() -> bool:
    """Whether Ray will find GPUs on this machine."""
    accelerators = importlib.import_module("ray._private.accelerators")
    manager = accelerators.get_accelerator_manager_for_resource("GPU")
    return manager is not None and manager.get_current_node_num_accelerators() > 0


def is_own() -> bool:
    """Whether this process has started the cluster: its workers have this environment."""
    return bool(_own)


def python_path() -> dict[str, str]:
    """Where Python finds a user's modules, as this process does."""
    path = [os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {"PYTHONPATH": os.pathsep.join(filter(None, path))}


@contextmanager
def _in_environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started within."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _running() -> str | None:
    """The address of the cluster that RAY_ADDRESS names, or that runs on this machine.

    Ray's own `auto` takes the address that was noted last, whether or not anything is there.
    """
    if told := os.environ.get("RAY_ADDRESS"):
        return told
    services = importlib.import_module("ray._private.services")
    found = sorted(services.find_gcs_addresses() - _of_other_runs())
    return next((address for address in found if _answers(address)), None)


def _of_other_runs() -> set[str]:
    """The clusters that other processes have started for a run of theirs, with which they end."""
    import psutil

    found = set()
    for process in psutil.process_iter(["cmdline"]):
        flags = [x for x in process.info["cmdline"] or [] if x.startswith("--gcs-address=")]
        address = flags[0].partition("=")[2] if flags else ""
        try:
            if address and process.environ().get(PRELOAD, "").startswith(PRELOADED):
                found.add(address)
        except psutil.AccessDenied:  # another user's: ours are on the loopback, a shared one is not
            found |= {address} if address.startswith(LOOPBACK) else set()
        except psutil.Error:
            continue
    return found


def _answers(address: str) -> bool:
    """Whether a server of gRPC listens at HOST:PORT, as Ray's is; Ray waits for ever for others."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return True
            connection.settimeout(ANSWER_SECONDS)
            connection.sendall(GREETING)
            header = connection.makefile("rb").read(len(SETTINGS_FRAME))
            return len(header) == len(SETTINGS_FRAME) and header[3] == SETTINGS_FRAME[3]
    except (OSError, ValueError, OverflowError):
        return False


def _may_be_one(one: str, other: str) -> bool:
    """Whether two addresses may be those of one cluster: names, and the loopback, stand for IPs."""
    (host, _, port), (host_2, _, port_2) = one.rpartition(":"), other.rpartition(":")
    try:
        found = {socket.gethostbyname(host), socket.gethostbyname(host_2)}
    except OSError:
        return port == port_2
    return port == port_2 and (len(found) == 1 or any(x.startswith("127.") for x in found))


def _no_cluster(address: str, reason: str) -> ValueError:
    return ValueError(
        f"cluster must be auto or HOST:PORT of a Ray cluster, got {address}: {reason}"
    )


def _keep_token_private() -> None:
    """Ray writes its token so that anybody on the machine can read it."""
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() and token.stat().st_mode & 0o077:
        token.chmod(0o600)


def leave() -> None:
    """Begin to end the cluster that was started for this process; any other one goes on.

    Ray takes more than a second, in which the caller may do something else. A second call waits.
    """
    if _own:
        _own.clear()
        _ending.append(threading.Thread(target=ray.shutdown, name="end of the cluster"))
        _ending[-1].start()
        return
    while _ending:
        _ending[-1].join()
        _ending.pop()
