"""Files that are written whole or not at all."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path

REMOTE = re.compile(r"(s3a?|gc?s|hdfs|abfss?|az|https?|s?ftp|ssh|file):|[A-Za-z][\w+.-]+:/")
"""How a path begins that names another machine's files."""


def check_local(name: str, path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` for a path that names an object store or another machine's files."""
    if REMOTE.match(os.fspath(path)):
        raise ValueError(
            f"{name} must be a directory of this machine or mounted on it, got {path}; copy "
            "finished runs there or from there"
        )


def check_path(name: str, value: object) -> None:
    """Raise `ValueError` unless a value is a path, and of this machine's files (`check_local`).

    An empty text is none: it would stand for the current directory.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"{name} must be a path, such as 'runs/ppo-CartPole-v1', got {value!r}")
    check_local(name, value)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: into a neighbour first, then renamed into place."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_text`."""
    neighbour = path.with_name(f".{path.name}.partial")
    try:
        neighbour.write_bytes(content)
        os.replace(neighbour, path)
    except OSError:
        with suppress(OSError):
            neighbour.unlink()
        raise


def write_json(path: Path, data: object) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")
