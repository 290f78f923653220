"""Seeds, devices and processes: whoever does the work, a seed's run is the same to the bit."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

import purejax_po as po
from purejax_po.experiment.run import processes
from purejax_po.experiment.run.processes import Attendance, Processes, ProcessLostError, join

SCRIPT = """
import os, sys
import purejax_po as po
import tiny
index, port, out, break_off = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
processes = po.join_processes(
    f"localhost:{port}", 2, index, timeout_seconds=300, silence_seconds=5
)
num_windows = 0
def progress(steps, episode_return):
    global num_windows
    num_windows += 1
    if break_off == "die" and index == 1 and num_windows > 3:
        os.kill(os.getpid(), 9)
names = list(tiny.ALGORITHMS) if break_off == "no" else ["ppo"]
for name in names:
    config = tiny.experiment(name, num_seeds=64, num_devices=1)
    try:
        po.run(config, f"{out}/{name}", progress=progress, processes=processes)
    except po.ProcessLostError as error:
        sys.exit(f"lost: {error}")
"""


def start(index, port, out, break_off="no"):
    command = [sys.executable, "-c", SCRIPT, str(index), str(port), str(out), break_off]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Every algorithm over 64 seeds, shared by two processes."""
    out = tmp_path_factory.mktemp("two-processes")
    port = free_port()
    running = [start(index, port, out) for index in range(2)]
    for process in running:
        errors = process.communicate(timeout=500)[1]
        assert process.returncode == 0, errors
    return out


@pytest.mark.parametrize("name", tiny.ALGORITHMS)
def test_a_seed_is_the_same_whoever_runs_it(name, two_processes, tmp_path):
    """Bitwise, among 3, 64 and 1000 seeds, 1, 2 and 4 devices, 1 and 2 processes."""
    expected = po.run(tiny.experiment(name, num_seeds=3, num_devices=1), progress=False)
    cases = {(64, 1): None, (64, 4): None, (1000, 2): None, "processes": None}
    for seeds, devices in [(64, 1), (64, 4), (1000, 2)]:
        config = tiny.experiment(name, num_seeds=seeds, num_devices=devices)
        cases[seeds, devices] = po.run(config, progress=False)
    cases["processes"] = po.load_results(two_processes / name)
    for case, dataset in cases.items():
        for variable in expected:
            values = dataset[variable].values[:3]
            np.testing.assert_array_equal(values, expected[variable].values, f"{case} {variable}")
    np.testing.assert_array_equal(
        cases["processes"]["episode_return"], cases[64, 1]["episode_return"]
    )


def test_two_processes_leave_the_files_of_one(two_processes, tmp_path):
    out = tmp_path / "run"
    po.run(tiny.experiment("ppo", num_seeds=64), out, progress=False)
    shared = two_processes / "ppo"
    assert (shared / "results.nc").read_bytes() == (out / "results.nc").read_bytes()
    logs = [sorted((path / "log.jsonl").read_text().splitlines()) for path in (shared, out)]
    assert logs[0] == logs[1]
    assert {p.name for p in shared.iterdir()} == {p.name for p in out.iterdir()}
    for seed in (0, 8, 63):  # parameters, of either process's seeds
        acts = [po.load_policy(path, seed=seed) for path in (shared, out)]
        obs = jax.random.normal(jax.random.key(0), (64, 4))
        np.testing.assert_array_equal(*[act(obs) for act in acts])


def test_a_dead_process_is_named_and_the_run_goes_on_with_one(two_processes, tmp_path):
    port = free_port()
    running = [start(index, port, tmp_path, "die") for index in range(2)]
    survivor, dead = [(p.communicate(timeout=500)[1], p.returncode) for p in running]
    assert dead[1] == -9
    assert survivor[1] == 1
    assert "lost: process 1 on " in survivor[0]
    assert "has died" in survivor[0]
    out = tmp_path / "ppo"
    assert not (out / "summary.json").exists()
    po.resume(out, progress=False)
    expected = two_processes / "ppo"
    assert (out / "results.nc").read_bytes() == (expected / "results.nc").read_bytes()
    logs = [sorted((path / "log.jsonl").read_text().splitlines()) for path in (out, expected)]
    assert logs[0] == logs[1]


def pair(directory, **options):
    found = [Processes(index, 2, session=5, **options) for index in range(2)]
    return [Attendance(processes, directory) for processes in found]


def test_a_process_waits_for_what_another_has_reached(tmp_path):
    first, second = pair(tmp_path)
    first.reach("ready", lanes_per_device=8)
    assert second.wait("ready", of=[0])["lanes_per_device"] == 8
    second.reach("restored")
    first.wait("ready")
    first.wait("restored")
    assert first.lost() == []
    for process in (second, first):
        process.leave()
    assert not (tmp_path / ".processes").exists()


def test_a_process_that_stops_or_falls_silent_is_named(tmp_path):
    first, second = pair(tmp_path, silence_seconds=0.0)
    first.reach("ready")
    second.reach("ready")
    second.leave("disk full")
    with pytest.raises(ProcessLostError, match=r"process 1 on \S+ has stopped: disk full"):
        first.wait("finished")
    second = pair(tmp_path, silence_seconds=0.0)[1]
    second.lost()  # heard for the first time
    (lost,) = second.lost()
    assert "process 0" in lost
    assert "has died: no sign of life" in lost


def test_a_process_that_dies_after_its_own_work_is_named_by_who_waits_for_more(tmp_path):
    first, second = pair(tmp_path, silence_seconds=0.0)
    first.reach("finished")
    second.reach("finished")
    first.leave()
    assert second.lost() == []
    with pytest.raises(ProcessLostError, match=r"process 0 on \S+ has died"):
        second.wait("merged", of=[0])
    second.leave()


def test_a_process_that_never_starts_is_named(tmp_path):
    first, second = pair(tmp_path, start_seconds=0.1)
    first.reach("ready")
    stale = json.loads((tmp_path / ".processes/0.json").read_text())
    (tmp_path / ".processes/1.json").write_text(json.dumps({**stale, "run": "4-1"}))
    with pytest.raises(ProcessLostError, match=r"process 1 has not started within 0.1 s"):
        first.wait("ready")
    first.leave()
    second.leave("no matter what")  # never started: nothing to say


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1", 2, None), "must be given together"),
        (("localhost:1", 2, 2), "process_index must be less than num_processes, got 2 of 2"),
        (("localhost:1", 0, 0), "num_processes must be a whole number ≥ 1, got 0"),
        (("localhost", 2, 0), "coordinator_address must be host:port, got 'localhost'"),
        ((":80", 2, 0), "coordinator_address must be host:port, got ':80'"),
        (("localhost:0", 2, 0), "must have a port in 1 … 65535, got 'localhost:0'"),
        (("localhost:65536", 2, 0), "must have a port in 1 … 65535, got 'localhost:65536'"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        join(*arguments)


def test_a_coordinator_that_does_not_answer_is_one_clear_line():
    port = free_port()
    with pytest.raises(ValueError, match=r"must answer within 1 s") as error:
        join(f"localhost:{port}", 2, 1, timeout_seconds=1)
    assert "\n" not in str(error.value)
    assert str(port) in str(error.value)


def test_a_rendezvous_that_fails_at_once_says_why(monkeypatch):
    child = "import sys; sys.exit('Traceback …\\n  File …\\nImportError: no libfoo\\n')"
    monkeypatch.setattr(processes, "_RENDEZVOUS", child)
    with pytest.raises(ValueError, match=r"bring all .*: ImportError: no libfoo$") as error:
        join("localhost:1", 2, 0, timeout_seconds=500)
    assert "no answer" not in str(error.value)
    assert "\n" not in str(error.value)


def test_processes_need_a_directory():
    with pytest.raises(ValueError, match="out must be a directory that all processes share"):
        po.run(tiny.experiment("ppo"), processes=Processes(0, 2))
