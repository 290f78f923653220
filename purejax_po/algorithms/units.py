"""What may be shuffled of a rollout: single samples, or whole sequences if there is memory."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from purejax_po import minibatch

Data = TypeVar("Data", bound=Any)
"""A NamedTuple of leaves `[T, N, ...]`, except those of its `carry`, which are `[N, ...]`."""


def of_rollout(data: Data, memoryless: bool) -> Data:
    """Samples `[T·N]` of a rollout; with memory, sequences `[N, T]` beside their carries."""
    if memoryless:
        return minibatch.flatten_time(data)
    swapped = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), data._replace(carry=()))
    return swapped._replace(carry=data.carry)


def in_time(batch: Data, memoryless: bool) -> Data:
    """Undo what `of_rollout` did to the axes of a batch of its units: `[B, T]` become `[T, B]`."""
    return batch if memoryless else of_rollout(batch, memoryless)
