"""Running an experiment: blocks of lanes, checkpoints, signals, and the files of a run."""

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from purejax_po.experiment import files as atomic
from purejax_po.experiment.config import ExperimentConfig, sweep
from purejax_po.experiment.plots import curves as plots
from purejax_po.experiment.plots import sweep as sweep_plots
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run import lanes as lanes_module
from purejax_po.experiment.run import loggers, memory
from purejax_po.experiment.run.compilation import use_compilation_cache
from purejax_po.experiment.run.lanes import Block, Lanes, Program
from purejax_po.experiment.run.processes import Attendance, Processes
from purejax_po.experiment.run.progress import Progress, progress_bar
from purejax_po.experiment.run.signals import Interrupted, StopSignal, stop_signal
from purejax_po.experiment.store import lock as locks
from purejax_po.experiment.store import run_store as files
from purejax_po.experiment.store.run_store import Done
from purejax_po.metrics import Log
from purejax_po.training import make_trainer, window_lengths
from purejax_po.types import Trainer

if TYPE_CHECKING:
    import xarray as xr


RESULTS_COPIES = 3
"""How often the windows' logs are held at the end: as they came, joined, and in the Dataset."""

RESULTS_BYTES = 100 * 2**20
"""What drawing the pictures and writing the files takes besides."""

UNFINISHED = 0.01
"""The fraction of episodes that a Monte-Carlo weight may leave out without a warning."""


class StoppedError(RuntimeError):
    """A run that cannot go on; the message is one line, and what was saved is intact."""


class Saving(NamedTuple):
    """When checkpoints are written."""

    every_minutes: float = 1.0
    """0: after every window."""
    keep: int = 2
    """Steps to keep."""


class Experiment(NamedTuple):
    """A checked experiment, ready to be compiled."""

    config: ExperimentConfig
    trainer: Trainer
    directory: Path | None
    is_resumed: bool = False
    processes: Processes = Processes()
    log_to: tuple[str, ...] = ()
    overwrite: bool = False


def run(
    config: ExperimentConfig,
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    progress: bool | Progress = True,
    saving: Saving | None = None,
    processes: Processes | None = None,
    log_to: Sequence[str] = (),
    compilation_cache: bool = True,
) -> "xr.Dataset":
    """Train every seed of an experiment, at each point of its sweep.

    A program is compiled once in a process: a second run of the same shape (other seeds,
    hyperparameters or environment parameters) starts at once. In another process it is read from
    the disk in a second.

    Args:
        config: what to run.
        out: directory for the run's files; none are written without it.
        overwrite: replace the run that `out` already holds.
        progress: show a progress bar, or a function to call after every window.
        saving: when to write checkpoints to `out` (default: every minute, two kept).
        processes: from `join_processes`, if several processes share the run; each of them calls
            this with the same arguments and an `out` that all of them see.
        log_to: where to log besides `log.jsonl`: `tensorboard`, `wandb` (optional extras).
        compilation_cache: keep compiled programs on disk (`use_compilation_cache`), as the command
            line does.

    Returns:
        Results labelled by `seed` and `update`, in front of them the axes of a sweep (see
        `results.to_dataset`).

    Raises:
        ValueError: for a bad configuration or directory, before anything is compiled.
        Interrupted: after SIGINT or SIGTERM, once the state is saved (with `out`); the message says
            how to go on.
        StoppedError: if memory runs out, or a seed diverges under `stop_on_divergence`.
        ProcessLostError: naming another process that died; this one's seeds are saved.
    """
    experiment = prepare(config, out, overwrite=overwrite, processes=processes, log_to=log_to)
    if compilation_cache:
        use_compilation_cache()
    return without_frames(execute, experiment, progress=progress, saving=saving)


def without_frames(execute: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call, and raise an interruption without the frames of what was interrupted."""
    try:
        return execute(*args, **options)
    except Interrupted as stop:
        raise stop.with_traceback(None) from None


def resume(
    out: str | os.PathLike[str],
    *,
    progress: bool | Progress = True,
    saving: Saving | None = None,
    processes: Processes | None = None,
    log_to: Sequence[str] = (),
    compilation_cache: bool = True,
) -> "xr.Dataset":
    """Continue the run that a directory holds; its results are those of an undisturbed run.

    Arguments, result and errors as `run`; a run that is complete already is read. The number of
    devices and of processes may be another than before.
    """
    experiment = prepare_resume(out, processes=processes, log_to=log_to)
    if compilation_cache:
        use_compilation_cache()
    return without_frames(execute, experiment, progress=progress, saving=saving)


def prepare(
    config: ExperimentConfig,
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    processes: Processes | None = None,
    log_to: Sequence[str] = (),
) -> Experiment:
    """Check everything that a user can get wrong, and build the trainer; compiles nothing.

    Raises:
        ValueError: in one line that names the field, the value and what is allowed.
    """
    if not isinstance(config, ExperimentConfig):
        raise ValueError(
            "config must be an ExperimentConfig, such as "
            f"ExperimentConfig(algorithm=PPOConfig(), env='CartPole-v1'), got {config!r}"
        )
    config.check()
    processes = processes or Processes()
    directory = None if out is None else Path(out)
    if directory is not None:
        config.check_stored()
    if directory is None and processes.count > 1:
        raise ValueError("out must be a directory that all processes share, got None")
    if directory is not None and processes.is_first:
        files.check_writable(directory, overwrite)
    trainer = _make_trainer(config)
    loggers.check(log_to, config, directory)
    return Experiment(config, trainer, directory, False, processes, tuple(log_to), overwrite)


def prepare_resume(
    out: str | os.PathLike[str],
    *,
    processes: Processes | None = None,
    log_to: Sequence[str] = (),
) -> Experiment:
    """As `prepare`, for the run that a directory holds.

    Raises:
        ValueError: if the directory is no run.
    """
    directory = Path(out)
    config = files.read_config(directory)
    config.check()
    trainer = _make_trainer(config)
    loggers.check(log_to, config, directory)
    return Experiment(config, trainer, directory, True, processes or Processes(), tuple(log_to))


def execute(
    experiment: Experiment,
    *,
    progress: bool | Progress = True,
    saving: Saving | None = None,
    title: str = "",
) -> "xr.Dataset":
    """Train, and write the run's files; arguments, result and errors as `run`.

    Args:
        title: what the progress bar begins with, such as `2 of 3: `.
    """
    saving = saving or Saving()
    if experiment.is_resumed and (dataset := _finished(experiment)) is not None:
        return dataset
    config, directory, processes = experiment.config, experiment.directory, experiment.processes
    with ExitStack() as stack:
        stop = stack.enter_context(stop_signal())
        stop.saves = directory is not None
        if directory is not None:
            stack.enter_context(locks.hold(directory, processes.index, processes.session))
            if processes.is_first and not experiment.is_resumed:  # nobody else began meanwhile
                files.check_writable(directory, experiment.overwrite)
        if callable(progress):
            advance = progress
        elif progress and processes.is_first:
            advance = stack.enter_context(progress_bar(config, processes.count, title))
        else:
            advance = _no_progress
        return _execute(experiment, advance, saving, stop)


def _no_progress(steps: int, episode_return: float) -> None:
    """Show nothing."""


def _execute(
    experiment: Experiment, advance: Progress, saving: Saving, stop: StopSignal
) -> "xr.Dataset":
    """Compile and train, with half as many lanes on each device whenever memory runs out."""
    limit, times_halved = None, 0
    attendance = Attendance(experiment.processes, experiment.directory)
    run_ = _Run(experiment, saving, advance, attendance, stop)
    try:
        attendance.reach("started")
        while True:
            try:
                dataset = run_.execute(limit, times_halved)
                attendance.leave()
                return dataset
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not memory.is_exhausted(error):
                    raise
                limit = run_.half_the_lanes()
            times_halved += 1
            warnings.warn(f"out of memory: again with {limit} lanes on each device", stacklevel=3)
            run_ = _Run(experiment, saving, advance, attendance, stop)
    except BaseException as error:
        attendance.leave(str(error).partition("\n")[0] or type(error).__name__.lower())
        if isinstance(error, Interrupted):
            raise _interrupted(error.signal_number, experiment.directory, run_.has_saved) from None
        raise


def _interrupted(number: int, directory: Path | None, has_saved: bool) -> Interrupted:
    """An interruption that says what is saved, and how to go on."""
    if directory is None:
        message = "interrupted; nothing is saved, for the run had no out (a directory)"
    elif has_saved:
        message = f"interrupted; to go on: purejax_po.resume({os.fspath(directory)!r})"
    else:
        message = "interrupted before training; nothing was to be saved"
    return Interrupted(number, saved_to=directory if has_saved else None, message=message)


class _Run:
    """The host's side of a run: compilation, the loop over windows, checkpoints, results."""

    def __init__(
        self,
        experiment: Experiment,
        saving: Saving,
        advance: Progress,
        attendance: Attendance,
        stop: StopSignal,
    ) -> None:
        self.config, self.trainer, self.directory = experiment[:3]
        self.is_resumed, self.processes, self.log_to = experiment[3:6]
        self.saving, self.advance, self.attendance = saving, advance, attendance
        self.stop = stop
        self.lengths = window_lengths(self.config.num_updates, self.config.log_every).tolist()
        self.updates = np.cumsum(self.lengths).tolist()
        self.seeds = np.arange(self.config.num_seeds) + self.config.first_seed
        self.program: Program | None = None
        self.done: dict[int, Done] = {}
        self.has_saved = self.is_resumed
        self.loggers: list[loggers.Logger] = []
        self.is_warned = False
        self._unsaved: dict[int, Done] = {}
        self._seconds_before = 0.0
        self._lost: list[str] = []
        self._newest: dict[int, Log] = {}
        self._damaged: list[Path] = []

    def execute(self, limit: int | None, times_halved: int) -> "xr.Dataset":
        """Train all lanes; `limit` on the lanes of each device comes from an earlier attempt."""
        lanes = sweep.make_lanes(
            self.config, self.trainer.algorithm.hyperparams, self.trainer.env_params
        )
        self.program = program = self._compile(lanes, limit)
        blocks = lanes_module.make_blocks(lanes, program.lanes_per_worker)
        self._open(blocks, program)
        estimate = self._memory_estimate(program)
        self._begin = self._saved_at = time.perf_counter()
        mine = [b for b in blocks if self.processes.owns(b.index) and b.index not in self.done]
        try:
            with self.stop.deferred():
                self._train(program, mine)
        finally:
            for logger in self.loggers:
                logger.close()
        run_seconds = self._run_seconds()
        if self.processes.count > 1:
            merged = self._merge(blocks, program)
            if merged is not None:
                return merged
        dataset = self._dataset(blocks)
        dataset.attrs.update(
            lanes_per_device=program.lanes_per_worker,
            compile_seconds=program.compile_seconds,
            run_seconds=run_seconds,
            env_steps_per_second=self.config.num_lanes
            * self._steps(self.updates[-1])
            / run_seconds,
            device=f"{len(program.workers)} × {program.workers[0].device_kind}",
            num_processes=self.processes.count,
            times_halved=times_halved,
            memory_estimate_gib=estimate / memory.GIB,
            memory_peak_gib=memory.peak_bytes(program.workers[0]) / memory.GIB,
        )
        if self.directory is not None:
            with self.stop.deferred():
                _write_results(dataset, self.directory)
                files.clean(self.directory)
                self.attendance.reach("merged")
        return dataset

    def half_the_lanes(self) -> int:
        """How many lanes on each device to try next, after memory ran out.

        Raises:
            StoppedError: if the number is fixed, cannot be halved, or lanes are done already.
        """
        width = self.program.lanes_per_worker if self.program else 1
        reason = ""
        if self.config.lanes_per_device is not None:
            reason = "lanes_per_device is fixed"
        elif self.has_saved:
            reason = (
                f"a part is saved; to go on with more memory: purejax-po resume {self.directory}"
            )
        elif self.processes.count > 1:
            reason = "several processes share the run: set lanes_per_device"
        elif width == 1:
            reason = "a single lane does not fit"
        if reason:
            raise StoppedError(f"out of memory with {width} lanes on each device; {reason}")
        return width // 2

    def _compile(self, lanes: Lanes, limit: int | None) -> Program:
        config, directory, processes = self.config, self.directory, self.processes
        fixed = config.lanes_per_device
        if directory is not None and self.is_resumed:
            fixed = files.stored_lanes_per_device(directory) or fixed
        if directory is not None and not processes.is_first:
            fixed = self.attendance.wait("ready", of=[0])["lanes_per_device"]
            if files.config_hash(files.read_config(directory)) != files.config_hash(config):
                raise ValueError(
                    f"every process must be given the same configuration, got another than "
                    f"{directory / files.CONFIG} holds"
                )
        share = math.ceil(self.config.num_lanes / processes.count)
        workers, width = lanes_module.plan(
            share, fixed, config.num_devices, config.algorithm.lanes_per_core
        )
        width = min(width, limit or width)
        if fixed is not None:
            first = lanes_module.make_blocks(lanes, width)[0].lanes
            program = lanes_module.compile_once(
                _program_key(config, self.trainer), self.trainer, first, config.num_updates, workers
            )
            lanes_module.check_fit(program, config.memory_gib)
            return program
        return lanes_module.compile_to_fit(
            self.trainer,
            lanes,
            config.num_updates,
            workers,
            width,
            config.memory_gib,
            _program_key(config, self.trainer),
        )

    def _open(self, blocks: list[Block], program: Program) -> None:
        """Create the directory, or bring the blocks to where its checkpoints left them."""
        directory, processes = self.directory, self.processes
        if directory is None:
            return
        if processes.is_first and not self.is_resumed:
            files.create(directory, self.config, program.lanes_per_worker)
        if processes.is_first and self.is_resumed:
            (directory / files.CHECKPOINTS).mkdir(exist_ok=True)
            files.warn_of_versions(directory)
            files.warn_of_environment(directory, self.trainer.env)
            files.merge_logs(directory)
        self.attendance.reach("ready", lanes_per_device=program.lanes_per_worker)
        if self.is_resumed:
            self._restore(directory, blocks, program)
        self.attendance.reach("restored")
        self.loggers = loggers.open_all(self.log_to, self.config, directory)
        self.attendance.wait("restored")  # nobody writes while somebody reads
        files.set_aside(self._damaged)

    def _restore(self, directory: Path, blocks: list[Block], program: Program) -> None:
        restored = files.restore(
            directory, self.config, blocks, program.state_shapes, program.log_shapes
        )
        for problem in restored.problems:
            warnings.warn(problem, stacklevel=6)
        begun = restored.done or restored.problems or any(b.num_windows for b in blocks)
        if not begun and (directory / files.LOG).exists():
            warnings.warn(f"{directory} holds no checkpoint: all seeds start anew", stacklevel=6)
        self._damaged = restored.damaged
        self.done, self._seconds_before = restored.done, restored.run_seconds
        ends = [0, *self.updates]
        updates = {b.index: ends[-1 if b.index in self.done else len(b.logs)] for b in blocks}
        mine = [b for b in blocks if self.processes.owns(b.index)]
        self.advance(sum(b.num_real * self._steps(updates[b.index]) for b in mine), math.nan)
        if self.processes.is_first:
            firsts = sweep.columns(self.config, [b.numbers[0] for b in blocks])
            lanes = zip(*firsts.values(), strict=True)
            by_lane = dict(zip(lanes, updates.values(), strict=True))
            files.trim_log(directory / files.LOG, by_lane, tuple(firsts))

    def _train(self, program: Program, blocks: list[Block]) -> None:
        """Run the blocks to their end, or save and raise once a signal has been received."""

        def pause() -> bool:
            return bool(self.stop) or (self.directory is not None and self._is_due())

        for tick in lanes_module.run_blocks(program, blocks, self.lengths, pause):
            for block, log in tick.finished:
                self._record(block, log)
            if tick.synced:
                self._save([b for b in blocks if 0 < len(b.logs) < len(self.lengths)])
                self.stop.check()
        self._save([])

    def _record(self, block: Block, log: Log) -> None:
        """Take note of one finished window."""
        i = len(block.logs) - 1
        self._newest[block.index] = log
        self.advance(block.num_real * self._steps(self.lengths[i]), _mean_return(self._newest))
        self._warn_of_unfinished_episodes(log)
        if self.directory is not None:
            path = files.log_path(self.directory, self.processes.index)
            steps = self._steps(self.updates[i])
            columns = sweep.columns(self.config, block.numbers)
            files.append_log(path, columns, self.updates[i], steps, log)
            for logger in self.loggers:
                logger.write(sweep.names(self.config, block.numbers), steps, log)
        if self.config.stop_on_divergence:
            self._check_divergence(block, log)
        if i + 1 == len(self.lengths):
            self.done[block.index] = self._unsaved[block.index] = files.finish(block)
            block.state, block.logs = None, []

    def _check_divergence(self, block: Block, log: Log) -> None:
        """Raise `StoppedError` naming seed and update, if a window lacks updates of a lane."""
        i = len(block.logs) - 1
        if (lacking := np.flatnonzero(log.info.count < self.lengths[i])).size:
            update = self.updates[i] - self.lengths[i] + int(log.info.count[lacking[0]])
            lane = sweep.describe(self.config, block.numbers[lacking[0]])
            raise StoppedError(f"{lane} diverged at update {update} (stop_on_divergence)")

    def _warn_of_unfinished_episodes(self, log: Log) -> None:
        """Say once that complete episodes do not fit into the rollouts."""
        unfinished = log.info.mean.get("unfinished_episodes")
        if unfinished is None or self.is_warned or not unfinished.mean() > UNFINISHED:
            return
        self.is_warned = True
        limit = getattr(self.trainer.env_params, "max_steps_in_episode", None)
        limits = self.config.sweep.get("env_params.max_steps_in_episode", (limit or 0,))
        hint = "" if limit is None else f"; the time limit is {max(limits):g} steps"
        has_psi = hasattr(self.config.algorithm, "psi")
        other = " or choose a psi that bootstraps, such as advantage" if has_psi else ""
        warnings.warn(
            f"{unfinished.mean():.0%} of the episodes did not end within num_steps = "
            f"{self.trainer.num_steps} and were left out, so long episodes do not count: "
            f"raise num_steps{other}{hint}",
            stacklevel=2,
        )

    def _is_due(self) -> bool:
        return time.perf_counter() - self._saved_at >= 60 * self.saving.every_minutes

    def _save(self, under_way: list[Block]) -> None:
        """Write a checkpoint, if there is a directory; parameters on disk leave the memory."""
        if self.directory is not None:
            assert self.program is not None
            files.save_checkpoint(
                self.directory,
                under_way=under_way,
                done=self._unsaved,
                meta={
                    "lanes_per_device": self.program.lanes_per_worker,
                    "config_sha256": files.config_hash(self.config),
                    "run_seconds": self._run_seconds(),
                    "versions": results.versions(),
                },
                keep=self.saving.keep,
                process=self.processes.index if self.processes.count > 1 else None,
                finished=self.done.keys(),
            )
            self.has_saved = True
            for lost in self.attendance.lost():
                if lost.split(":")[0] not in self._lost:
                    self._lost.append(lost.split(":")[0])
                    warnings.warn(f"{lost}; its seeds wait for a resume", stacklevel=5)
        for index in self._unsaved:
            self.done[index] = self.done[index]._replace(params=None)
        self._unsaved = {}
        self._saved_at = time.perf_counter()

    def _merge(self, blocks: list[Block], program: Program) -> "xr.Dataset | None":
        """Collect what the other processes did; all but the first read the results from it."""
        directory, processes = self.directory, self.processes
        assert directory is not None
        self.attendance.reach("finished")
        if not processes.is_first:
            self.attendance.wait("merged", of=[0])
            return results.load(directory)
        self.attendance.wait("finished")
        shapes = program.state_shapes, program.log_shapes
        self.done = files.load_done(directory, self.config, blocks, *shapes)
        files.merge_logs(directory)
        return None

    def _dataset(self, blocks: list[Block]) -> "xr.Dataset":
        if lacking := [b.index for b in blocks if b.index not in self.done]:
            raise StoppedError(
                f"the checkpoint of block {lacking[0]}, which another process finished, cannot be "
                f"read; to go on: purejax-po resume {self.directory}"
            )
        parts = [self.done[block.index] for block in blocks]
        log, diverged_at = jax.tree.map(
            lambda *x: np.concatenate(x), *[(part.log, part.diverged_at) for part in parts]
        )
        dataset = results.to_dataset(
            log,
            seeds=self.seeds,
            updates=self.updates,
            steps_per_update=self.trainer.steps_per_update,
            axes=sweep.axes(self.config),
        )
        final = dataset["final_return"]
        dataset["diverged_at"] = final.dims, diverged_at.reshape(final.shape)
        dataset.attrs.update(
            algorithm=self.config.algorithm.name,
            env=self.config.env,
            config=json.dumps(self.config.identity()),
            versions=json.dumps(results.versions()),
        )
        return dataset

    def _memory_estimate(self, program: Program) -> float:
        """Bytes that will be in use at most: on an accelerator, else by this process."""
        device = program.workers[0]
        programs = program.bytes_per_worker * program.workers.count(device)
        if device.platform != "cpu":
            return programs
        leaves = jax.tree.leaves(program.log_shapes)
        log = sum(x.dtype.itemsize for x in leaves) * self.config.num_lanes * len(self.lengths)
        now = memory.resident_bytes() + programs + RESULTS_COPIES * log + RESULTS_BYTES
        return max(now, memory.peak_bytes(device))

    def _steps(self, updates: int) -> int:
        return updates * self.trainer.steps_per_update

    def _run_seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._begin


def _program_key(config: ExperimentConfig, trainer: Trainer) -> Hashable:
    """What a program depends on: all of an experiment that is not a traced number."""
    try:
        config.check_stored()
    except ValueError:  # of one's own class, whose program may depend on anything
        return None
    data = config.identity()
    for name in ("num_seeds", "first_seed", "sweep", "total_steps", "num_windows"):
        del data[name]
    data["algorithm"] = {k: v for k, v in data["algorithm"].items() if k != "hyperparams"}
    return json.dumps(data, sort_keys=True), type(config).make_env, type(trainer.env)


def _make_trainer(config: ExperimentConfig) -> Trainer:
    env, env_params = config.make_env()
    sweep.check(config, env_params)
    trainer = make_trainer(
        env,
        env_params,
        config.algorithm.build(env, env_params),
        num_envs=config.algorithm.num_envs,
        num_steps=config.algorithm.num_steps,
        normalize_observations=config.normalize_observations,
        normalize_rewards=config.normalize_rewards,
        matmul_precision=config.matmul_precision,
    )
    sweep.check_effect(config, trainer)
    return trainer


def _finished(experiment: Experiment) -> "xr.Dataset | None":
    """The results of a run that is complete: its summary is written last."""
    directory = experiment.directory
    if directory is None or not (directory / "summary.json").exists():
        return None
    try:
        dataset = results.load(directory)
    except ValueError as error:
        warnings.warn(f"{error}; it is made anew from the checkpoints", stacklevel=4)
        return None
    if dataset.attrs["config"] != json.dumps(experiment.config.identity()):
        raise ValueError(
            f"{directory / 'results.nc'} belongs to another configuration than {files.CONFIG} holds"
        )
    return dataset


def _write_results(dataset: "xr.Dataset", directory: Path) -> None:
    results.save(dataset, directory / "results.nc")
    sweep_plots.save_pictures(dataset, directory)
    plots.save_pictures(results.best(dataset), directory)
    atomic.write_json(directory / "summary.json", results.summarize(dataset))


def _mean_return(newest: Mapping[int, Log]) -> float:
    """Mean return of all episodes of every block's newest window; NaN if none ended."""
    returns = [log.episode_return for log in newest.values()]
    count = sum(float(x.count.sum()) for x in returns)
    total = sum(float((x.count * x.mean).sum()) for x in returns)
    return total / count if count else np.nan
