"""SIGINT and SIGTERM: at once where nothing is lost, later where something would be."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run; the message says what is saved, and how to continue."""

    def __init__(
        self, signal_number: int, *, saved_to: Path | None = None, message: str = "interrupted"
    ) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.saved_to = saved_to
        """Where there is something to resume; None if there is nothing."""

    @property
    def is_saved(self) -> bool:
        """Whether there is something to resume."""
        return self.saved_to is not None


class StopSignal:
    """What has been asked of a run; outside `deferred`, the first signal raises `Interrupted`."""

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the first signal."""
        self.saves = True
        """Whether what is running will be saved before it ends."""
        self._is_deferred = False

    def __bool__(self) -> bool:
        return self.number is not None

    def check(self) -> None:
        """Raise `Interrupted` if a signal has been received."""
        if self.number is not None:
            raise Interrupted(self.number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Go on after a first signal, and raise `Interrupted` at the end of the block."""
        self.check()
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        self.check()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal; the second one is final."""
        if self:
            os._exit(128 + number)
        self.number = number
        if not self._is_deferred:
            raise Interrupted(number)
        with suppress(OSError):  # not print: the terminal may be gone, or a print under way
            what = b"saving" if self.saves else b"stopping; nothing is saved, for there is no out"
            os.write(2, b"\n" + what + b"; once more to leave at once\n")


_listening: list[StopSignal] = []
"""What listens to this process's signals: a process has one handler for each, so one at most."""


@contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """Listen to signals, in the main thread; elsewhere nothing is ever received.

    Within another `stop_signal` it is the same one: an `Interrupted` that a library has swallowed
    is raised again at the next occasion.
    """
    if threading.current_thread() is not threading.main_thread():
        yield StopSignal()
        return
    if _listening:
        _listening[0].check()
        yield _listening[0]
        return
    stop = StopSignal()
    _listening.append(stop)
    previous: dict[int, Any] = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    hook = sys.unraisablehook

    def silent(unraisable: "sys.UnraisableHookArgs") -> None:  # one that Python cannot raise, as in
        if not isinstance(unraisable.exc_value, Interrupted):  # JAX's gc callback, is for `check`
            hook(unraisable)

    sys.unraisablehook = silent
    try:
        yield stop
    finally:
        _listening.clear()
        if sys.unraisablehook is silent:  # another may have put its own on top
            sys.unraisablehook = hook
        for number, handler in previous.items():
            signal.signal(number, handler)
