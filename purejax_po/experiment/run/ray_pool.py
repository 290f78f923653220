"""Blocks on a Ray cluster: each worker is a process with a GPU, or with the cores of a machine.

A worker is an actor that holds the same threads as a run on one machine. It is given as many blocks
as it has threads, is polled for what happened, and keeps its program until the run is over. Blocks
of a worker that vanishes are told of as lost. Results and states go through the run's directory,
which all machines see; Ray carries numbers of blocks, and the windows' logs for those who watch.
"""

import math
import os
import time
import traceback
import warnings
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.run import compilation, memory, ray_cluster
from purejax_po.experiment.run.block import Receipt
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.observers import StoppedError
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.pool import Event, Failure, Fit, Loss, Threads
from purejax_po.experiment.run.program import SETTINGS, setting
from purejax_po.experiment.run.trainer import build_trainer
from purejax_po.experiment.store.run_store import RunStore, Store
from purejax_po.types import JSONObject

MOST_PENDING = 32
"""Workers that are asked for beyond those there are, for an autoscaler to see."""
MOST_FAILED_STARTS = 5
"""Of workers in a row."""
LOST_WITH_ITS_NODE = "its node has died", "never ran"
"""What Ray says of a worker that has not failed: all that wait for a node are lost with it."""
POLL_SECONDS = 1.0
"""That a worker gathers windows before it answers; the end of a block is told at once."""
PATIENCE_SECONDS = 30.0
"""That the first worker has to be there, before it is said what the run waits for."""
CLOSE_SECONDS = 60.0
"""That workers have to save what is under way."""
PASSED_ON = ("JAX_", "XLA_", "PUREJAX_PO_")
"""How environment variables begin that workers get from the process that drives the run."""


class Worker(Threads):
    """The process that trains on one GPU, or on the cores of one machine."""

    def __init__(self, config: JSONObject, host: Host, settings: JSONObject) -> None:
        for name, value in settings.items():
            jax.config.update(name, value)
        self._cache = compilation.compilation_cache(host.compilation_cache)
        self._cache.__enter__()  # until the process ends
        whole = ExperimentConfig.from_dict(config)
        super().__init__(whole, build_trainer(whole), host)

    def take(self, plan: Plan, place: tuple[str, tuple[str, ...]], begun: float) -> int | str:
        """Take the run; returns how many blocks at once, or why none."""
        kind = jax.local_devices()[0].device_kind
        if kind != plan.device_kind:
            return f"its device is {kind}, the run's is {plan.device_kind}: last bits would differ"
        if self._program is None or self._program.lanes_per_worker != plan.lanes_per_device:
            try:
                self.fit(plan.lanes_per_device)
            except ValueError as error:  # it has less memory than the first one
                return str(error)
        directory, hashes = place
        store = RunStore(Path(directory), hashes, self._host.keep_checkpoints)
        self.begin(plan, store, begun)
        return len(self._threads)

    def answer(self) -> list[Event]:
        """Gather what happens until a block ends; errors are in words that any process can read."""
        until, events = time.monotonic() + POLL_SECONDS, list[Event]()
        while not any(isinstance(e, Receipt | Failure) for e in events):
            if (left := until - time.monotonic()) <= 0:
                break
            events += self.poll(left)
        return [e._replace(error=_in_words(e)) if isinstance(e, Failure) else e for e in events]


def _in_words(failure: Failure) -> BaseException:
    error = failure.error
    if memory.is_exhausted(error):
        return MemoryError(str(error).partition("\n")[0])
    if isinstance(error, OSError | ValueError):
        return error
    traceback.print_exception(error)  # in Ray's log of the worker
    reason = str(error).partition("\n")[0]
    where = f"block {failure.block} on {os.uname().nodename}"
    return StoppedError(f"{where}: {type(error).__name__}: {reason}")


class _Member:
    """A worker, seen from the process that drives the run."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.blocks: set[int] = set()
        self.threads = 0
        """Blocks that it takes at once; 0 until it has begun."""
        self.answer: Any = None
        """The answer that is awaited."""


class RayPool:
    """The workers of a cluster that run the blocks of one run."""

    def __init__(self, config: ExperimentConfig, host: Host) -> None:
        self._host = host
        self._resources, self._threads = _shape_of_workers(host.num_devices)
        number = None if "num_gpus" in self._resources else self._threads
        alone = {"cluster": None, "max_workers": None, "num_devices": number}
        where = replace(host, **alone, log_to=(), progress=False, observers=())
        self._takes_all = "num_gpus" not in self._resources and host.num_devices is None
        settings = {name: setting(name) for name in SETTINGS}
        self._given = config.to_dict(), where, settings
        self._members: list[_Member] = []
        self._waiting: deque[int] = deque()
        self._receipts: list[Event] = []
        self._plan: Plan | None = None
        self._taken: tuple[object, ...] = ()
        self._is_stopping = False
        self._failed_starts = 0
        self._refusals = 0

    def fit(self, width: int | None, limit: int | None = None) -> Fit:
        """As `Pool`: on the first worker that is there."""
        self._host.connect()  # again, where an earlier attempt has ended a cluster of our own
        self._leave()
        self._is_stopping, self._plan = False, None
        number = min(_places(self._resources), self._host.max_workers or _places(self._resources))
        number = max(1, number) * self._threads
        member = self._hire()
        if not ray.wait([member.actor.__ray_ready__.remote()], timeout=PATIENCE_SECONDS)[0]:
            warnings.warn(self._what_it_waits_for(), stacklevel=4)
        try:
            fit: Any = ray.get(member.actor.fit.remote(width, limit, number))
        except RayTaskError as error:
            raise _cause(error) from None
        except RayActorError as error:
            raise StoppedError(
                f"a worker of the cluster has died while it compiled: {_why(error)}"
            ) from None
        return fit._replace(num_workers=number)

    def _what_it_waits_for(self) -> str:
        free = ray.available_resources()
        needs = (
            f"{kind.removeprefix('num_').removesuffix('s').upper()} {n:g}"
            for kind, n in self._resources.items()
        )
        there = (f"{kind} {free.get(kind, 0):g}" for kind in ("CPU", "GPU"))
        return (
            f"no worker of the cluster has begun yet: it needs {', '.join(needs)}, and "
            f"{', '.join(there)} are free; the run waits"
        )

    def begin(self, plan: Plan, store: Store, begun: float) -> None:
        """As `Pool`."""
        assert isinstance(store, RunStore)
        self._plan, self._refusals = plan, 0
        self._taken = plan, (os.fspath(store.directory.absolute()), store.hashes), begun
        for member in self._members:
            self._enlist(member)

    def submit(self, block: int) -> None:
        """As `Pool`."""
        self._waiting.append(block)

    def poll(self, timeout: float) -> list[Event]:
        """As `Pool`."""
        events, self._receipts = self._receipts, []
        self._grow()
        self._hand_out()
        if self._plan and self._waiting and not self._members:
            reason = f"no worker is left whose device is {self._plan.device_kind} and large enough"
            return [*events, Failure(-1, StoppedError(f"{reason}; {self._refusals} are not used"))]
        awaited = {m.answer: m for m in self._members if m.answer is not None}
        if events or not awaited:
            return events
        ready, _ = ray.wait(list(awaited), num_returns=1, timeout=timeout)
        more, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        for answer in {*ready, *more}:
            events += self._take(awaited[answer])
        self._hand_out()
        return events

    def _hire(self) -> _Member:
        """Ask for a worker, which will be there as soon as the cluster has room."""
        actor = ray.remote(Worker).options(
            **self._resources,
            max_concurrency=3,  # it is polled while it compiles or is told to stop
            max_restarts=0,
            runtime_env=self._environment(),
        )
        member = _Member(actor.remote(*self._given))
        self._members.append(member)
        return member

    def _environment(self) -> JSONObject | None:
        """Environment variables of a worker: JAX's, and where Python finds a user's modules.

        XLA runs the programs of all threads in one pool; with fewer they wait for each other. A
        worker on a cluster of our own that takes the whole machine has all this by itself, and
        begins in a process that has been there since the cluster started.
        """
        if ray_cluster.is_own() and self._takes_all:
            return None
        passed = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
        given = {"PJRT_NPROC": str(self._threads), **passed, **ray_cluster.python_path()}
        return {"env_vars": given}

    def _enlist(self, member: _Member) -> None:
        member.answer = member.actor.take.remote(*self._taken)

    def _grow(self) -> None:
        """Ask for as many workers as there are blocks for, so that an autoscaler sees it."""
        if self._is_stopping or self._plan is None:
            return
        blocks = len(self._waiting) + sum(len(m.blocks) for m in self._members)
        there = sum(m.threads > 0 for m in self._members)
        most = self._host.max_workers or there + MOST_PENDING
        wanted = min(math.ceil(blocks / self._threads), most - self._refusals)
        for _ in range(wanted - len(self._members)):
            self._enlist(self._hire())

    def _hand_out(self) -> None:
        for member in self._members:
            while self._waiting and len(member.blocks) < member.threads and not self._is_stopping:
                block = self._waiting.popleft()
                member.blocks.add(block)
                member.actor.submit.remote(block)

    def _take(self, member: _Member) -> list[Event]:
        """Take a worker's answer, and ask it again."""
        answer, member.answer = member.answer, None
        try:
            said = ray.get(answer)
        except RayTaskError as error:
            return [Failure(min(member.blocks, default=-1), _cause(error))]
        except RayError as error:  # also where Ray ends it for its memory
            return self._lose(member, error)
        if isinstance(said, str):
            warnings.warn(f"a worker of the cluster is not used: {said}", stacklevel=6)
            self._refusals += 1
            self._dismiss(member)
            return []
        if isinstance(said, int):
            member.threads, self._failed_starts, said = said, 0, []
        for event in said:
            if isinstance(event, Receipt | Failure):
                member.blocks.discard(event.block)
        member.answer = member.actor.answer.remote()
        return said

    def _lose(self, member: _Member, error: RayError) -> list[Event]:
        """Forget a worker that has vanished; its blocks are lost."""
        self._dismiss(member)  # it may be there, and cannot be reached
        if member.threads:
            return [Loss(block, _why(error)) for block in sorted(member.blocks)]
        if any(words in str(error) for words in LOST_WITH_ITS_NODE):
            return []
        self._failed_starts += 1
        if self._failed_starts < MOST_FAILED_STARTS:
            return []
        message = f"workers of the cluster die while they start, the last one: {_why(error)}"
        return [Failure(-1, StoppedError(message))]

    def _dismiss(self, member: _Member) -> None:
        self._members.remove(member)
        ray.kill(member.actor)

    def stop(self) -> None:
        """As `Pool`."""
        self._is_stopping = True
        self._receipts += [Receipt(block, is_finished=False) for block in self._waiting]
        self._waiting.clear()
        for member in self._members:
            member.actor.stop.remote()

    def _leave(self) -> None:
        """Let the workers save what is under way, and end them."""
        busy = [m.actor.close.remote() for m in self._members if m.blocks]
        if busy:
            ray.wait(busy, num_returns=len(busy), timeout=CLOSE_SECONDS)
        for member in list(self._members):
            self._dismiss(member)
        self._waiting.clear()

    def close(self) -> None:
        """As `Pool`; a cluster that was started for this process ends with it.

        The second call waits for the end: pictures are drawn in between.
        """
        if self._members and ray.is_initialized():
            self._leave()
        ray_cluster.leave()


def _shape_of_workers(num_devices: int | None) -> tuple[dict[str, float], int]:
    """What a worker takes of the cluster, and its threads: a GPU, or a machine's cores."""
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    if any(node.get("GPU", 0) >= 1 for node in nodes):
        return {"num_cpus": 1, "num_gpus": 1}, 1
    cores = min((int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1), default=1)
    threads = cores if num_devices is None else min(num_devices, cores)
    return {"num_cpus": threads}, threads


def _places(resources: dict[str, float]) -> int:
    """How many workers the cluster has room for as it is now."""
    kind, size = ("GPU", 1) if "num_gpus" in resources else ("CPU", resources["num_cpus"])
    return sum(int(n["Resources"].get(kind, 0) // size) for n in ray.nodes() if n["Alive"])


def _cause(error: RayTaskError) -> BaseException:
    """What a worker raised, without Ray's account of the way it took."""
    cause = error.cause
    return cause if isinstance(cause, BaseException) else StoppedError(str(error))


def _why(error: BaseException) -> str:
    """The sentence of Ray's account of a worker's end that gives the cause, else the first one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("The actor") and "because" in line]
    return [*causes, *lines, type(error).__name__][0]
