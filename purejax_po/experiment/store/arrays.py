"""Checkpoints: directories of arrays that are whole and verified, or not used.

orbax writes the arrays; around them stands a manifest with the sha256 of every file, written last,
and the directory is renamed into place. A flipped byte, a truncated or missing file and a directory
under another's name are all detected on load. Nothing that is loaded can execute code.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MANIFEST = "manifest.json"
ARRAYS = "arrays"
FORMAT = 1

Arrays = dict[str, np.ndarray]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and why."""


def save(directory: Path, arrays: Arrays, meta: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        directory: where it will stand; its name is part of what is verified.
        arrays: NumPy arrays by name; empty ones are left out.
        meta: anything JSON holds.

    Raises:
        OSError: if the disk is full or the parent has vanished; nothing is left behind.
    """
    import orbax.checkpoint as ocp

    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        names = sorted(name for name, array in arrays.items() if array.size)
        numbered = {f"{i:05d}": np.asarray(arrays[name]) for i, name in enumerate(names)}
        try:
            with _without_tracebacks():
                ocp.PyTreeCheckpointer().save((partial / ARRAYS).absolute(), numbered)
        except ValueError as error:  # how its storage layer reports a full disk
            full = "No space left" in str(error)
            number = errno.ENOSPC if full else errno.EIO
            raise OSError(number, os.strerror(number), str(directory)) from None
        manifest = {
            "format": FORMAT,
            "name": directory.name,
            "meta": meta,
            "leaves": names,
            "files": {str(p.relative_to(partial)): _sha256(p) for p in _files(partial)},
        }
        text = json.dumps({"sha256": _sha256_of_json(manifest), **manifest})
        with (partial / MANIFEST).open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Silence orbax, which prints the traceback of an error that it raises too.

    Its arrays are written in threads: after an error those that are left cannot tell the event
    loop, and may say so when the block has ended.
    """
    logger, hook = logging.getLogger("absl"), sys.unraisablehook

    def drop(record: logging.LogRecord) -> bool:
        return False

    def report(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    logger.addFilter(drop)
    sys.unraisablehook = report
    try:
        yield
        sys.unraisablehook = hook
    finally:
        logger.removeFilter(drop)


def load(directory: Path) -> tuple[Arrays, dict[str, Any]]:
    """Verify and read a checkpoint.

    Returns:
        The arrays by name, and the meta data.

    Raises:
        CheckpointError: naming the checkpoint and what is wrong with it.
    """
    import orbax.checkpoint as ocp

    manifest = verify(directory)
    try:
        numbered = ocp.PyTreeCheckpointer().restore((directory / ARRAYS).absolute())
        arrays = {
            name: np.asarray(numbered[f"{i:05d}"]) for i, name in enumerate(manifest["leaves"])
        }
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint {directory} is unreadable: {error}") from None
    return arrays, manifest["meta"]


def verify(directory: Path) -> dict[str, Any]:
    """Compare every byte of a checkpoint with its manifest, and return the manifest.

    Raises:
        CheckpointError: naming the checkpoint and what is wrong with it.
    """
    manifest = read_manifest(directory)
    try:
        found = {str(p.relative_to(directory)) for p in _files(directory)} - {MANIFEST}
        for name, expected in manifest["files"].items():
            if name not in found:
                raise _unusable(directory, f"{name} is missing")
            if _sha256(directory / name) != expected:
                raise _unusable(directory, f"{name} is damaged")
    except OSError as error:
        raise _unusable(directory, f"{error.filename}: {error.strerror}") from None
    if extra := found - set(manifest["files"]):
        raise _unusable(directory, f"{min(extra)} does not belong to it")
    return manifest


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read what a checkpoint says of itself, without a look at its arrays.

    Raises:
        CheckpointError: naming the checkpoint and what is wrong with its manifest.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        claimed = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise _unusable(directory, "its manifest is missing or damaged") from None
    if claimed != _sha256_of_json(manifest):
        raise _unusable(directory, "its manifest is damaged")
    if manifest["format"] != FORMAT:
        version = f"its format is {manifest['format']}, this version reads {FORMAT}"
        raise _unusable(directory, version)
    if manifest["name"] != directory.name:
        raise _unusable(directory, f"it was written as {manifest['name']}")
    return manifest


def _unusable(directory: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {directory} is unusable: {reason}")


def flatten(tree: Any) -> Arrays:
    """Name the leaves of a pytree by their paths, as NumPy arrays; keys become their data."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    fetched = jax.device_get([_key_data(leaf) for _, leaf in leaves])
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for (path, _), leaf in zip(leaves, fetched, strict=True)
    }


def unflatten(template: Any, arrays: Arrays) -> Any:
    """Put arrays by name into the structure of `template` (shapes and dtypes suffice).

    Raises:
        CheckpointError: naming a leaf that is missing, left over, or of another shape or dtype.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    if left_over := set(arrays) - set(names):
        raise CheckpointError(f"the checkpoint has a leaf that the run has not: {min(left_over)}")
    restored = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        expected = jax.eval_shape(_key_data, leaf)
        if name not in arrays and 0 in expected.shape:
            array = np.zeros(expected.shape, expected.dtype)
        elif name not in arrays:
            raise CheckpointError(f"the checkpoint lacks a leaf of the run: {name}")
        else:
            array = arrays[name]
        if array.shape != expected.shape or array.dtype != expected.dtype:
            raise CheckpointError(
                f"leaf {name} must be {expected.dtype}{list(expected.shape)} in the run, "
                f"the checkpoint has {array.dtype}{list(array.shape)}"
            )
        restored.append(jax.random.wrap_key_data(jnp.asarray(array)) if _is_key(leaf) else array)
    return jax.tree.unflatten(structure, restored)


def _key_data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if not p.is_dir())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_json(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
