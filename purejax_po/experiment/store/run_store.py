"""A run's directory: the blocks of its lanes, each in a folder that has one writer.

A block that is under way has the states after some windows, a finished one its result. Whoever runs
a block may be killed at any moment and the block run again, by anybody: what it goes on from is its
newest state that can be read.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from purejax_po.experiment import files as atomic
from purejax_po.experiment import layout
from purejax_po.experiment.config import ExperimentConfig, schema
from purejax_po.experiment.store import arrays as checkpoint
from purejax_po.experiment.store.arrays import Arrays, CheckpointError
from purejax_po.types import JSONObject


class ForeignError(ValueError):
    """A checkpoint of another run, which no older one can stand for."""


class Stored(NamedTuple):
    """What a block has left."""

    num_windows: int
    arrays: Arrays
    meta: JSONObject


class Store(Protocol):
    """Where blocks leave their states and results."""

    def save(self, block: int, num_windows: int, arrays: Arrays, meta: JSONObject) -> None:
        """Keep a block's state after some windows."""
        ...

    def newest(self, block: int) -> tuple[Stored | None, list[str]]:
        """Read the newest state of a block that can be read, and what is wrong with newer ones."""
        ...

    def finish(self, block: int, num_windows: int, arrays: Arrays, meta: JSONObject) -> None:
        """Keep a block's result."""
        ...

    def result(self, block: int) -> Stored | None:
        """Read a block's result, if it has one.

        Raises:
            CheckpointError: if it cannot be used.
        """
        ...


class MemoryStore:
    """Results of a run that has no directory; states are not kept."""

    def __init__(self) -> None:
        self._results: dict[int, Stored] = {}

    def save(self, block: int, num_windows: int, arrays: Arrays, meta: JSONObject) -> None:
        """As `Store`."""

    def newest(self, block: int) -> tuple[Stored | None, list[str]]:
        """As `Store`."""
        return None, []

    def finish(self, block: int, num_windows: int, arrays: Arrays, meta: JSONObject) -> None:
        """As `Store`; nobody will ask for the policies."""
        kept = {
            name: array
            for name, array in arrays.items()
            if not name.startswith((".params", ".best"))
        }
        self._results[block] = Stored(num_windows, kept, meta)

    def result(self, block: int) -> Stored | None:
        """As `Store`."""
        return self._results.get(block)


class RunStore:
    """The blocks of a run's directory."""

    def __init__(self, directory: Path, hashes: tuple[str, ...], keep: int = 2) -> None:
        """Take the directory, `stored_hashes` of it, and how many states to keep of a block."""
        self.directory, self.hashes, self._keep = directory, hashes, keep
        self._is_tried = False

    def save(self, block: int, num_windows: int, arrays: Arrays, meta: JSONObject) -> None:
        """As `Store`; of the states up to this one the newest few stay, and no others."""
        folder = layout.block_folder(self.directory, block)
        self._write(block, layout.state_name(num_windows), num_windows, arrays, meta)
        states = layout.states(folder)
        later = [path for number, path in states if number > num_windows]  # which did not read
        earlier = [path for number, path in states if number <= num_windows]
        for path in (*later, *earlier[self._keep :]):
            shutil.rmtree(path, ignore_errors=True)

    def finish(self, block: int, num_windows: int, arrays: Arrays, meta: JSONObject) -> None:
        """As `Store`; its states go, and what is damaged or half-written."""
        folder = layout.block_folder(self.directory, block)
        self._write(block, layout.RESULT, num_windows, arrays, meta)
        for path in folder.iterdir():
            if path.name != layout.RESULT:
                shutil.rmtree(path, ignore_errors=True)

    def _write(
        self, block: int, name: str, num_windows: int, arrays: Arrays, meta: JSONObject
    ) -> None:
        path = layout.block_folder(self.directory, block) / name
        path.parent.mkdir(exist_ok=True)  # not what it is in: a run that has vanished stays away
        given = {"block": block, "windows": num_windows, "config_sha256": self.hashes[0]}
        checkpoint.save(path, arrays, {**meta, **given})
        is_first, self._is_tried = not self._is_tried, True  # two at once: it is read twice
        if is_first:  # a place from which nothing can be read is found out at once
            checkpoint.load(path)

    def newest(self, block: int) -> tuple[Stored | None, list[str]]:
        """As `Store`.

        Raises:
            ForeignError: for a state of another run.
        """
        problems = []
        for _, path in layout.states(layout.block_folder(self.directory, block)):
            try:
                return self.read(path), problems
            except CheckpointError as error:
                problems.append(str(error))
        return None, problems

    def result(self, block: int) -> Stored | None:
        """As `Store`."""
        path = layout.block_folder(self.directory, block) / layout.RESULT
        return self.read(path) if path.exists() or path.is_symlink() else None

    def read(self, path: Path) -> Stored:
        """Read a state or a result of one of this run's blocks.

        Raises:
            CheckpointError: if it cannot be used, as where it is another block's.
            ForeignError: if it is another run's.
        """
        arrays, meta = self.load(path)
        if layout.block_folder(self.directory, meta["block"]).name != path.parent.name:
            raise CheckpointError(
                f"checkpoint {path} is unusable: it was written for block {meta['block']}"
            )
        return Stored(meta["windows"], arrays, meta)

    def load(self, path: Path) -> tuple[Arrays, JSONObject]:
        """Read a checkpoint of this run.

        Raises:
            CheckpointError: if it cannot be used.
            ForeignError: if it is another run's.
        """
        arrays, meta = checkpoint.load(path)
        if meta["config_sha256"] not in self.hashes:
            raise ForeignError(
                f"{path} belongs to another configuration than {layout.CONFIG} holds"
            )
        return arrays, meta

    def has_any(self) -> bool:
        """Whether any block has left anything."""
        return any((self.directory / layout.BLOCKS).glob("*/[!.]*"))


def config_hash(data: JSONObject) -> str:
    """Hash what a run's results depend on."""
    kept = {k: v for k, v in data.items() if k not in (schema.FORMAT, *schema.OLD_CIRCUMSTANCES)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def check_writable(directory: Path, overwrite: bool, own: Sequence[str] = layout.OWN) -> None:
    """Check that a run can be written to a directory, without leaving a trace.

    `own` are names of files that nobody else may have there.

    Raises:
        ValueError: if it is a file, holds a run or a run's files already, or cannot be written to.
    """
    try:
        if directory.is_symlink() and not directory.exists():
            raise ValueError(f"out must be a directory, got the dangling link {directory}")
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"out must be a directory, got the file {directory}")
        held = [name for name in own if (directory / name).exists()]
        existing = directory.absolute()
        while not existing.exists():
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"out must be writable, got {directory}: {error.strerror}") from None
    if held and layout.CONFIG not in held:
        raise ValueError(
            f"out must hold no files named like a run's, got {directory} with {held[0]} but no "
            f"{layout.CONFIG}; choose another directory"
        )
    if held and not overwrite:
        raise ValueError(
            f"out must hold no run yet, got {directory} with a {layout.CONFIG}; "
            "choose another directory, resume it or overwrite it (--overwrite)"
        )


def check_no_other(directory: Path, but: str = "") -> None:
    """Check that a directory is not a search's or a comparison's, which `resume` goes on with.

    `but` is the file of what may be there.

    Raises:
        ValueError: if it is.
    """
    for name, kind in layout.OTHERS.items():
        if name != but and (directory / name).exists():
            raise ValueError(
                f"out must hold no {kind}, got {directory} with a {name}; choose another directory"
            )


def create(directory: Path, config: ExperimentConfig, plan: JSONObject) -> None:
    """Make the directory, remove the run that it held, and write what decides the results.

    `summary.json`, which says that a run is complete, goes first and the configuration is replaced
    before the plan: a directory left by a kill can be resumed or overwritten.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _clear(directory)
    atomic.write_json(directory / layout.CONFIG, config.to_dict())
    begin(directory, plan)


def begin(directory: Path, plan: JSONObject) -> None:
    """Write how a run begins, where nothing of it is left but its configuration."""
    (directory / layout.BLOCKS).mkdir(exist_ok=True)
    atomic.write_json(directory / layout.PLAN, plan)


def discard(directory: Path) -> None:
    """Remove the run that a directory holds, its configuration last."""
    _clear(directory)
    (directory / layout.CONFIG).unlink(missing_ok=True)


def _clear(directory: Path) -> None:
    """Remove a run's files, and what was made of them, but for its configuration."""
    is_run = (directory / layout.CONFIG).exists()
    patterns = layout.MADE if is_run else ()  # else they are of somebody else
    made = [path.name for pattern in patterns for path in directory.glob(pattern)]
    for name in (layout.SUMMARY, *layout.OWN, *made):
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif name != layout.CONFIG:
            path.unlink(missing_ok=True)


def read_config(directory: Path) -> ExperimentConfig:
    """Read the configuration of a run.

    Raises:
        ValueError: if the directory is no run, or one of another version.
    """
    data = _config_data(directory)
    try:
        return ExperimentConfig.from_dict(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{directory / layout.CONFIG} does not fit this version of the package: {error}"
        ) from None


def read_format(directory: Path) -> JSONObject:
    """Return the field of a run's `config.json` that tells its format, if it has one."""
    data = _config_data(directory)
    return {schema.FORMAT: data[schema.FORMAT]} if schema.FORMAT in data else {}


def stored_hashes(directory: Path) -> tuple[str, ...]:
    """Return `config_hash` of a run's configuration as its file has it, and with all defaults.

    A field that a later version adds changes neither what the file says nor what it means.

    Raises:
        ValueError: as `read_config`.
    """
    whole = read_config(directory).to_dict()
    return config_hash(_config_data(directory)), config_hash(whole)


def _config_data(directory: Path) -> JSONObject:
    atomic.check_local("directory", directory)
    try:
        data = json.loads((directory / layout.CONFIG).read_text())
        if not isinstance(data, dict) or "algorithm" not in data:
            raise ValueError
    except (OSError, ValueError):
        raise ValueError(
            f"directory must be that of a run, got {directory}, which has no readable "
            f"{layout.CONFIG}"
        ) from None
    return data


def read_plan(directory: Path) -> JSONObject:
    """Read what was noted when a run began; of its checkpoints, if that is lost; else nothing."""
    try:
        found = json.loads((directory / layout.PLAN).read_text())
        width = found["lanes_per_device"]
        if type(width) is int and width > 0 and isinstance(found.get("versions", {}), dict):
            return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    for path in sorted((directory / layout.BLOCKS).glob("*/[!.]*")):
        try:
            return checkpoint.read_manifest(path)["meta"]["plan"]
        except (CheckpointError, KeyError):
            continue
    return {}


def clean(directory: Path) -> None:
    """Remove what a complete run needs no more: files that are half-written."""
    for place in (directory, *(directory / layout.BLOCKS).glob("*")):
        for path in place.glob(".*.partial*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
