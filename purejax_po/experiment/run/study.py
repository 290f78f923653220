"""The loop over a run's blocks: those that have no result are run until all have one.

A run that begins, one that is resumed, and one that has lost a worker are the same loop.
"""

import shlex
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from purejax_po.contract import is_deterministic, name_of
from purejax_po.early import PROGRAM
from purejax_po.experiment import layout
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run import block as blocks
from purejax_po.experiment.run import loggers, memory
from purejax_po.experiment.run.devices import depends_on_threads, xla_threads
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.observers import (
    Advice,
    Bar,
    LogFile,
    Observer,
    Record,
    StopOnDivergence,
    StoppedError,
    Window,
    windows,
)
from purejax_po.experiment.run.outcome import dataset_of
from purejax_po.experiment.run.plan import Labels, Plan
from purejax_po.experiment.run.pool import Fit, Pool, run_all
from purejax_po.experiment.run.signals import StopSignal
from purejax_po.experiment.store import run_store
from purejax_po.experiment.store.arrays import CheckpointError
from purejax_po.experiment.store.run_store import (
    MemoryStore,
    RunStore,
    Store,
    Stored,
)
from purejax_po.types import JSONObject, Trainer

if TYPE_CHECKING:
    import xarray as xr

RESULTS_COPIES = 3
"""How often the windows' logs are held at the end: as they came, joined, and in the Dataset."""
RESULTS_BYTES = 100 * 2**20
"""What drawing the pictures and writing the files takes besides."""


class Study(NamedTuple):
    """A checked experiment, ready to be compiled."""

    config: ExperimentConfig
    trainer: Trainer
    directory: Path | None = None
    is_resumed: bool = False


def train(
    study: Study, host: Host, pool: Pool, observers: Sequence[Observer], stop: StopSignal
) -> "xr.Dataset":
    """Train all blocks, with half as many lanes on each device whenever memory runs out.

    Args:
        study, host: the run.
        pool: who runs the blocks.
        observers: who is told of windows, besides those that the run itself needs.
        stop: asked after every event; what is under way is saved then.

    Raises:
        Interrupted: once everything is saved.
        StoppedError: if memory runs out, a seed diverges under `stop_on_divergence`, or a block
            loses one worker after the other.
    """
    limit, times_halved, fixed = None, 0, study.config.lanes_per_device
    if study.is_resumed and study.directory is not None:
        fixed = run_store.read_plan(study.directory).get("lanes_per_device") or fixed
    while True:
        fit = pool.fit(fixed, limit)
        loop = _Loop(study, host, pool, fit, observers)
        try:
            return loop.run(stop, times_halved)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not memory.is_exhausted(error):
                raise
            if not loop.is_training:
                if not loop.has_saved():
                    raise
                raise StoppedError(
                    "out of memory while nothing was trained; all that is saved stays: "
                    + _resuming(study)
                ) from error
        reason = _why_not_halved(study, fit.lanes_per_device, loop.has_saved())
        if reason:
            raise StoppedError(
                f"out of memory with {fit.lanes_per_device} lanes on each device; {reason}"
            )
        limit, times_halved = fit.lanes_per_device // 2, times_halved + 1
        warnings.warn(f"out of memory: again with {limit} lanes on each device", stacklevel=2)
        for bar in (x for x in observers if isinstance(x, Bar)):
            bar.begin_again()


def _resuming(study: Study) -> str:
    """The command that goes on with a run."""
    return f"{PROGRAM} resume {shlex.quote(str(study.directory))}"


def _why_not_halved(study: Study, width: int, has_saved: bool) -> str:
    if study.config.lanes_per_device is not None:
        return "lanes_per_device is fixed"
    if has_saved:
        return f"a part is saved; to go on with more memory: {_resuming(study)}"
    return "a single lane does not fit" if width == 1 else ""


class _Loop:
    """One attempt at a run, with a number of lanes on each device that stays."""

    def __init__(
        self, study: Study, host: Host, pool: Pool, fit: Fit, observers: Sequence[Observer]
    ) -> None:
        self._study, self._host, self._pool, self._fit = study, host, pool, fit
        self._plan = Plan(study.config, fit.lanes_per_device, fit.device_kind)
        self._labels: dict[int, Labels] = {}
        self._observers = [*observers]
        self._seconds_before = 0.0
        self._results: dict[int, tuple[Record, np.ndarray]] = {}
        self._seen: dict[int, int] = {}
        self._known_problems: set[str] = set()
        self._store: Store = MemoryStore()
        self.is_training = False
        """Whether workers are at work: memory that runs out may suffice for fewer lanes."""

    def has_saved(self) -> bool:
        """Whether there is something that another attempt must not overwrite."""
        store = self._store
        return self._study.is_resumed or (isinstance(store, RunStore) and store.has_any())

    def run(self, stop: StopSignal, times_halved: int) -> "xr.Dataset":
        """Run the blocks that have no result."""
        started = time.perf_counter()
        with stop.deferred(), ExitStack() as stack:
            stack.callback(self._pool.close)
            before = self._open()
            own = self._own_observers()
            for observer in own:
                stack.callback(observer.close)
            self._observers += own
            if before is not None:
                for observer in self._observers:
                    if isinstance(observer, Bar | StopOnDivergence):
                        observer.begin(self._plan, before)
            todo = [b for b in range(self._plan.num_blocks) if b not in self._results]
            self.is_training = True
            self._pool.begin(self._plan, self._store, time.time() - self._seconds_before)
            run_all(
                self._pool,
                todo,
                self._store,
                stop,
                on_window=self._observe,
                on_finished=self._finish,
                known_problems=self._known_problems,
                how_to_go_on=f"; to go on: {_resuming(self._study)}",
            )
            self.is_training = False
        seconds = self._seconds_before + time.perf_counter() - started
        dataset = self._dataset()
        lane_steps = self._plan.updates[-1] * self._plan.steps_per_update
        fit = self._fit
        dataset.attrs.update(
            lanes_per_device=fit.lanes_per_device,
            compile_seconds=fit.compile_seconds,
            run_seconds=seconds,
            env_steps_per_second=self._study.config.num_lanes * lane_steps / seconds,
            device=f"{fit.num_workers} × {fit.device_kind}",
            times_halved=times_halved,
            memory_estimate_gib=self._memory_estimate() / memory.GIB,
            memory_peak_gib=memory.peak_bytes(jax.devices()[0]) / memory.GIB,
        )
        return dataset

    def _own_observers(self) -> list[Observer]:
        """Those that belong to the run itself; the one that may end it comes last."""
        config, directory = self._study.config, self._study.directory
        limit = getattr(self._study.trainer.env_params, "max_steps_in_episode", None)
        found: list[Observer] = [Advice(limit)]
        if directory is not None:
            opened = loggers.open_all(self._host.log_to, config, directory)
            found += [LogFile(directory / layout.LOG), *opened]
        return [*found, StopOnDivergence()] if self._host.stop_on_divergence else found

    def _open(self) -> dict[int, Record] | None:
        """Create the directory, or read what it holds; the log begins with what is done.

        Returns the records of a run that goes on.
        """
        config, directory = self._study.config, self._study.directory
        if directory is None:
            return None
        has_any = any((directory / layout.BLOCKS).glob("*/[!.]*"))  # the plan may be lost
        is_begun = self._study.is_resumed and (has_any or (directory / layout.PLAN).exists())
        if is_begun:
            self._warn_of_changes(run_store.read_plan(directory))
            (directory / layout.BLOCKS).mkdir(exist_ok=True)
        elif self._study.is_resumed:
            run_store.begin(directory, self._plan.to_dict(results.versions()))
        else:
            run_store.create(directory, config, self._plan.to_dict(results.versions()))
        hashes = run_store.stored_hashes(directory)
        self._store = store = RunStore(directory, hashes, self._host.keep_checkpoints)
        before = self._restore(store) if is_begun else None
        LogFile(directory / layout.LOG).begin(self._plan, before or {})
        return before

    def _warn_of_changes(self, begun: JSONObject) -> None:
        """Warn of other versions or devices than it began with, and of an env outside of JAX."""
        found = {**results.versions(), "device": self._plan.device_kind}
        then = {**begun.get("versions", {}), "device": begun.get("device_kind")}
        if self._fit.platform == "cpu" and depends_on_threads(self._study.config.algorithm):
            found["XLA's threads"] = str(xla_threads())
            then["XLA's threads"] = str(begun.get("threads", ""))
        pairs = [(k, x, found.get(k, x)) for k, x in then.items() if x]
        changed = [f"{name} {x}, now {now}" for name, x, now in pairs if x != now]
        if changed:
            warnings.warn(
                f"{self._study.directory} was begun with {'; '.join(changed)}: what follows may "
                "differ in its last bits from a run without interruption",
                stacklevel=2,
            )

        env = self._study.trainer.env
        if not is_deterministic(env):
            warnings.warn(
                f"{self._study.directory} goes on with new episodes, since those of {name_of(env)} "
                "are in no checkpoint: what follows differs from a run without interruption",
                stacklevel=2,
            )

    def _restore(self, store: RunStore) -> dict[int, Record]:
        """Read the results and states that a run has left; returns the record of each block."""
        logs: dict[int, Record] = {}
        problems: list[str] = []
        for block in range(self._plan.num_blocks):
            try:
                result = store.result(block)
            except CheckpointError as error:
                result = None
                problems.append(f"{error}; its seeds start further back")
            if result is not None:
                self._note(result)
                logs[block] = self._take_result(block, result)
                continue
            stored, damaged = store.newest(block)
            instead = "an older one is used" if stored else "its seeds start again"
            problems += [f"{problem}; {instead}" for problem in damaged]
            self._known_problems.update(damaged)
            if stored is not None:
                logs[block] = self._read(block, stored)
                self._note(stored)
        if problems and not logs:
            raise CheckpointError(
                f"{problems[0].rpartition(';')[0]}; there is no other one: start again "
                f"({PROGRAM} train … --out {shlex.quote(str(store.directory))} --overwrite)"
            )
        for problem in problems:
            warnings.warn(problem, stacklevel=4)
        if not logs and (store.directory / layout.LOG).exists():
            warnings.warn(
                f"{store.directory} holds no checkpoint: all seeds start again", stacklevel=4
            )
        self._seen = {block: found.log.info.count.shape[1] for block, found in logs.items()}
        return logs

    def _read(self, block: int, stored: Stored) -> Record:
        return blocks.read_record(self._fit.log_shapes, self._plan.num_real(block), stored)

    def _note(self, stored: Stored) -> None:
        """Count the time that the run had taken when this was stored, before it goes on."""
        seconds = float(stored.meta.get("run_seconds", 0.0))
        self._seconds_before = max(self._seconds_before, seconds)

    def _take_result(self, block: int, stored: Stored) -> Record:
        """Keep of a block's result what the Dataset needs; returns its record."""
        record = self._read(block, stored)
        self._results[block] = record, stored.arrays[".diverged_at"]
        return record

    def _observe(self, window: Window) -> bool:
        """Tell the observers of a window, unless they know it; those that got lost come first."""
        seen = self._seen.get(window.block, 0)
        if window.number < seen:
            return False
        if window.number > seen and (stored := self._store.newest(window.block)[0]) is not None:
            self._fill(window.block, self._read(window.block, stored), window.number)
        if window.number == self._seen.get(window.block, 0):
            self._tell(window)
        return True

    def _fill(self, block: int, record: Record, end: int) -> None:
        """Tell of windows that nobody told of."""
        for window in windows(self._plan, block, record)[self._seen.get(block, 0) : end]:
            self._tell(window)

    def _tell(self, window: Window) -> None:
        if window.block not in self._labels:
            self._labels[window.block] = self._plan.labels(window.block)
        for observer in self._observers:
            observer.on_window(self._plan, self._labels[window.block], window)
        self._seen[window.block] = window.number + 1

    def _finish(self, block: int) -> None:
        if (stored := self._store.result(block)) is None:
            raise StoppedError(
                f"the result of block {block}, which a worker has finished, is not to be found in "
                f"{self._study.directory}; to go on: {_resuming(self._study)}"
            )
        self._fill(block, self._take_result(block, stored), len(self._plan.lengths))
        self._labels.pop(block, None)

    def _dataset(self) -> "xr.Dataset":
        parts = [self._results[block] for block in range(self._plan.num_blocks)]
        if self._study.directory is not None:
            records = {block: part for block, (part, _) in self._results.items()}
            LogFile(self._study.directory / layout.LOG).begin(self._plan, records)
        return dataset_of(self._plan, parts)

    def _memory_estimate(self) -> float:
        """Bytes that will be in use at most: on an accelerator, else by this process."""
        if self._fit.platform != "cpu":
            return self._fit.bytes_in_use
        leaves = jax.tree.leaves(self._fit.log_shapes)
        lanes, windows = self._study.config.num_lanes, len(self._plan.lengths)
        log = sum(x.dtype.itemsize for x in leaves) * lanes * windows
        now = memory.resident_bytes() + self._fit.bytes_in_use
        return max(now + RESULTS_COPIES * log + RESULTS_BYTES, memory.peak_bytes(jax.devices()[0]))
