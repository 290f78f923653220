"""Spaces that are others with some changes: bounds, fields."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purejax_po import spaces
from purejax_po.observations import fields
from purejax_po.types import Array, Space

Numpy = Any
"""The module `numpy`, or `jax.numpy`."""


def with_spaces(space: Space, changed: dict[str, Space]) -> Space:
    """A dictionary or a tuple of spaces, with some of them replaced."""
    from gymnax.environments import spaces as gymnax_spaces  # takes seconds

    whole = {**fields(space), **changed}
    if spaces.kind(space) == "tuple":
        return gymnax_spaces.Tuple(list(whole.values()))
    return dictionary(whole)


def dictionary(parts: dict[str, Space]) -> Space:
    """A dictionary of spaces."""
    from gymnax.environments import spaces as gymnax_spaces  # takes seconds

    return gymnax_spaces.Dict(parts)


def ravel(np_: Numpy, x: Array) -> Array:
    """Bounds as one vector."""
    return np_.ravel(x)


def box(
    space: Space,
    change: Callable[[Numpy, Array], Array],
    dtype: Any = None,
    shape: tuple[int, ...] = (),
) -> Space:
    """A Box with changed bounds, or without bounds where no space is given.

    Inside of a traced function some environments' bounds are traced.
    """
    from gymnax.environments import spaces as gymnax_spaces  # takes seconds

    if space is None:
        return gymnax_spaces.Box(-jnp.inf, jnp.inf, shape, jnp.float32)
    is_traced = any(isinstance(x, Tracer) for x in (space.low, space.high))
    np_: Numpy = jnp if is_traced else np
    bounds = [np_.broadcast_to(np_.asarray(x), space.shape) for x in (space.low, space.high)]
    low, high = (jnp.asarray(change(np_, x)) for x in bounds)
    return gymnax_spaces.Box(low, high, low.shape, dtype or space.dtype)
