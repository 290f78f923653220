"""Several processes on one run: who takes part, who does what, who is still alive.

Lanes are islands, so processes have nothing to tell each other while they train. `jax.distributed`
is asked once who takes part, and asked in a process of its own: its service ends every process it
knows as soon as one of them dies. From then on each process keeps a file in the run's directory,
which all of them share; the file's beat says that it lives, its stage how far it is.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from purejax_po.checks import Range, check_count, check_number
from purejax_po.experiment import files as atomic

FOLDER = ".processes"
BEAT_SECONDS = 2.0
STAGES = ("started", "ready", "restored", "finished", "merged")
"""What a process has reached: it runs, K is known, checkpoints are read, own lanes are done, all
are."""


class ProcessLostError(RuntimeError):
    """Another process of the run has died or stopped; the message names it."""


class Processes:
    """Who takes part in the runs of a session, seen from one of the processes."""

    def __init__(
        self,
        index: int = 0,
        count: int = 1,
        session: int = 0,
        *,
        start_seconds: float = 300.0,
        silence_seconds: float = 60.0,
    ) -> None:
        self.index, self.count, self.session = index, count, session
        self.start_seconds, self.silence_seconds = start_seconds, silence_seconds
        self.num_runs = 0
        """Runs begun; all processes begin the same runs in the same order."""

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which creates the run's files and merges the results."""
        return self.index == 0

    def owns(self, block_index: int) -> bool:
        """Whether a block of lanes is this process's to run."""
        return block_index % self.count == self.index


class Attendance:
    """What the processes of one run tell each other by files; alone, a process tells nothing."""

    def __init__(self, processes: Processes, directory: Path | None) -> None:
        processes.num_runs += 1
        self._processes = processes
        self._run = f"{processes.session}-{processes.num_runs}"
        self._folder = None if directory is None else directory / FOLDER
        self._said: dict[str, Any] = {}
        self._heard: dict[int, tuple[float, dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def reach(self, stage: str, **facts: Any) -> None:
        """Tell the others that this process has reached a stage, and keep telling."""
        if self._processes.count == 1 or self._folder is None:
            return
        is_new = not self._said
        with self._lock:
            self._said = {
                "run": self._run,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                **self._said,
                **facts,
                "stage": stage,
            }
        if is_new:
            self._folder.mkdir(parents=True, exist_ok=True)
            threading.Thread(target=self._beat, daemon=True).start()
        self._write()

    def wait(self, stage: str, of: list[int] | None = None) -> dict[str, Any]:
        """Wait until processes (all by default) have reached a stage; returns what the last said.

        Raises:
            ProcessLostError: naming one that has died, stopped, or not started in time.
        """
        said: dict[str, Any] = {}
        for index in range(self._processes.count) if of is None else of:
            if index == self._processes.index:
                continue
            start = time.monotonic()
            while True:
                said = self._listen(index)
                if said and said["stage"] in STAGES[STAGES.index(stage) :]:
                    break
                self._check(index, said, time.monotonic() - start, is_awaited=True)
                time.sleep(0.05)
        return said

    def lost(self) -> list[str]:
        """Describe the others that have died or stopped since they started."""
        found = []
        for index in range(self._processes.count):
            if index != self._processes.index and (said := self._listen(index)):
                try:
                    self._check(index, said, 0.0)
                except ProcessLostError as error:
                    found.append(str(error))
        return found

    def leave(self, failure: str | None = None) -> None:
        """Stop telling; after a failure the others learn at once that they must not wait, and why.

        After a success nothing is left behind: process 0, whose word the others read last, waits
        until they have gone.
        """
        if self._folder is None or self._closed.is_set():
            return
        if self._processes.count == 1 and failure is None:  # others may have begun the run
            shutil.rmtree(self._folder, ignore_errors=True)
        if not self._said:
            return
        self._closed.set()
        if failure is not None:
            with self._lock:
                self._said.update(stage="stopped", reason=failure)
            self._write()
            return
        if self._processes.is_first:
            patience = time.monotonic() + self._processes.silence_seconds
            while any(self._is_there(i) for i in range(1, self._processes.count)):
                if time.monotonic() > patience:
                    return
                time.sleep(0.05)
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        with self._lock, contextlib.suppress(OSError):
            (self._folder / f"{self._processes.index}.json").unlink()

    def _is_there(self, index: int) -> bool:
        assert self._folder is not None
        try:
            said = json.loads((self._folder / f"{index}.json").read_text())
        except (OSError, ValueError):
            return False
        return said.get("run") == self._run and said["stage"] != "stopped"

    def _listen(self, index: int) -> dict[str, Any]:
        """What a process of this run last said, and when that was new."""
        assert self._folder is not None
        try:
            said = json.loads((self._folder / f"{index}.json").read_text())
        except (OSError, ValueError):
            said = {}
        if said.get("run") != self._run:
            return self._heard.get(index, (0.0, {}))[1]
        if index not in self._heard or self._heard[index][1] != said:
            self._heard[index] = time.monotonic(), said
        return said

    def _check(
        self, index: int, said: dict[str, Any], waited: float, *, is_awaited: bool = False
    ) -> None:
        """Raise `ProcessLostError` if a process is lost.

        One that has finished its own lanes may be silent, unless more of it is awaited.
        """
        if not said and waited > self._processes.start_seconds:
            raise ProcessLostError(
                f"process {index} has not started within {self._processes.start_seconds:g} s, "
                "or its directory is not shared"
            )
        if said and said["stage"] == "stopped":
            raise ProcessLostError(
                f"process {index} on {said['host']} has stopped: {said['reason']}"
            )
        if not said or (said["stage"] in ("finished", "merged") and not is_awaited):
            return
        silence = time.monotonic() - self._heard[index][0]
        if silence > self._processes.silence_seconds:
            raise ProcessLostError(
                f"process {index} on {said['host']} has died: no sign of life for {silence:.0f} s"
            )

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            self._write()

    def _write(self) -> None:
        assert self._folder is not None
        with self._lock:
            self._said["beat"] = self._said.get("beat", 0) + 1
            if self._closed.is_set() and self._said["stage"] != "stopped":
                return
            with contextlib.suppress(OSError):  # a full disk is the run's own to report
                atomic.write_json(self._folder / f"{self._processes.index}.json", self._said)


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_index: int | None = None,
    *,
    timeout_seconds: float = 300.0,
    silence_seconds: float = 60.0,
) -> Processes:
    """Meet the other processes of a run; each one calls this before anything else uses JAX.

    Args:
        coordinator_address: `host:port` of process 0; without it the cluster (Slurm, Kubernetes,
            Open MPI, …) is asked, as `jax.distributed.initialize` does.
        num_processes, process_index: given with the address.
        timeout_seconds: to wait for the coordinator and for each other to start.
        silence_seconds: without a sign of life after which a process counts as dead.

    Raises:
        ValueError: if the arguments do not fit together, or nobody answers in time.
    """
    given = (coordinator_address, num_processes, process_index)
    if any(x is None for x in given) and any(x is not None for x in given):
        raise ValueError(
            "coordinator_address, num_processes and process_index must be given together, "
            f"got {coordinator_address}, {num_processes} and {process_index}"
        )
    check_number("coordinator_timeout", timeout_seconds, Range(1.0))
    check_number("silence_timeout", silence_seconds, Range(2 * BEAT_SECONDS))
    if num_processes is not None and process_index is not None:
        check_count("num_processes", num_processes)
        check_count("process_index", process_index, minimum=0)
        if process_index >= num_processes:
            raise ValueError(
                f"process_index must be less than num_processes, got {process_index} of "
                f"{num_processes}"
            )
    if coordinator_address is not None:
        _check_address(coordinator_address)
    whom = coordinator_address or "the cluster's coordinator"
    begun, errors = time.monotonic(), ""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RENDEZVOUS, json.dumps([*given, int(timeout_seconds)])],
            capture_output=True,
            check=False,
            text=True,
            timeout=2 * timeout_seconds + 60,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        errors = done.stderr
        met = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        reason = "no answer" if coordinator_address else "no cluster found, or no answer"
        reason += " (--coordinator-timeout)"
        if time.monotonic() - begun < timeout_seconds and (last := _last_line(errors)):
            reason = last if coordinator_address else f"no cluster found: {last}"
        raise ValueError(
            f"{whom} must answer within {timeout_seconds:g} s and bring all processes together: "
            f"{reason}"
        ) from None
    if met["visible_devices"] != "all":
        import jax

        jax.config.update("jax_cuda_visible_devices", met["visible_devices"])
    return Processes(
        met["index"],
        met["count"],
        met["session"],
        start_seconds=timeout_seconds,
        silence_seconds=silence_seconds,
    )


def _check_address(address: str) -> None:
    """Refuse what is not host:port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"coordinator_address must be host:port, got {address!r}")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"coordinator_address must have a port in 1 … 65535, got {address!r}")


def _last_line(errors: str) -> str:
    """What a process said last, but for a stack trace."""
    lines = [line for line in errors.splitlines() if line.strip() and line[0] not in " *"]
    return lines[-1].strip() if lines else ""


_RENDEZVOUS = """
import json, secrets, sys
import jax, numpy as np
from jax.experimental import multihost_utils
address, count, index, timeout = json.loads(sys.argv[1])
jax.distributed.initialize(address, count, index, initialization_timeout=timeout)
session = multihost_utils.broadcast_one_to_all(np.int32(secrets.randbelow(2**31 - 1)))
found = dict(index=jax.process_index(), count=jax.process_count(), session=int(session))
visible = jax.config.values.get("jax_cuda_visible_devices", "all")
jax.distributed.shutdown()
print(json.dumps(dict(found, visible_devices=visible)))
"""
