"""Wrappers by name and value: `frame_stack:4`."""

import inspect
from collections.abc import Callable, Sequence

from purejax_po.checks import check_choice
from purejax_po.environments.stacking import (
    action_repeat,
    flatten_observation,
    frame_stack,
    reward_clip,
    reward_scale,
    sticky_actions,
    time_limit,
)
from purejax_po.types import Environment

WRAPPERS: dict[str, tuple[Callable[..., Environment], type[int] | type[float] | type[str]]] = {
    "action_repeat": (action_repeat, int),
    "flatten_observation": (flatten_observation, str),
    "frame_stack": (frame_stack, int),
    "reward_clip": (reward_clip, float),
    "reward_scale": (reward_scale, float),
    "sticky_actions": (sticky_actions, float),
    "time_limit": (time_limit, int),
}
"""By name: the function, and how the text of its value is read."""


def wrap(env: Environment, names: Sequence[str]) -> Environment:
    """Return an environment inside of wrappers by name, the first innermost.

    Args:
        env: any environment.
        names: `"NAME"` or `"NAME:VALUE"` of `WRAPPERS`.

    Raises:
        ValueError: for an unknown name or a value that does not fit, naming it.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f'wrappers must be a list such as ["frame_stack:4"], got {names!r}')
    for text in names:
        name, colon, value = str(text).partition(":")
        check_choice("wrapper", name, tuple(WRAPPERS))
        function, read = WRAPPERS[name]
        own = list(inspect.signature(function).parameters.values())[1:]
        if not own and colon:
            raise ValueError(f"wrapper {name} takes no value, got {text!r}")
        if own and own[0].default is inspect.Parameter.empty and not colon:
            raise ValueError(f"wrapper {name} needs a value, such as {name}:4, got {text!r}")
        try:
            values = [read(value)] if colon else []
        except ValueError:
            kind = "whole number" if read is int else "number"
            raise ValueError(f"wrapper {name} takes a {kind}, got {text!r}") from None
        env = function(env, *values)
    return env
