"""Running an experiment: blocks of lanes, checkpoints, signals, and the files of a run."""

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from purejax_po.experiment import directory as files
from purejax_po.experiment import lanes as lanes_module
from purejax_po.experiment import plots, results
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.directory import Done
from purejax_po.experiment.lanes import Block, Program
from purejax_po.experiment.progress import Progress, progress_bar
from purejax_po.metrics import Log
from purejax_po.training import make_trainer, window_lengths
from purejax_po.types import Trainer

if TYPE_CHECKING:
    import xarray as xr


UNFINISHED = 0.01
"""The fraction of episodes that a Monte-Carlo weight may leave out without a warning."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


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


def run(
    config: ExperimentConfig,
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    progress: bool | Progress = True,
    saving: "Saving | None" = None,
) -> "xr.Dataset":
    """Train every seed of an experiment.

    Args:
        config: what to run.
        out: directory for the run's files; none are written without it.
        overwrite: replace the run that `out` already holds.
        progress: show a progress bar, or a function to call after every window.
        saving: when to write checkpoints to `out` (default: every minute, two kept).

    Returns:
        Results labelled by `seed` and `update` (see `results.to_dataset`).

    Raises:
        ValueError: for a bad configuration or directory, before anything is compiled.
        Interrupted: after SIGINT or SIGTERM, once the state is saved (with `out`).
    """
    experiment = prepare(config, out, overwrite=overwrite)
    return execute(experiment, progress=progress, saving=saving)


def resume(
    out: str | os.PathLike[str],
    *,
    progress: bool | Progress = True,
    saving: "Saving | None" = None,
) -> "xr.Dataset":
    """Continue the run that a directory holds; its results are those of an undisturbed run.

    Arguments, result and errors as `run`; a run that is complete already is read.
    """
    return execute(prepare_resume(out), progress=progress, saving=saving)


def prepare(
    config: ExperimentConfig,
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
) -> Experiment:
    """Check everything that a user can get wrong, and build the trainer; compiles nothing.

    Raises:
        ValueError: in one line that names the field, the value and what is allowed.
    """
    config.check()
    directory = None if out is None else Path(out)
    if directory is not None:
        files.check_writable(directory, overwrite)
    return Experiment(config, _make_trainer(config), directory)


def prepare_resume(out: str | os.PathLike[str]) -> Experiment:
    """As `prepare`, for the run that a directory holds.

    Raises:
        ValueError: if the directory is no run.
    """
    directory = Path(out)
    config = files.read_config(directory)
    config.check()
    return Experiment(config, _make_trainer(config), directory, is_resumed=True)


def execute(
    experiment: Experiment, *, progress: bool | Progress = True, saving: "Saving | None" = None
) -> "xr.Dataset":
    """Train, and write the run's files; arguments, result and errors as `run`."""
    saving = saving or Saving()
    if experiment.is_resumed and (dataset := _finished(experiment)) is not None:
        return dataset
    if callable(progress):
        return _execute(experiment, progress, saving)
    if not progress:
        return _execute(experiment, lambda steps, episode_return: None, saving)
    with progress_bar(experiment.config) as advance:
        return _execute(experiment, advance, saving)


def _execute(experiment: Experiment, advance: Progress, saving: Saving) -> "xr.Dataset":
    config, trainer, directory, is_resumed = experiment
    seeds = np.arange(config.first_seed, config.first_seed + config.num_seeds)
    lanes = lanes_module.make_lanes(seeds, trainer.algorithm.hyperparams, trainer.env_params)
    stored = files.stored_lanes_per_device(directory) if directory and is_resumed else None
    workers, width = lanes_module.plan(
        len(seeds), stored or config.lanes_per_device, config.num_devices
    )
    blocks = lanes_module.make_blocks(lanes, width)
    program = lanes_module.compile_program(trainer, blocks[0].lanes, config.num_updates, workers)
    done: dict[int, Done] = {}
    if directory is not None and is_resumed:
        done = _restore(directory, config, blocks, program)
    elif directory is not None:
        files.create(directory, config)

    start = time.perf_counter()
    with _stop_signal() as received:
        run_ = _Run(experiment, saving, program, advance, done)
        run_.train([block for block in blocks if block.index not in done], received)
    run_seconds = time.perf_counter() - start

    parts = [done[block.index] for block in blocks]
    log, diverged_at = jax.tree.map(
        lambda *x: np.concatenate(x), *[(part.log, part.diverged_at) for part in parts]
    )
    updates = np.cumsum(_lengths(config))
    per_update = trainer.steps_per_update
    dataset = results.to_dataset(log, seeds=seeds, updates=updates, steps_per_update=per_update)
    dataset["diverged_at"] = "seed", diverged_at
    dataset.attrs.update(
        algorithm=config.algorithm.name,
        env=config.env,
        config=json.dumps(config.identity()),
        lanes_per_device=width,
        versions=json.dumps(results.versions()),
        compile_seconds=program.compile_seconds,
        run_seconds=run_seconds,
        env_steps_per_second=run_.num_updates * per_update / run_seconds,
        device=f"{len(workers)} × {workers[0].device_kind}",
    )
    if directory is not None:
        _write_results(dataset, directory)
    return dataset


class _Run:
    """The host's loop over ticks: progress, log, checkpoints."""

    def __init__(
        self,
        experiment: Experiment,
        saving: Saving,
        program: Program,
        advance: Progress,
        done: dict[int, Done],
    ) -> None:
        self.config, self.trainer, self.directory, _ = experiment
        self.saving, self.program, self.advance, self.done = saving, program, advance, done
        self.lengths = _lengths(self.config)
        self.updates = np.cumsum(self.lengths).tolist()
        self.is_warned = False
        self.num_updates = 0
        """Updates of all real lanes made by this call."""
        self._unsaved: dict[int, Done] = {}
        self._saved_at = time.perf_counter()

    def train(self, blocks: list[Block], received: list[int]) -> None:
        """Run the blocks to their end, or save and raise once a signal has been received."""

        def pause() -> bool:
            return bool(received) or (self.directory is not None and self._is_due())

        for tick in lanes_module.run_blocks(self.program, blocks, self.lengths, pause):
            for block, log in tick.finished:
                self._record(block, log)
            if tick.synced:
                under_way = [b for b in blocks if 0 < len(b.logs) < len(self.lengths)]
                self._save(under_way)
                if received:
                    raise Interrupted(received[0])
        self._save([])

    def _record(self, block: Block, log: Log) -> None:
        """Take note of one finished window."""
        i = len(block.logs) - 1
        self.num_updates += block.num_real * self.lengths[i]
        per_update = self.trainer.steps_per_update
        self.advance(block.num_real * self.lengths[i] * per_update, _mean_return(log))
        self._warn_of_unfinished_episodes(log)
        if self.directory is not None:
            path, update = self.directory / files.LOG, self.updates[i]
            files.append_log(path, block, update, update * per_update, log)
        if i + 1 == len(self.lengths):
            self.done[block.index] = self._unsaved[block.index] = files.finish(block)
            block.state, block.logs = None, []

    def _warn_of_unfinished_episodes(self, log: Log) -> None:
        """Say once that complete episodes do not fit into the rollouts."""
        unfinished = log.info.mean.get("unfinished_episodes")
        if unfinished is None or self.is_warned or not unfinished.mean() > UNFINISHED:
            return
        self.is_warned = True
        limit = getattr(self.trainer.env_params, "max_steps_in_episode", None)
        hint = "" if limit is None else f"; the time limit is {limit:g} steps"
        warnings.warn(
            f"{unfinished.mean():.0%} of the episodes did not end within num_steps = "
            f"{self.trainer.num_steps} and were left out, so long episodes do not count: "
            f"raise num_steps or choose a psi that bootstraps, such as advantage{hint}",
            stacklevel=2,
        )

    def _is_due(self) -> bool:
        return time.perf_counter() - self._saved_at >= 60 * self.saving.every_minutes

    def _save(self, under_way: list[Block]) -> None:
        if self.directory is not None:
            files.save_checkpoint(
                self.directory,
                under_way=under_way,
                done=self._unsaved,
                lanes_per_device=self.program.lanes_per_worker,
                config=self.config,
                keep=self.saving.keep,
            )
        self._unsaved = {}
        self._saved_at = time.perf_counter()


def _restore(
    directory: Path, config: ExperimentConfig, blocks: list[Block], program: Program
) -> dict[int, Done]:
    """Bring the blocks to where the checkpoints left them, and the log with them."""
    done, problems = files.restore(
        directory, config, blocks, program.state_shapes, program.log_shapes
    )
    for problem in problems:
        warnings.warn(f"{problem}; an older one is used", stacklevel=4)
    ends = [0, *np.cumsum(_lengths(config)).tolist()]
    updates = {
        int(b.lanes.seed[0]): ends[-1] if b.index in done else ends[len(b.logs)] for b in blocks
    }
    files.trim_log(directory / files.LOG, updates)
    return done


def _make_trainer(config: ExperimentConfig) -> Trainer:
    env, env_params = config.make_env()
    return make_trainer(
        env,
        env_params,
        config.algorithm.build(env, env_params),
        num_envs=config.algorithm.num_envs,
        num_steps=config.algorithm.num_steps,
    )


def _finished(experiment: Experiment) -> "xr.Dataset | None":
    """The results of a run that is complete: its summary is written last."""
    directory = experiment.directory
    if directory is None or not (directory / "summary.json").exists():
        return None
    return results.load(directory)


def _lengths(config: ExperimentConfig) -> list[int]:
    """Updates of each window."""
    return window_lengths(config.num_updates, config.log_every).tolist()


def _write_results(dataset: "xr.Dataset", directory: Path) -> None:
    results.save(dataset, directory / "results.nc")
    plots.save_pictures(dataset, directory)
    results.write_json(directory / "summary.json", results.summarize(dataset))


def _mean_return(log: Log) -> float:
    """Mean return of all episodes of a window; NaN if none ended."""
    count = log.episode_return.count
    return float((count * log.episode_return.mean).sum() / count.sum()) if count.any() else np.nan


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them; the second one is final."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        print("\nstopping after this window; once more to leave at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous: dict[int, Any] = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
