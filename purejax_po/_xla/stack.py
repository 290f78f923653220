"""Python's stack laid out in one piece, for what traces programs."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

STACK_WORDS = 40_000
"""Of 8 bytes, in the frame of a function with a deep stack. Its piece of the stack is the next
larger 16 KiB · 2ⁿ, so these leave 25,000 words, five times what tracing takes."""

P = ParamSpec("P")
R = TypeVar("R")


def with_deep_stack(function: Callable[P, R]) -> Callable[P, R]:
    """The function, for which Python's stack is laid out in one piece.

    CPython has it in pieces of 16 KiB. A call that begins a new one allocates it and gives it back
    on return, and tracing calls from the same depth a hundred thousand times. A frame that needs
    more than such a piece gets a larger one, of which what it calls has the rest. Not for what is
    called often: a traceback keeps the frame.
    """

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    call.__code__ = call.__code__.replace(co_stacksize=STACK_WORDS)
    return functools.wraps(function)(call)
