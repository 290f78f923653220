"""A run's directory: configuration, log, checkpoints of unfinished and of finished blocks.

`checkpoints/step-N` holds the blocks that were under way when it was written; the newest few are
kept. `checkpoints/done-N` holds the logs and final policies of blocks that finished before it was
written; all are kept, for they are the results. Where several processes share a run, each of them
writes checkpoints (`step-N-pI`) and a log (`log-I.jsonl`) of its own.
"""

import hashlib
import json
import math
import re
import shutil
import tempfile
import warnings
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from purejax_po.contract import name_of
from purejax_po.experiment import files as atomic
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run.lanes import Block
from purejax_po.experiment.store import arrays as checkpoint
from purejax_po.experiment.store.arrays import CheckpointError
from purejax_po.metrics import Log
from purejax_po.types import Trainer

CONFIG, LOG, CHECKPOINTS = "config.json", "log.jsonl", "checkpoints"
RESULTS = ("results.nc", "summary.json", "learning_curve.png", "diagnostics.png")
RUN_FILES = (CONFIG, LOG, *RESULTS, CHECKPOINTS)
PROGRAM = f"{CHECKPOINTS}/program.json"
_NAME = re.compile(r"(step|done)-(\d+)(?:-p(\d+))?")
SWEEP = "sweep.png"
LOGGERS = ("tensorboard", "wandb")
"""Directories of optional loggers: like a run's files replaced with it."""


class Done(NamedTuple):
    """What is left of a finished block, leaves `[num_real, ...]`."""

    log: Log
    """`[num_real, windows]`."""
    diverged_at: Any
    params: Any
    """What the final policy acts with (`TrainState.acting_params`); `None` once it is saved."""


class Restored(NamedTuple):
    """What the checkpoints of a run tell besides the blocks' states."""

    done: dict[int, Done]
    """By index of the block."""
    problems: list[str]
    """What was wrong with the checkpoints that were not used."""
    damaged: list[Path]
    """Those checkpoints."""
    run_seconds: float
    """Time that the run has taken so far."""


class _Stored(NamedTuple):
    """A checkpoint's place in a run."""

    path: Path
    is_step: bool
    number: int
    process: int | None
    """That wrote it, if several shared the run."""


def check_writable(directory: Path, overwrite: bool) -> None:
    """Check that a run can be written to a directory, without leaving a trace.

    Raises:
        ValueError: if it is a file, holds a run or a run's files already, or cannot be written to.
    """
    atomic.check_local("out", directory)
    try:
        if directory.is_symlink() and not directory.exists():
            raise ValueError(f"out must be a directory, got the dangling link {directory}")
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"out must be a directory, got the file {directory}")
        held = [name for name in (*RUN_FILES, SWEEP, *LOGGERS) if (directory / name).exists()]
        existing = directory.absolute()
        while not existing.exists():
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"out must be writable, got {directory}: {error.strerror}") from None
    if held and CONFIG not in held:
        raise ValueError(
            f"out must hold no files named like a run's, got {directory} with {held[0]} but no "
            f"{CONFIG}; choose another directory"
        )
    if held and not overwrite:
        raise ValueError(
            f"out must hold no run yet, got {directory} with a {CONFIG}; "
            "choose another directory, resume it or overwrite it (--overwrite)"
        )


def create(directory: Path, config: ExperimentConfig, lanes_per_device: int) -> None:
    """Make the directory, remove the run that it held, and write what decides the results.

    `summary.json`, which says that a run is complete, goes first and the configuration is replaced
    last: a directory left by a kill can be resumed or overwritten.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("summary.json", *RUN_FILES, SWEEP, *LOGGERS):
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        elif name != CONFIG:
            path.unlink(missing_ok=True)
    remove_other_logs(directory)
    atomic.write_json(directory / CONFIG, config.to_dict())
    (directory / CHECKPOINTS).mkdir()
    begun = {"lanes_per_device": lanes_per_device, "versions": results.versions()}
    atomic.write_json(directory / PROGRAM, begun)


def read_config(directory: Path) -> ExperimentConfig:
    """Read the configuration of a run.

    Raises:
        ValueError: if the directory is no run, or one of another version.
    """
    atomic.check_local("directory", directory)
    try:
        data = json.loads((directory / CONFIG).read_text())
        if not isinstance(data, dict) or "algorithm" not in data:
            raise ValueError
    except (OSError, ValueError):
        raise ValueError(
            f"directory must be that of a run, got {directory}, which has no readable {CONFIG}"
        ) from None
    try:
        return ExperimentConfig.from_dict(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{directory / CONFIG} does not fit this version of the package: {error}"
        ) from None


def config_hash(config: ExperimentConfig) -> str:
    """Hash what a run's results depend on."""
    return hashlib.sha256(json.dumps(config.identity(), sort_keys=True).encode()).hexdigest()


def append_log(
    path: Path, columns: dict[str, list[Any]], update: int, steps: int, log: Log
) -> None:
    """Append one line for a window of a block, whose lanes `columns` name, in a single write."""
    episodes = log.episode_return
    line = {
        "update": update,
        "steps": steps,
        **columns,
        "num_episodes": episodes.count.astype(int).tolist(),
        "episode_return": [
            round(float(mean), 4) if count > 0 else None
            for mean, count in zip(episodes.mean, episodes.count, strict=True)
        ],
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def log_path(directory: Path, process: int = 0) -> Path:
    """Return the log that a process writes: `log.jsonl`, or `log-I.jsonl` beside it."""
    return directory / (f"log-{process}.jsonl" if process else LOG)


def merge_logs(directory: Path) -> None:
    """Put the lines of all processes' logs into `log.jsonl`."""
    others = sorted(directory.glob("log-*.jsonl"))
    if others:
        lines = [line for path in (directory / LOG, *others) for line in _lines(path)]
        atomic.write_text(directory / LOG, "".join(f"{line}\n" for line in lines))
    for path in others:
        path.unlink()


def remove_other_logs(directory: Path) -> None:
    """Remove the logs that several processes leave behind when they are broken off."""
    for path in directory.glob("log-*.jsonl"):
        path.unlink()


def trim_log(
    path: Path, updates_done: dict[tuple[Any, ...], int], columns: Sequence[str] = ("seeds",)
) -> None:
    """Drop the lines that a resumed run will write again, and a last line cut short.

    Args:
        path: of the log.
        updates_done: by the first lane of each block, the updates that are not done again.
        columns: what names a lane: the seed, and the axes of a sweep.
    """
    kept = {}
    for line in _lines(path):
        try:
            entry = json.loads(line)
            first, update = tuple(entry[name][0] for name in columns), entry["update"]
            is_kept = update <= updates_done.get(first, 0)
        except (ValueError, KeyError, TypeError, IndexError):
            continue  # cut short, or damaged
        if is_kept:
            kept[first, update] = line + "\n"
    atomic.write_text(path, "".join(kept.values()))


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def save_checkpoint(
    directory: Path,
    *,
    under_way: list[Block],
    done: dict[int, Done],
    meta: dict[str, Any],
    keep: int,
    process: int | None = None,
    finished: Collection[int] = (),
) -> None:
    """Write the blocks under way as a step and newly finished ones as done; drop old steps.

    Of its own steps a process drops those behind the newest `keep`, if all their blocks are in
    newer ones or finished: after a change of the number of processes another one may need them.

    Args:
        directory: of the run.
        under_way, done: what to write.
        meta: what `restore` asks for: `lanes_per_device`, `config_sha256`, `run_seconds` and
            `versions`.
        keep: steps to keep.
        process: the index of this process, if several share the run.
        finished: blocks that are known to be done.
    """
    stored = _stored(directory)
    number = 1 + max((s.number for s in stored), default=0)
    suffix = f"{number:06d}" if process is None else f"{number:06d}-p{process}"
    if done:
        arrays = _join({str(index): checkpoint.flatten(part) for index, part in done.items()})
        path = directory / CHECKPOINTS / f"done-{suffix}"
        checkpoint.save(path, arrays, {**meta, "blocks": sorted(done)})
        if not stored:
            checkpoint.load(path)  # a place from which nothing can be read is found out at once
    if under_way:
        parts = {
            str(b.index): checkpoint.flatten({"state": b.state, "log": stack(b.logs)})
            for b in under_way
        }
        windows = {str(b.index): len(b.logs) for b in under_way}
        path = directory / CHECKPOINTS / f"step-{suffix}"
        checkpoint.save(path, _join(parts), {**meta, "blocks": windows})
        if not stored:
            checkpoint.load(path)
    own = [s.path for s in _stored(directory) if s.is_step and s.process == process]
    needless = {*finished, *done, *(b.index for b in under_way)}
    for path in own[: -keep if under_way else None]:
        if _holds_only(path, needless):
            shutil.rmtree(path)


def clean(directory: Path) -> None:
    """Remove what a complete run needs no more: states of blocks, files half-written or damaged."""
    for stored in _stored(directory):
        if stored.is_step:
            shutil.rmtree(stored.path)
    for place in (directory, directory / CHECKPOINTS):
        for path in (*place.glob(".*.partial"), *place.glob(".*.damaged")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def restore(
    directory: Path, config: ExperimentConfig, blocks: list[Block], state: Any, log: Log
) -> Restored:
    """Bring blocks to where the valid checkpoints of a run left them.

    Of each block the valid state that is furthest counts, whichever process wrote it.

    Args:
        directory: of the run.
        config: its configuration.
        blocks: as new; they get their state and logs.
        state, log: shapes and dtypes of a block's TrainState and of a window's log, `[K, ...]`.

    Raises:
        CheckpointError: if there are checkpoints but none that can be used, or if they belong to
            another configuration or to a run of another structure.
    """
    found = Restored({}, [], [], 0.0)
    bad: list[tuple[_Stored, str]] = []
    used: list[_Stored] = []
    windows = math.ceil(config.num_updates / config.log_every)
    for stored in reversed(_stored(directory)):
        path = stored.path
        try:
            if stored.is_step and _brings_nothing(path, blocks, found.done):
                continue
            arrays, meta = checkpoint.load(path)
        except CheckpointError as error:
            # Of the steps of a process the newest valid one counts: what is older is of no use.
            newer = [s for s in used if s.is_step and s.process == stored.process]
            if not (stored.is_step and newer):
                bad.append((stored, str(error)))
            continue
        _check_config(path, meta, config)
        found = found._replace(run_seconds=max(found.run_seconds, meta.get("run_seconds", 0.0)))
        used.append(stored)
        for index, part in _split(arrays).items():
            block = blocks[index]
            if not stored.is_step:
                template = done_shapes(state, log, block.num_real, windows)
                done = _unflatten(path, meta, template, part)
                found.done[index] = done._replace(params=None)
            elif meta["blocks"][str(index)] > block.num_windows:
                _bring(block, path, meta, part, state, log)
    if bad and not used:
        raise CheckpointError(
            f"{bad[0][1]}; there is no older one: start anew "
            f"(purejax-po train … --out {directory} --overwrite)"
        )
    for stored, reason in bad:
        found.damaged.append(stored.path)
        has_older = any(s.is_step and s.process == stored.process for s in used)
        instead = "an older one is used" if has_older else "its seeds start further back"
        found.problems.append(f"{reason}; {instead}")
    return found


def _brings_nothing(path: Path, blocks: list[Block], done: Collection[int]) -> bool:
    """Whether the blocks of a step are done, or as far as there or further."""
    windows = checkpoint.read_manifest(path)["meta"]["blocks"]
    return all(int(i) in done or blocks[int(i)].num_windows >= n for i, n in windows.items())


def _holds_only(path: Path, indices: Collection[int]) -> bool:
    """Whether a step holds no other blocks than these; a damaged one holds none."""
    try:
        return all(int(i) in indices for i in checkpoint.read_manifest(path)["meta"]["blocks"])
    except CheckpointError:
        return True


def _check_config(path: Path, meta: dict[str, Any], config: ExperimentConfig) -> None:
    if meta["config_sha256"] != config_hash(config):
        raise CheckpointError(f"{path} belongs to another configuration than {CONFIG} holds")


def _bring(
    block: Block, path: Path, meta: dict[str, Any], part: checkpoint.Arrays, state: Any, log: Log
) -> None:
    """Bring a block to where a step holds it."""
    windows = meta["blocks"][str(block.index)]
    template = {"state": state, "log": _stacked(log, block.num_real, windows)}
    restored = _unflatten(path, meta, template, part)
    block.state, block.num_windows = restored["state"], windows
    block.logs = unstack(restored["log"])


def set_aside(paths: Sequence[Path]) -> None:
    """Rename damaged checkpoints, so that nobody reads or counts them again."""
    for path in paths:
        with suppress(FileNotFoundError):  # another process was faster
            path.rename(path.with_name(f".{path.name}.damaged"))


def load_done(
    directory: Path, config: ExperimentConfig, blocks: list[Block], state: Any, log: Log
) -> dict[int, Done]:
    """Read the finished blocks of all processes; arguments and errors as `restore`."""
    fresh = [Block(b.index, b.lanes, b.num_real) for b in blocks]
    return restore(directory, config, fresh, state, log).done


def load_params(
    directory: Path, config: ExperimentConfig, trainer: Trainer
) -> tuple[Any, Any, Any]:
    """Read the final parameters of all finished lanes.

    Returns:
        Their numbers, whether each one diverged, and parameters with leaves `[lanes, ...]`.

    Raises:
        ValueError: if no lane has finished, or a checkpoint does not fit or belongs to another
            configuration.
    """
    shapes = jax.eval_shape(trainer.init, jax.random.key(0), trainer.algorithm.hyperparams)
    numbers, diverged, parts, problems = [], [], [], []
    for path, is_step, *_ in _stored(directory):
        if is_step:
            continue
        try:
            arrays, meta = checkpoint.load(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        _check_config(path, meta, config)
        width = meta["lanes_per_device"]
        for index, part in _split(arrays).items():
            params = {k[len(".params") :]: v for k, v in part.items() if k.startswith(".params")}
            count = min(width, config.num_lanes - index * width)
            template = jax.tree.map(
                lambda x, n=count: jax.ShapeDtypeStruct((n, *x.shape), x.dtype),
                shapes.acting_params,
            )
            parts.append(_unflatten(path, meta, template, params))
            diverged.append(part[".diverged_at"] >= 0)
            numbers.append(index * width + np.arange(count))
    if not parts:
        reason = problems[0] if problems else "no seed has finished yet"
        raise ValueError(f"{directory} holds no trained policy: {reason}")
    found, order = np.unique(np.concatenate(numbers), return_index=True)
    if len(found) < config.num_lanes:
        for problem in problems:
            warnings.warn(f"{problem}; its seeds are left out", stacklevel=2)
    joined = jax.tree.map(lambda *x: np.concatenate(x)[order], *parts)
    return found, np.concatenate(diverged)[order], joined


def stored_lanes_per_device(directory: Path) -> int | None:
    """K of a run, from its newest valid checkpoint or from what was noted at its start."""
    for path, *_ in reversed(_stored(directory)):
        try:
            return checkpoint.verify(path)["meta"]["lanes_per_device"]
        except CheckpointError:
            continue
    return _begun(directory).get("lanes_per_device")


def warn_of_versions(directory: Path) -> None:
    """Warn if a run goes on with other versions than it began with."""
    found = results.versions()
    begun = _begun(directory).get("versions", {})
    changed = [f"{k} {x}, now {found[k]}" for k, x in begun.items() if found.get(k, x) != x]
    if changed:
        warnings.warn(
            f"{directory} was begun with {'; '.join(changed)}: what follows may differ in its last "
            "bits from a run without interruption",
            stacklevel=2,
        )


def warn_of_environment(directory: Path, env: Any) -> None:
    """Warn if a run goes on whose environment's state is in no checkpoint."""
    if not getattr(env, "deterministic", True):
        warnings.warn(
            f"{directory} goes on with new episodes, since those of {name_of(env)} are in no "
            "checkpoint: what follows differs from a run without interruption",
            stacklevel=2,
        )


def _begun(directory: Path) -> dict[str, Any]:
    """What was noted when a run began; nothing if it was killed before that."""
    try:
        found = json.loads((directory / PROGRAM).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def done_shapes(state: Any, log: Log, num_real: int, num_windows: int) -> Done:
    """Shapes and dtypes of what a block with `num_real` lanes leaves behind."""

    def cut(x: Any) -> Any:
        return jax.ShapeDtypeStruct((num_real, *x.shape[1:]), x.dtype)

    params = jax.tree.map(cut, state.acting_params)
    return Done(_stacked(log, num_real, num_windows), cut(state.diverged_at), params)


def finish(block: Block) -> Done:
    """Fetch what a finished block leaves behind."""
    state = jax.device_get((block.state.diverged_at, block.state.acting_params))
    diverged_at, params = jax.tree.map(lambda x: x[: block.num_real], state)
    return Done(stack(block.logs), diverged_at, params)


def stack(logs: list[Log]) -> Log:
    """Join logs of successive windows: leaves `[lanes]` become `[lanes, windows]`."""
    return jax.tree.map(lambda *x: np.stack(x, axis=1), *logs)


def unstack(log: Log) -> list[Log]:
    """Undo `stack`."""
    windows = log.info.count.shape[1]
    return [jax.tree.map(lambda x, i=i: x[:, i], log) for i in range(windows)]


def _stacked(log: Log, num_real: int, num_windows: int) -> Log:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_real, num_windows), x.dtype), log)


def _unflatten(path: Path, meta: dict[str, Any], template: Any, arrays: checkpoint.Arrays) -> Any:
    try:
        return checkpoint.unflatten(template, arrays)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} does not fit this version of the package: {error} "
            f"(written by purejax-po {meta['versions']['purejax-po']})"
        ) from None


def _stored(directory: Path) -> list[_Stored]:
    """The checkpoints of a run, oldest first."""
    found = []
    for path in (directory / CHECKPOINTS).glob("*"):
        if match := _NAME.fullmatch(path.name):
            kind, number, process = match.groups()
            writer = None if process is None else int(process)
            found.append(_Stored(path, kind == "step", int(number), writer))
    return sorted(found, key=lambda s: (s.number, s.path.name))


def _join(parts: dict[str, checkpoint.Arrays]) -> checkpoint.Arrays:
    """Put the arrays of several blocks into one dictionary: `index/leaf`."""
    return {f"{i}/{name}": array for i, part in parts.items() for name, array in part.items()}


def _split(arrays: checkpoint.Arrays) -> dict[int, checkpoint.Arrays]:
    """Undo `_join`."""
    parts: dict[int, checkpoint.Arrays] = {}
    for joined, array in arrays.items():
        index, _, name = joined.partition("/")
        parts.setdefault(int(index), {})[name] = array
    return parts
