"""Files that are written whole or not at all."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


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


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")
