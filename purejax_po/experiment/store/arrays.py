"""Checkpoints: directories of arrays that are whole and verified, or not used.

The arrays are one file of the safetensors format. Beside it stands a manifest with its sha256,
written last, and the directory is renamed into place. A flipped byte, a truncated or missing file
and a directory under another's name are all detected on load. Nothing that is loaded can execute
code.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po.checks import how_to_install
from purejax_po.types import Array, JSONObject, PyTree

MANIFEST = "manifest.json"
ARRAYS = "arrays.safetensors"
FORMAT = 2
ORBAX = 1
"""The format of version 0.1, whose arrays orbax wrote."""
MOST_ATTEMPTS = 100
"""At a place that another writer of the same checkpoint takes again and again, or never frees."""

Arrays = dict[str, np.ndarray]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and why."""


def save(directory: Path, arrays: Arrays, meta: JSONObject) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        directory: where it will stand; its name is part of what is verified.
        arrays: NumPy arrays by name; empty ones are left out.
        meta: anything JSON holds.

    Raises:
        OSError: if the disk is full or the parent has vanished; nothing is left behind.
    """
    partial = directory.with_name(f".{directory.name}.partial-{uuid.uuid4().hex[:12]}")
    partial.mkdir()
    try:
        kept = {name: np.asarray(arrays[name]) for name in sorted(arrays) if arrays[name].size}
        _write(partial / ARRAYS, to_bytes(kept))
        manifest = {
            "format": FORMAT,
            "name": directory.name,
            "meta": meta,
            "leaves": {name: array.dtype.name for name, array in kept.items()},
            "files": {ARRAYS: _sha256(partial / ARRAYS)},
        }
        text = json.dumps({"sha256": _sha256_of_json(manifest), **manifest})
        _write(partial / MANIFEST, text.encode())
        _put(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _put(partial: Path, directory: Path) -> None:
    """Rename a whole checkpoint into its place; what stands there is replaced."""
    attempts = 0
    while True:
        try:
            return os.replace(partial, directory)
        except OSError as error:
            attempts += 1
            is_in_the_way = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
            if not is_in_the_way or attempts > MOST_ATTEMPTS:
                raise
        if directory.is_dir() and not directory.is_symlink():
            shutil.rmtree(directory, ignore_errors=True)
        else:
            directory.unlink(missing_ok=True)


def to_bytes(arrays: Arrays, metadata: dict[str, str] | None = None) -> bytes:
    """The arrays, and texts about them, as a file of the safetensors format."""
    from safetensors.numpy import save

    # Rows one after the other: the format takes an array's memory as it is. Dtypes that NumPy does
    # not have (bfloat16) are stored as their bits.
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    bits = {k: x.view(f"u{x.itemsize}") if x.dtype.kind == "V" else x for k, x in plain.items()}
    return save(bits, metadata)


def _write(path: Path, content: bytes) -> None:
    """Write a file to the disk itself."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def load(directory: Path) -> tuple[Arrays, JSONObject]:
    """Read a checkpoint, once every byte is compared with its manifest.

    Returns:
        The arrays by name, and the meta data.

    Raises:
        CheckpointError: naming the checkpoint and what is wrong with it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    manifest = read_manifest(directory)
    try:
        files = [path for path in directory.rglob("*") if not path.is_dir()]
        found = {str(path.relative_to(directory)) for path in files} - {MANIFEST}
        for name, expected in manifest["files"].items():
            if name not in found:
                raise _unusable(directory, f"{name} is missing")
            if _sha256(directory / name) != expected:
                raise _unusable(directory, f"{name} is damaged")
    except OSError as error:
        raise _unusable(directory, f"{error.filename}: {error.strerror}") from None
    if extra := found - set(manifest["files"]):
        raise _unusable(directory, f"{min(extra)} does not belong to it")
    try:
        if manifest["format"] == ORBAX:
            return _load_orbax(directory, manifest["leaves"]), manifest["meta"]
        held = from_bytes((directory / ARRAYS).read_bytes())
        arrays = {
            name: array if array.dtype.name == dtype else array.view(np.dtype(dtype))
            for name, dtype in manifest["leaves"].items()
            for array in (held[name],)
        }
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {directory} is unreadable: {error}") from None
    return arrays, manifest["meta"]


def _load_orbax(directory: Path, names: list[str]) -> Arrays:
    """Read the arrays of a checkpoint of version 0.1."""
    try:
        import orbax.checkpoint as ocp
    except ImportError:
        raise CheckpointError(
            f"checkpoint {directory} was written by purejax-po 0.1 and needs orbax: "
            f"{how_to_install('legacy')}"
        ) from None
    # orbax takes the path for a pattern: it is read from a place whose name is plain.
    with tempfile.TemporaryDirectory() as plain:
        shutil.copytree(directory / "arrays", Path(plain) / "arrays")
        numbered = ocp.PyTreeCheckpointer().restore(Path(plain) / "arrays")
    return {name: np.asarray(numbered[f"{i:05d}"]) for i, name in enumerate(names)}


def read_manifest(directory: Path) -> JSONObject:
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
    if manifest["format"] not in (ORBAX, FORMAT):
        version = f"its format is {manifest['format']}, this version reads {ORBAX} and {FORMAT}"
        raise _unusable(directory, version)
    if manifest["name"] != directory.name:
        raise _unusable(directory, f"it was written as {manifest['name']}")
    return manifest


def _unusable(directory: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {directory} is unusable: {reason}")


def flatten(tree: PyTree) -> Arrays:
    """Name the leaves of a pytree by their paths, as NumPy arrays; keys become their data."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    fetched = jax.device_get([_key_data(leaf) for _, leaf in leaves])
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for (path, _), leaf in zip(leaves, fetched, strict=True)
    }


def unflatten(template: PyTree, arrays: Arrays) -> PyTree:
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


def _key_data(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_json(data: JSONObject) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
