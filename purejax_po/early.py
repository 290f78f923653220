"""Ctrl-C while the command line is still being imported: one line. JAX alone takes seconds.

The package imports this module before all others. A program that imports the package is left alone:
its signals are its own.
"""

import itertools
import os
import signal
import sys
import threading
from types import FrameType

PROGRAM = "purejax-po"


def is_command() -> bool:
    """Whether this process is `purejax-po` or `python -m purejax_po`."""
    if sys.argv[:1] == ["-m"]:  # what Python puts there until it has found the module
        given = sys.orig_argv
        return any(
            pair in (("-m", "purejax_po"), ("-m", "purejax_po.__main__"))
            for pair in itertools.pairwise(given)
        )
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return name.removesuffix(".exe").removesuffix("-script.py") == PROGRAM


def leave(number: int, frame: FrameType | None) -> None:
    """End the process: nothing has begun that could be lost."""
    os.write(2, f"{PROGRAM}: interrupted\n".encode())
    os._exit(128 + number)


if (
    is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, leave)
