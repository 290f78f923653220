"""One run at a time in a directory: the system's lock, which dies with its holder."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME, HOLDER = ".lock", ".lock.holder"
PATIENCE_SECONDS = 0.5
"""Another process may hold the lock for a moment, before it finds something wrong."""


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keep other runs out of a directory, which is made if it is missing.

    Raises:
        ValueError: naming who is at work there.
    """
    from filelock import FileLock, Timeout

    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    path, holder = directory / NAME, directory / HOLDER
    lock = FileLock(path, timeout=PATIENCE_SECONDS)
    try:
        lock.acquire()  # a file system without locks: by a file that filelock alone writes
        holder.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    except Timeout:
        raise _occupied(holder) from None
    except NotImplementedError:  # of older versions of filelock on such a file system
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            holder.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            lock.release()
        if is_new:
            with suppress(OSError):  # not empty: something has been saved
                directory.rmdir()


def _occupied(path: Path) -> ValueError:
    try:
        holder = json.loads(path.read_text())
        who = f" (process {holder['pid']} on {holder['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        who = ""
    return ValueError(f"directory must be free, got {path.parent}, where a run is at work{who}")
