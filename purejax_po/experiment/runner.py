"""Running an experiment: lanes, progress, logs and the files of a run."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from purejax_po.experiment import lanes as lanes_module
from purejax_po.experiment import plots, results
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.metrics import Log
from purejax_po.training import make_trainer, window_lengths
from purejax_po.types import Trainer

if TYPE_CHECKING:
    import xarray as xr

RUN_FILES = ("config.json", "results.nc", "summary.json", "learning_curve.png", "log.jsonl")

Progress = Callable[[int, float], None]
"""Called after every window with the environment steps done in it and its mean episode return."""


class Experiment(NamedTuple):
    """A checked experiment, ready to be compiled."""

    config: ExperimentConfig
    trainer: Trainer
    directory: Path | None


def run(
    config: ExperimentConfig,
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    progress: bool | Progress = True,
) -> "xr.Dataset":
    """Train every seed of an experiment.

    Args:
        config: what to run.
        out: directory for the run's files; none are written without it.
        overwrite: replace the run that `out` already holds.
        progress: show a progress bar, or a function to call after every window.

    Returns:
        Results labelled by `seed` and `update` (see `results.to_dataset`).

    Raises:
        ValueError: for a bad configuration or directory, before anything is compiled.
    """
    return execute(prepare(config, out, overwrite=overwrite), progress=progress)


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
    lanes_module.use_cpu_cores()  # before the environments' library touches JAX
    config.check()
    directory = None if out is None else Path(out)
    if directory is not None:
        check_directory(directory, overwrite)
    env, env_params = config.make_env()
    trainer = make_trainer(
        env,
        env_params,
        config.algorithm.build(env, env_params),
        num_envs=config.algorithm.num_envs,
        num_steps=config.algorithm.num_steps,
    )
    return Experiment(config, trainer, directory)


def execute(experiment: Experiment, *, progress: bool | Progress = True) -> "xr.Dataset":
    """Train, and write the run's files; arguments and result as `run`."""
    if callable(progress):
        return _execute(experiment, progress)
    if not progress:
        return _execute(experiment, lambda steps, episode_return: None)
    with _progress_bar(experiment.config) as advance:
        return _execute(experiment, advance)


def _execute(experiment: Experiment, advance: Progress) -> "xr.Dataset":
    config, trainer, directory = experiment
    if directory is not None:
        prepare_directory(directory)
        results.write_json(directory / "config.json", config.to_dict())

    seeds = np.arange(config.first_seed, config.first_seed + config.num_seeds)
    lanes = lanes_module.make_lanes(seeds, trainer.algorithm.hyperparams, trainer.env_params)
    devices, width = lanes_module.plan(
        len(seeds), config.lanes_per_device, config.num_devices
    )
    program = lanes_module.compile_program(trainer, lanes, config.num_updates, devices, width)

    lengths = window_lengths(config.num_updates, config.log_every).tolist()
    updates = np.cumsum(lengths)
    start = time.perf_counter()
    logs, marks = [], []
    for begin, chunk in zip(
        range(0, len(seeds), program.width), lanes_module.chunks(lanes, program.width), strict=True
    ):
        real = min(program.width, len(seeds) - begin)
        windows, diverged_at = [], None
        for i, padded in enumerate(lanes_module.run_chunk(program, chunk, lengths)):
            log, diverged_at = jax.tree.map(lambda x, n=real: x[:n], padded)
            windows.append(log)
            advance(real * lengths[i] * trainer.steps_per_update, _mean_return(log))
            if directory is not None:
                steps = int(updates[i]) * trainer.steps_per_update
                _append_log(directory / "log.jsonl", chunk.seed[:real], int(updates[i]), steps, log)
        logs.append(jax.tree.map(lambda *x: np.stack(x, axis=1), *windows))
        marks.append(diverged_at)
    run_seconds = time.perf_counter() - start

    log = jax.tree.map(lambda *x: np.concatenate(x), *logs)
    dataset = results.to_dataset(
        log, seeds=seeds, updates=updates, steps_per_update=trainer.steps_per_update
    )
    dataset["diverged_at"] = "seed", np.concatenate(marks)
    total = len(seeds) * config.num_updates * trainer.steps_per_update
    dataset.attrs.update(
        algorithm=config.algorithm.name,
        env=config.env,
        config=json.dumps(config.to_dict()),
        compile_seconds=program.compile_seconds,
        run_seconds=run_seconds,
        env_steps_per_second=total / run_seconds,
        lanes_per_device=program.lanes_per_device,
        device=f"{len(devices)} × {devices[0].device_kind}",
        versions=json.dumps(results.versions()),
    )
    if directory is not None:
        _write_results(dataset, directory)
    return dataset


def check_directory(directory: Path, overwrite: bool) -> None:
    """Check that a run can be written to a directory, without leaving a trace.

    Raises:
        ValueError: if it is a file, holds a run already, or cannot be written to.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"out must be a directory, got the file {directory}")
    if (directory / "config.json").exists() and not overwrite:
        raise ValueError(
            f"out must hold no run yet, got {directory} with a config.json; "
            "choose another directory or overwrite it (--overwrite)"
        )
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"out must be writable, got {directory}: {error.strerror}") from None


def prepare_directory(directory: Path) -> None:
    """Make the directory, and remove the files of the run that it held."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in RUN_FILES:
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def _write_results(dataset: "xr.Dataset", directory: Path) -> None:
    results.save(dataset, directory / "results.nc")
    partial = directory / ".learning_curve.png.partial"
    plots.save_learning_curve(dataset, partial)
    os.replace(partial, directory / "learning_curve.png")
    results.write_json(directory / "summary.json", results.summarize(dataset))


def _append_log(path: Path, seeds: Any, update: int, steps: int, log: Log) -> None:
    """Append one line for a window of a chunk, in a single write."""
    line = {
        "update": update,
        "steps": steps,
        "seeds": seeds.tolist(),
        "num_episodes": log.episode_return.count.astype(int).tolist(),
        "episode_return": [
            round(float(mean), 4) if count > 0 else None
            for mean, count in zip(log.episode_return.mean, log.episode_return.count, strict=True)
        ],
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _mean_return(log: Log) -> float:
    """Mean return of all episodes of a window; NaN if none ended."""
    count = log.episode_return.count
    return float((count * log.episode_return.mean).sum() / count.sum()) if count.any() else np.nan


class _progress_bar:  # noqa: N801 - used as a function
    """A context that gives a function advancing a rich progress bar on stderr."""

    def __init__(self, config: ExperimentConfig) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[speed]} steps/s"),
            TextColumn("return {task.fields[episode_return]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        algorithm = config.algorithm
        self._total = (
            config.num_seeds * config.num_updates * algorithm.num_envs * algorithm.num_steps
        )
        self._description = f"{algorithm.name} on {config.env}, {config.num_seeds} seeds"

    def __enter__(self) -> Progress:
        self._bar.start()
        task = self._bar.add_task(
            f"{self._description}: compiling", total=self._total, speed="-", episode_return="-"
        )
        done, start = 0, 0.0

        def advance(steps: int, episode_return: float) -> None:
            nonlocal done, start
            now = time.perf_counter()
            speed = "-" if done == 0 else f"{done / max(now - start, 1e-9):,.0f}"
            start = now if done == 0 else start
            shown = "-" if np.isnan(episode_return) else f"{episode_return:.1f}"
            done += steps
            self._bar.update(
                task,
                advance=steps,
                description=self._description,
                speed=speed,
                episode_return=shown,
            )

        return advance

    def __exit__(self, *exception: Any) -> None:
        self._bar.stop()
