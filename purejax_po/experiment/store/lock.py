"""One run at a time in a directory: the system's lock, which dies with its holder."""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None

NAME = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""How a file system without locks answers."""
PATIENCE_SECONDS = 0.5
"""Another process may hold a lock for a moment, to see whether it is held, or before it signs."""


@contextmanager
def hold(directory: Path, process: int = 0, session: int = 0) -> Iterator[None]:
    """Keep other runs out of a directory, which is made if it is missing.

    Args:
        directory: of the run.
        process: the index of this process, if several of them share the run.
        session: what they have in common; those of another session are other runs.

    Raises:
        ValueError: naming who is at work there.
    """
    is_new = not directory.exists()
    _make(directory)
    path = directory / (f"{NAME}-{process}" if process else NAME)
    file = _take(path)
    try:
        if file is not None:
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "session": session}
            os.ftruncate(file, 0)
            os.write(file, json.dumps(holder).encode())
        for other in directory.glob(f"{NAME}*"):
            if other != path and _is_of_another(other, session):
                raise _occupied(other)
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            os.close(file)
        if is_new:
            with suppress(OSError):  # not empty: something has been saved
                directory.rmdir()


def _take(path: Path) -> int | None:
    """Lock a file; `None` where there are no locks."""
    if fcntl is None:
        return None
    patience = time.monotonic() + PATIENCE_SECONDS
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in WITHOUT_LOCKS:
                return None
            if time.monotonic() > patience:
                raise _occupied(path) from None
            time.sleep(0.05)
            continue
        with suppress(OSError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)  # its last holder has removed it


def _make(directory: Path) -> None:
    """Make a directory, which another process may make or remove meanwhile."""
    patience = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return directory.mkdir(parents=True, exist_ok=True)
        except FileExistsError:  # no directory, or none when `mkdir` looked again
            if time.monotonic() > patience:
                raise


def _is_of_another(path: Path, session: int) -> bool:
    """Whether a lock is held, and its holder does not sign as one of this session."""
    patience = time.monotonic() + PATIENCE_SECONDS
    while _is_held(path) and _holder(path).get("session") != session:
        if time.monotonic() > patience:
            return True
        time.sleep(0.02)
    return False


def _is_held(path: Path) -> bool:
    """Whether another process holds a lock."""
    if fcntl is None:
        return False
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:  # let go of in between
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in WITHOUT_LOCKS
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(file)


def _holder(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _occupied(path: Path) -> ValueError:
    holder = _holder(path)
    who = f" (process {holder['pid']} on {holder['host']})" if holder else ""
    return ValueError(f"directory must be free, got {path.parent}, where a run is at work{who}")
