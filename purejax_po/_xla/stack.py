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
    """Return the function with Python's stack in one piece.

    CPython grows its stack in chunks of 16 KiB. A call that begins a new chunk allocates it and
    frees it on return, and tracing calls from the same depth a hundred thousand times. A frame that
    asks for more gets a bigger chunk, which its callees then share. Use it for rare calls only: a
    traceback keeps the frame alive.
    """

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    call.__code__ = call.__code__.replace(co_stacksize=STACK_WORDS)
    return functools.wraps(function)(call)
