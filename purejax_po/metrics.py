"""Mergeable moments: how scalars leave the training scan without per-step arrays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from purejax_po.types import Array, PyTree


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of a stream; `mean` and `m2` may be pytrees.

    Source: Chan, Golub & LeVeque 1983, Algorithms for Computing the Sample Variance, equation 2.1.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    mean: PyTree
    m2: PyTree


class Log(NamedTuple):
    """What one window of updates leaves behind: a few dozen bytes, whatever its length."""

    info: Moments
    """Over updates: the algorithm's scalars, one entry per name."""
    episode_return: Moments
    """Over the episodes that ended in the window, in reward units, undiscounted."""
    episode_length: Moments
    """Over the same episodes, in steps."""


def accumulator(dtype: DTypeLike) -> np.dtype:
    """The dtype that sums of numbers of a dtype are kept in: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def of_masked(x: Array, mask: Array) -> Moments:
    """Moments of the entries of `x` where `mask` is positive.

    Args:
        x: `[*batch, *shape]`; `mean` and `m2` are `[*shape]`, in float32 or, if `x` is wider, in
            its dtype: half precision counts to 256 or 2048 at most.
        mask: `[*batch]`; bool, or weights of which only the sign counts.
    """
    x = x.astype(accumulator(x.dtype))
    batch = tuple(range(mask.ndim))
    weight = mask.astype(x.dtype)
    count = jnp.sum(weight > 0, dtype=x.dtype)
    counts = jnp.reshape(weight, weight.shape + (1,) * (x.ndim - mask.ndim)) > 0
    mean = jnp.sum(jnp.where(counts, x, 0.0), axis=batch) / jnp.maximum(count, 1.0)
    m2 = jnp.sum(jnp.where(counts, jnp.square(x - mean), 0.0), axis=batch)
    return Moments(count, mean, m2)


def of_single(x: PyTree, weight: Array | float = 1.0) -> Moments:
    """Moments of one observation of each leaf; weight 0 makes it no observation at all."""
    weight = jnp.asarray(weight, jnp.float32)
    mean = jax.tree.map(lambda leaf: jnp.where(weight > 0, leaf, 0.0), x)
    return Moments(weight, mean, jax.tree.map(jnp.zeros_like, mean))


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the union of two streams; the empty stream is the neutral element."""
    count = a.count + b.count
    fraction = b.count / jnp.maximum(count, 1.0)
    mean = jax.tree.map(lambda x, y: x + (y - x) * fraction, a.mean, b.mean)
    m2 = jax.tree.map(
        lambda p, q, x, y: p + q + jnp.square(y - x) * a.count * fraction,
        a.m2,
        b.m2,
        a.mean,
        b.mean,
    )
    return Moments(count, mean, m2)


def merge_logs(a: Log, b: Log) -> Log:
    """Merge two windows into one."""
    return Log(*(merge(x, y) for x, y in zip(a, b, strict=True)))


def mask_log(log: Log, keep: Array) -> Log:
    """Return the log, or an empty one where `keep` is false."""
    return jax.tree.map(lambda x: jnp.where(keep, x, jnp.zeros_like(x)), log)
