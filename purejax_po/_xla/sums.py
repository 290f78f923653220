"""Sums over short axes, term by term: XLA's own are slow there on a CPU."""

import jax.numpy as jnp

from purejax_po._xla import switch
from purejax_po.types import Array


def total(x: Array) -> Array:
    """The sum over the last axis."""
    size = x.shape[-1]
    if size > 8 or not switch.on().short_sums:
        return jnp.sum(x, axis=-1)
    return sum((x[..., i] for i in range(1, size)), x[..., 0])


def cumulative(x: Array) -> Array:
    """Sums of the first 1, 2, … along the last axis; each one separately if there are few."""
    size = x.shape[-1]
    if size > 32 or not switch.on().short_sums:
        return jnp.cumsum(x, axis=-1)
    return jnp.sum(jnp.where(jnp.tri(size, dtype=bool), x[..., None, :], 0.0), axis=-1)
