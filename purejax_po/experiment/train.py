"""Train an experiment, or go on with one: checks first, the run itself, then its files."""

import json
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from purejax_po.environments import registry
from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.plots import curves
from purejax_po.experiment.plots import sweep as sweep_plots
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run import loggers
from purejax_po.experiment.run import study as driver
from purejax_po.experiment.run.compilation import compilation_cache
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.observers import Bar
from purejax_po.experiment.run.pool import open_pool
from purejax_po.experiment.run.progress import progress_bar
from purejax_po.experiment.run.signals import Interrupted, stop_signal
from purejax_po.experiment.run.study import Study
from purejax_po.experiment.run.trainer import build_trainer
from purejax_po.experiment.store import legacy, run_store
from purejax_po.experiment.store import lock as locks

if TYPE_CHECKING:
    import xarray as xr

Returned = TypeVar("Returned")


def run(
    config: ExperimentConfig,
    out: str | os.PathLike[str] | None = None,
    host: Host | None = None,
    **where: Any,
) -> "xr.Dataset":
    """Train every seed of an experiment, at each point of its sweep.

    A program is compiled once in a process: a second run of the same shape (other seeds or
    hyperparameters) starts at once. Another process reads it from the disk.

    Args:
        config: what to run.
        out: directory for the run's files; none are written without it.
        host: where and how it runs: devices, memory, a cluster, checkpoints, progress, loggers.
        **where: fields of `Host`, which override those of `host`: `overwrite=True` replaces the
            run that `out` holds; `progress=False` shows no bar, and a function is called after
            every window; `cluster="auto"` runs on Ray.

    Returns:
        Results labelled by `seed` and `update`, after the axes of a sweep (see
        `results.to_dataset`).

    Raises:
        ValueError: for a bad configuration or directory, before anything is compiled.
        Interrupted: after SIGINT or SIGTERM, once the state is saved (with `out`); the message says
            how to continue.
        StoppedError: if memory runs out, or a seed diverges under `stop_on_divergence`.
    """
    host = (host or Host()).but(where)
    return without_frames(execute, prepare(config, out, host), host)


def resume(out: str | os.PathLike[str], host: Host | None = None, **where: Any) -> "xr.Dataset":
    """Continue the run that a directory holds; its results are those of an undisturbed run.

    Arguments, result and errors as `run`; a complete run is only read. The numbers of devices and
    of workers may differ from before.
    """
    host = (host or Host()).but(where)
    return without_frames(execute, prepare_resume(out, host), host)


def without_frames(function: Callable[..., Returned], *args: object, **options: object) -> Returned:
    """Call, and raise an interruption without the frames of what was interrupted."""
    try:
        return function(*args, **options)
    except Interrupted as stop:
        raise stop.with_traceback(None) from None


def prepare(
    config: ExperimentConfig, out: str | os.PathLike[str] | None = None, host: Host | None = None
) -> Study:
    """Check everything that a user can get wrong, and build the trainer; compiles nothing.

    Raises:
        ValueError: in one line that names the field, the value and what is allowed.
    """
    host = host or Host()
    host.leave_accelerators()
    check_is_config(config)
    config.check()
    host.check()
    if out is not None:
        atomic.check_path("out", out)
    directory = None if out is None else Path(out)
    if directory is not None:
        config.check_stored()
        run_store.check_writable(directory, host.overwrite)
        run_store.check_no_other(directory)
    elif host.cluster is not None:
        raise ValueError("out must be a directory that all machines of the cluster see, got None")
    if host.cluster is not None and registry.is_local(config.env):
        raise ValueError(
            f"env must be named by module:name on a cluster, got {config.env!r}, which is "
            "registered in this process alone"
        )
    host.connect()
    trainer = build_trainer(config)
    loggers.check(host.log_to, config, directory)
    return Study(config, trainer, directory)


def check_is_config(config: object) -> None:
    """Raise `ValueError` for anything else than an experiment's configuration."""
    if not isinstance(config, ExperimentConfig):
        raise ValueError(
            "config must be an ExperimentConfig, such as "
            f"ExperimentConfig(algorithm=PPOConfig(), env='CartPole-v1'), got {config!r}"
        )


def prepare_resume(out: str | os.PathLike[str], host: Host | None = None) -> Study:
    """As `prepare`, for the run that a directory holds.

    Raises:
        ValueError: if the directory is no run, or an unfinished one of version 0.1.
    """
    atomic.check_path("out", out)
    directory = Path(out)
    host = host or Host()
    host.leave_accelerators()
    config = run_store.read_config(directory)
    config.check()
    host.check()
    legacy.check_complete(directory)
    loggers.check(host.log_to, config, directory)
    host.connect()
    return Study(config, build_trainer(config), directory, is_resumed=True)


def execute(study: Study, host: Host | None = None, title: str = "") -> "xr.Dataset":
    """Train, and write the run's files; arguments, result and errors as `run`.

    Args:
        title: what the progress bar begins with, such as `2 of 3: `.
    """
    host = host or Host()
    directory, before = study.directory, None
    with ExitStack() as stack:
        closing = ExitStack()
        for observer in host.observers:
            closing.callback(observer.close)
        stack.callback(closing.close)
        if study.is_resumed and (dataset := _finished(study)) is not None:
            return dataset
        stack.enter_context(compilation_cache(host.compilation_cache))
        stop = stack.enter_context(stop_signal())
        stop.saves = directory is not None
        if directory is not None:
            stack.enter_context(locks.hold(directory))
            stack.callback(closing.close)  # while the directory is ours
            before = _held(directory)
            if not study.is_resumed:  # nobody else began meanwhile
                run_store.check_writable(directory, host.overwrite)
        bar = Bar(host.progress) if callable(host.progress) else None
        if host.progress is True:
            bar = Bar(stack.enter_context(progress_bar(study.config, title)))
        try:
            pool = open_pool(study.config, study.trainer, host)
            stack.callback(pool.close)
            told = [*filter(None, [bar]), *host.observers]
            dataset = driver.train(study, host, pool, told, stop)
            if directory is not None:
                with stop.deferred():
                    _write(dataset, directory)
                    run_store.clean(directory)
        except Interrupted as interruption:
            has_begun = study.is_resumed or _held(directory) != before
            raise _interrupted(interruption, directory, has_begun) from None
    return dataset


def _write(dataset: "xr.Dataset", directory: Path) -> None:
    """Write a run's files; `summary.json`, which says that it is complete, comes last."""
    results.save(dataset, directory / layout.RESULTS)
    sweep_plots.save_pictures(dataset, directory)
    curves.save_pictures(results.best(dataset), directory)
    intact = {results.SHA256: results.sha256(directory / layout.RESULTS)}
    atomic.write_json(directory / layout.SUMMARY, {**results.summarize(dataset), **intact})


def _finished(study: Study) -> "xr.Dataset | None":
    """The results of a run that is complete: its summary is written last."""
    directory = study.directory
    if directory is None or not (directory / layout.SUMMARY).exists():
        return None
    try:
        dataset = results.load(directory)
    except ValueError as error:
        if legacy.is_old(directory):  # whose checkpoints this version cannot go on from
            raise
        warnings.warn(f"{error}; it is made again from the checkpoints", stacklevel=4)
        return None
    if not _is_of(dataset.attrs["config"], directory, study.config):
        raise ValueError(
            f"{directory / layout.RESULTS} belongs to another configuration than {layout.CONFIG} "
            "holds"
        )
    return dataset


def _is_of(text: str, directory: Path, config: ExperimentConfig) -> bool:
    """Whether results are of a configuration, whichever version wrote both."""
    try:
        data = {**run_store.read_format(directory), **json.loads(text)}
        return ExperimentConfig.from_dict(data).identity() == config.identity()
    except (ValueError, KeyError, TypeError):
        return False


def _held(directory: Path | None) -> tuple[int, int] | None:
    """What tells one configuration of a directory from another that replaces it."""
    try:
        found = (directory / layout.CONFIG).stat() if directory is not None else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found else None


def _interrupted(stop: Interrupted, directory: Path | None, has_begun: bool) -> Interrupted:
    """An interruption that says what is saved, and how to go on."""
    saved_to = directory if has_begun else None
    if directory is None:
        message = "interrupted; nothing is saved, for the run had no out (a directory)"
    elif has_begun:
        message = f"interrupted; to go on: purejax_po.resume({str(directory)!r})"
    elif _held(directory):
        message = f"interrupted before training; {directory} is as it was"
    else:
        message = "interrupted before training; nothing was to be saved"
    return Interrupted(stop.signal_number, saved_to=saved_to, message=message)
