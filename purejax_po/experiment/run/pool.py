"""Who runs blocks: threads of this process, or the workers of a cluster.

A pool is given the numbers of blocks, and tells what becomes of them. States and results of blocks
go through the store.
"""

import queue
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

import jax

from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.run import fit as fitting
from purejax_po.experiment.run.block import Receipt, Work, run_block
from purejax_po.experiment.run.evaluating import Evaluator, compile_evaluator
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.observers import StoppedError, Window
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.program import Program
from purejax_po.experiment.run.signals import StopSignal
from purejax_po.experiment.run.trainer import program_key
from purejax_po.experiment.store.arrays import CheckpointError
from purejax_po.experiment.store.run_store import Store
from purejax_po.types import Device, Shapes, Trainer

MOST_LOSSES = 5
"""Workers that a block may lose in a row without a new window."""
POLL_SECONDS = 0.5


class Fit(NamedTuple):
    """A program that is compiled on the pool's workers, or on one of them."""

    lanes_per_device: int
    device_kind: str
    platform: str
    num_workers: int
    """That will share the blocks."""
    bytes_in_use: float
    """Of the programs, on one machine's device."""
    compile_seconds: float
    log_shapes: Shapes
    """As `Program`."""


class Loss(NamedTuple):
    """A block's worker has vanished."""

    block: int
    reason: str


class Failure(NamedTuple):
    """A block has failed for a reason of its own."""

    block: int
    error: BaseException


Event = Window | str | Receipt | Loss | Failure


class Pool(Protocol):
    """Runs blocks."""

    def fit(self, width: int | None, limit: int | None = None) -> Fit:
        """As `fitting.fit`: compile for K lanes, chosen on a worker unless it is fixed."""
        ...

    def begin(self, plan: Plan, store: Store, begun: float) -> None:
        """Take the run whose blocks will be submitted; `begun` as in `Work`."""
        ...

    def submit(self, block: int) -> None:
        """Run a block as soon as a worker is free."""
        ...

    def poll(self, timeout: float) -> list[Event]:
        """Return what has happened, after `timeout` seconds at most if nothing has."""
        ...

    def stop(self) -> None:
        """Save what is under way; a receipt follows for every block that was submitted."""
        ...

    def close(self) -> None:
        """Stop, and wait until nothing runs."""
        ...


class Threads:
    """A thread for each accelerator of this machine, or for each core of its CPU."""

    def __init__(self, config: ExperimentConfig, trainer: Trainer, host: Host) -> None:
        self._config, self._trainer, self._host = config, trainer, host
        self._key = program_key(config, trainer)
        self._program: Program | None = None
        self._evaluator: Evaluator | None = None
        self._begin()

    def _begin(self) -> None:
        """Begin with nothing to do."""
        self._blocks: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._is_stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def fit(
        self, width: int | None, limit: int | None = None, num_workers: int | None = None
    ) -> Fit:
        """As `Pool`."""
        self.close()
        self._begin()
        experiment = self._config, self._trainer, self._host, self._key
        program = fitting.fit(*experiment, width, limit, num_workers)
        self._program, device = program, program.workers[0]
        self._evaluator = compile_evaluator(self._config, self._trainer, program, self._key)
        also = self._evaluator.compile_seconds if self._evaluator else 0.0
        return Fit(
            program.lanes_per_worker,
            device.device_kind,
            device.platform,
            len(program.workers),
            program.bytes_per_worker * program.workers.count(device),
            program.compile_seconds + also,
            program.log_shapes,
        )

    def begin(self, plan: Plan, store: Store, begun: float) -> None:
        """As `Pool`."""
        assert self._program is not None
        minutes = self._host.checkpoint_every
        work = Work(plan, self._trainer, self._program, self._evaluator, store, minutes, begun)
        is_x64 = jax.config.read("jax_enable_x64")  # a context's value is that of its thread alone
        for device in self._program.workers:
            thread = threading.Thread(target=self._serve, args=(work, device, is_x64), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, work: Work, device: Device, is_x64: bool) -> None:
        """Run blocks until there are no more."""
        is_asked = self._is_stopping.is_set
        with jax.enable_x64(is_x64):
            while (block := self._blocks.get()) is not None:
                if is_asked():
                    self._events.put(Receipt(block, is_finished=False))
                    continue
                try:
                    self._events.put(run_block(work, block, device, self._events.put, is_asked))
                except BaseException as error:
                    self._events.put(Failure(block, error))

    def submit(self, block: int) -> None:
        """As `Pool`."""
        self._blocks.put(block)

    def poll(self, timeout: float) -> list[Event]:
        """As `Pool`."""
        try:
            events = [self._events.get(timeout=timeout)]
        except queue.Empty:
            return []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def stop(self) -> None:
        """As `Pool`."""
        self._is_stopping.set()

    def close(self) -> None:
        """As `Pool`."""
        self.stop()
        for _ in self._threads:
            self._blocks.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []


def run_all(
    pool: Pool,
    todo: Collection[int],
    store: Store,
    stop: StopSignal,
    *,
    on_window: Callable[[Window], bool],
    on_finished: Callable[[int], None] = lambda block: None,
    known_problems: Collection[str] = (),
    how_to_go_on: str = "",
) -> None:
    """Hand out blocks, and take what comes, until none is open.

    Args:
        pool: who runs them, and has begun.
        todo: the blocks.
        store: where their results are.
        stop: asked after every look at the pool; what is under way is saved then.
        on_window: takes each window; whether it is one that nobody had seen.
        on_finished: takes each block that has a result.
        known_problems: what the user has been told already.
        how_to_go_on: for the user, where the run ends.

    Raises:
        StoppedError: if a block loses one worker after the other.
    """
    for block in todo:
        pool.submit(block)
    is_open, losses, is_stopping = set(todo), Counter[int](), False
    while is_open:
        if stop and not is_stopping:
            is_stopping = True
            pool.stop()
        for event in pool.poll(POLL_SECONDS):
            match event:
                case Window():
                    if on_window(event):
                        losses[event.block] = 0
                case str() if event not in known_problems:
                    warnings.warn(event, stacklevel=6)
                case Receipt():
                    is_open.discard(event.block)
                    if event.is_finished:
                        on_finished(event.block)
                case Loss() if has_result(store, event.block):  # its receipt got lost alone
                    is_open.discard(event.block)
                    on_finished(event.block)
                case Loss():
                    losses[event.block] += 1
                    if losses[event.block] >= MOST_LOSSES:
                        raise StoppedError(
                            f"block {event.block} has lost {MOST_LOSSES} workers without a new "
                            f"window, the last one: {event.reason}{how_to_go_on}"
                        )
                    if is_stopping:
                        is_open.discard(event.block)
                    else:
                        pool.submit(event.block)
                case Failure():
                    raise event.error


def has_result(store: Store, block: int) -> bool:
    """Tell whether a block has a result that reads."""
    try:
        return store.result(block) is not None
    except CheckpointError:
        return False


def open_pool(config: ExperimentConfig, trainer: Trainer, host: Host) -> Pool:
    """Return who will run the blocks of an experiment."""
    if host.cluster is None:
        return Threads(config, trainer, host)
    host.connect()  # before ray is imported, which reads what the connection sets
    from purejax_po.experiment.run.ray_pool import RayPool

    return RayPool(config, host)
