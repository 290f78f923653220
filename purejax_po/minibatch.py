"""Epochs of shuffled minibatches over any pytree of data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp

from purejax_po._xla import packed
from purejax_po._xla.shuffle import Shuffle, permutation
from purejax_po.types import Array, Key, PyTree

State = TypeVar("State")
Data = TypeVar("Data")


@dataclass(frozen=True, kw_only=True)
class ShuffleOptions:
    """Options of algorithms that learn from minibatches."""

    shuffle: Shuffle = "uniform"
    """Orders of the samples: uniform, or fast, as version 0.1 (few of all orders for 2ⁿ ≥ 64)."""


def epochs(
    key: Key,
    step: Callable[[State, PyTree], tuple[State, PyTree]],
    state: State,
    data: PyTree,
    *,
    num_epochs: int,
    num_minibatches: int,
    shuffle: Shuffle = "uniform",
) -> tuple[State, PyTree]:
    """Scan `step` over `num_epochs` × `num_minibatches` shuffled minibatches.

    Args:
        key: split once per epoch; every epoch has its own permutation.
        step: `(state, minibatch) → (state, output)`.
        state: the scan's carry.
        data: leaves `[B, ...]`, with B a multiple of `num_minibatches`.
        shuffle: what the permutations are drawn from: see `ShuffleOptions`.

    Returns:
        The last state, and the outputs stacked `[num_epochs, num_minibatches, ...]`.
    """
    size = jax.tree.leaves(data)[0].shape[0]
    check_divisible(size, num_minibatches)

    def minibatch(state: State, index: Array) -> tuple[State, PyTree]:
        return step(state, jax.tree.map(lambda x: x[index], data))

    def shuffled(key: Key) -> Array:
        return permutation(key, size, shuffle).reshape(num_minibatches, -1)

    return packed.nested_scan(minibatch, shuffled, state, jax.random.split(key, num_epochs))


def orders(key: Key, size: int, num_epochs: int, shuffle: Shuffle = "uniform") -> Array:
    """The permutations that `epochs` takes samples in, int32 `[num_epochs, size]`."""
    return jax.vmap(lambda key: permutation(key, size, shuffle))(jax.random.split(key, num_epochs))


def check_divisible(batch_size: int, num_minibatches: int, units: str = "samples") -> None:
    """Raise `ValueError` unless the batch splits into equal minibatches."""
    if num_minibatches < 1 or batch_size % num_minibatches != 0:
        raise ValueError(
            f"num_minibatches must divide the batch of {batch_size} {units}, got {num_minibatches}"
        )


def flatten_time(data: Data) -> Data:
    """Turn leaves `[T, N, ...]` into samples `[T·N, ...]`."""
    return jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[2:])), data)
