"""Runs on a Ray cluster: the bits of threads, and every fault ends in them.

Each test has a network namespace of its own with nothing but the loopback device in it.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

import purejax_po as po
from purejax_po import cli

HERE = Path(__file__).parent
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def can_be_alone():
    if importlib.util.find_spec("ray") is None or shutil.which("unshare") is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


alone = pytest.mark.skipif(not can_be_alone(), reason="needs ray and a network namespace")
pytestmark = [alone, pytest.mark.timeout(600)]


@pytest.fixture
def environment(compile_quickly):
    return {**os.environ, **compile_quickly, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}


@pytest.mark.parametrize(
    "scenario",
    [
        *("same_bits", "worker_lost", "node_lost", "node_added", "driver_killed"),
        pytest.param("bad_workers", marks=pytest.mark.slow),
    ],
)
def test_a_fault_ends_in_the_same_bits(scenario, tmp_path, environment):
    command = [*ALONE, sys.executable, str(HERE / "cluster_faults.py"), scenario, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("ok"), done.stdout + done.stderr


def test_what_workers_preload_leaves_gpus_alone(environment):
    """A process takes a part of each GPU that it sees as soon as JAX makes an array."""
    code = """
import importlib
from jax._src import xla_bridge
from purejax_po.experiment.run.ray_cluster import preloaded
for name in preloaded(has_gpus=True).split(","):
    importlib.import_module(name)
assert not xla_bridge.backends_are_initialized()
"""
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_a_run_whose_workers_are_all_refused_ends():
    from purejax_po.experiment.run.plan import Plan
    from purejax_po.experiment.run.ray_pool import RayPool

    host = po.Host(cluster="auto", max_workers=1)
    plan = Plan(po.ExperimentConfig(num_seeds=2), 1, "cpu")
    pool = object.__new__(RayPool)
    vars(pool).update(_host=host, _plan=plan, _threads=1, _refusals=1, _is_stopping=False)
    vars(pool).update(_members=[], _receipts=[], _waiting=deque([0, 1]))
    (failure,) = pool.poll(0.1)
    assert "no worker is left whose device is cpu" in str(failure.error)


def test_the_address_of_a_later_run_is_not_that_of_an_earlier_one(monkeypatch):
    from purejax_po.experiment.run import ray_cluster

    called = []
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: called.append("left"))
    monkeypatch.setattr(ray_cluster, "_joined", ["head:1"])
    for address in ("head:1", "auto"):
        ray_cluster.connect(address)
    assert called == []
    with pytest.raises(ValueError, match=r"got 127\.0\.0\.1:1: no server of Ray answers"):
        ray_cluster.connect("127.0.0.1:1")
    assert called == ["left"]


def test_a_cluster_that_a_failed_run_has_left_is_not_that_of_the_next_one(monkeypatch):
    from purejax_po.experiment.run import ray_cluster

    there = [True]
    monkeypatch.setattr(ray_cluster, "_own", ["auto"])
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: bool(there))
    monkeypatch.setattr(ray_cluster.ray, "shutdown", there.clear)
    with pytest.raises(ValueError, match=r"got 127\.0\.0\.1:1: no server of Ray answers"):
        ray_cluster.connect("127.0.0.1:1")
    assert there == []


def test_a_cluster_that_the_user_has_joined_is_told_of(monkeypatch):
    from purejax_po.experiment.run import ray_cluster

    context = type("Context", (), {"gcs_address": "head:1"})
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_cluster.ray, "get_runtime_context", lambda: context)
    ray_cluster.connect("head:1")
    with pytest.warns(UserWarning, match="cluster is head:1, which ray.init has joined"):
        ray_cluster.connect("head:2")
    with warnings.catch_warnings(action="error"):
        ray_cluster.connect("localhost:1")


@pytest.mark.parametrize(("address", "is_left"), [("127.0.0.1:1", True), ("10.0.0.1:1", False)])
def test_a_cluster_of_another_user_on_the_loopback_is_left_alone(address, is_left, monkeypatch):
    import psutil

    from purejax_po.experiment.run import ray_cluster

    class Denied:
        info: ClassVar = {"cmdline": ["raylet", f"--gcs-address={address}"]}

        def environ(self):
            raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "process_iter", lambda fields: [Denied()])
    assert ray_cluster._of_other_runs() == ({address} if is_left else set())


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 400 Bad request"])
def test_a_server_that_is_not_of_ray_is_refused(answer, monkeypatch):
    from purejax_po.experiment.run import ray_cluster

    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:

        def serve():
            connection = server.accept()[0]
            connection.sendall(answer)
            return connection

        connection = threads.submit(serve)
        host, port = server.getsockname()
        with pytest.raises(ValueError, match=f"got {host}:{port}: no server of Ray answers there"):
            ray_cluster.connect(f"{host}:{port}")
        connection.result().close()


def test_a_run_says_what_it_waits_for_on_a_full_cluster(tmp_path, environment):
    code = """
import sys, warnings
import purejax_po as po
from purejax_po.experiment.run import ray_cluster, ray_pool
import ray
ray_cluster.connect("auto")
hold = ray.remote(ray_pool.deque).options(num_cpus=ray.cluster_resources()["CPU"]).remote()
ray_pool.PATIENCE_SECONDS = 0.5
def show(message, *_, **__):
    print(message)
    ray.kill(hold)
warnings.showwarning = show
po.run(po.ExperimentConfig(total_steps=2_048), sys.argv[1], cluster="auto")
"""
    command = [*ALONE, sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no worker of the cluster has begun yet: it needs CPU" in done.stdout
    assert "CPU 0, GPU 0 are free; the run waits" in done.stdout


def test_ray_that_was_imported_without_tokens_is_refused(environment):
    code = """
import ray
import purejax_po as po
from purejax_po.experiment.run import ray_cluster
ray_cluster.connect("auto")
"""
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
        environment.pop(name, None)
    command = [*ALONE, sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "set RAY_AUTH_MODE=token in the environment" in done.stderr


BESIDE = """
import subprocess, sys
from purejax_po.experiment.run import ray_cluster
ray_cluster.connect("auto")
if sys.argv[1:] == ["first"]:
    subprocess.run([sys.executable, "-c", sys.stdin.read(), "second"], check=True)
assert ray_cluster.is_own()
ray_cluster.leave()
"""


@pytest.mark.slow
def test_a_run_joins_no_cluster_that_ends_with_another_run(environment):
    command = [*ALONE, sys.executable, "-c", BESIDE, "first"]
    subprocess.run(command, env=environment, input=BESIDE, text=True, check=True)


@pytest.mark.slow
def test_a_search_has_the_same_trials_on_a_cluster(tmp_path, environment):
    test_a_fault_ends_in_the_same_bits("same_search", tmp_path, environment)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "scenario", ["same_bits", "worker_lost", "node_lost", "node_added", "driver_killed"]
)
def test_faults_at_size(scenario, tmp_path):
    """Here training takes the time: with all of XLA's optimisations."""
    path = f"{HERE}{os.pathsep}{HERE.parent}"
    environment = {**os.environ, "PYTHONPATH": path, "PUREJAX_PO_BIG": "1"}
    test_a_fault_ends_in_the_same_bits(scenario, tmp_path, environment)


FLAGS = [
    *("ppo", "--seeds", "8", "--num-envs", "2", "--num-steps", "16", "--network.hidden", "8"),
    *("--num-epochs", "1", "--num-minibatches", "2", "--lanes-per-device", "2"),
    *("--num-windows", "40", "--total-steps", "256000"),
]
OFTEN = ["--checkpoint-every", "0", "--cluster", "auto"]


def start(*arguments, environment):
    command = [*ALONE, sys.executable, "-m", "purejax_po", *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_a_checkpoint(process, out):
    deadline = time.monotonic() + 200
    while not list(out.glob("blocks/*/state-00000[3-9]")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_of(session):
    """What still runs of a process that began a session of its own."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session or session in [p.pid for p in process.parents()]:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture
def expected(tmp_path, environment):  # whose programs are compiled as here
    out = tmp_path / "expected"
    assert cli.main(["train", *FLAGS, "--out", str(out)]) == 0
    return out


def test_a_driver_that_is_killed_or_interrupted_goes_on(tmp_path, environment, expected):
    """SIGKILL, then Ctrl-C as a terminal sends it; nothing of the cluster stays behind."""
    out = tmp_path / "run"
    process = start("train", *FLAGS, *OFTEN, "--out", out, environment=environment)
    wait_for_a_checkpoint(process, out)
    before = sorted(path.name for path in out.glob("blocks/*/*"))
    process.kill()
    process.wait()
    assert not (out / "summary.json").exists()
    assert before

    process = start("resume", out, *OFTEN, environment=environment)
    time.sleep(1.0)
    deadline = time.monotonic() + 200
    log = out / "log.jsonl"
    size = log.stat().st_size
    while log.stat().st_size <= size and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    session = process.pid
    os.killpg(session, signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode in (130, 0), errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 30
    while (left := processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left

    process = start("resume", out, *OFTEN, environment=environment)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    for name in ("results.nc", "log.jsonl"):
        assert (out / name).read_bytes() == (expected / name).read_bytes()


BUG = """
import importlib.abc, importlib.util, os, sys

def broken(*arguments):
    raise TypeError("a bug of our own")

class Patch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "purejax_po.experiment.run.block":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module.run_window = broken

        spec.loader.exec_module = exec_module
        return spec

if os.environ.get("PUREJAX_PO_BUG"):
    sys.meta_path.insert(0, Patch())
"""


def test_a_bug_in_a_task_ends_the_run_with_its_line(tmp_path, environment):
    (tmp_path / "sitecustomize.py").write_text(BUG)
    path = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
    faulty = {**environment, "PYTHONPATH": path, "PUREJAX_PO_BUG": "1"}
    process = start("train", *FLAGS, *OFTEN, "--out", tmp_path / "run", environment=faulty)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    (line,) = [line for line in errors.splitlines() if "error" in line]
    assert "TypeError: a bug of our own" in line
    assert "Traceback" not in errors


def test_what_a_user_gets_wrong_is_one_line(tmp_path, capsys, monkeypatch):
    config = po.ExperimentConfig(num_seeds=2, total_steps=10_000)
    with pytest.raises(ValueError, match="out must be a directory that all machines"):
        po.run(config, cluster="auto")
    with pytest.raises(ValueError, match="max_workers must be given with cluster"):
        po.run(config, tmp_path / "run", max_workers=2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    flags = ["train", "ppo", "--cluster", "auto", "--out", str(tmp_path / "run")]
    assert cli.main(flags) == 2
    assert "pip install 'purejax-po[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags", [["--distributed"], ["--coordinator-address", "x:1"], ["--num-processes", "2"]]
)
def test_the_old_flags_name_the_new_way(flags, capsys):
    assert cli.main(["train", "ppo", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--cluster" in line
