"""Discounted sums over time: turn by turn, or in few steps for what starts kernels slowly."""

import jax
import jax.numpy as jnp

from purejax_po._xla import switch
from purejax_po.types import Array


def discounted_sum(x: Array, decay: Array) -> Array:
    """S_t = x_t + decay_t·S_{t+1}, `[T, ...]`.

    With the trick `doubled_sums` in ⌈log₂ T⌉ steps: if S_t = x_t + decay_t·S_{t+k} for all t, then
    S_t = (x_t + decay_t·x_{t+k}) + decay_t·decay_{t+k}·S_{t+2k}.

    Source: Hillis and Steele 1986, Data Parallel Algorithms.
    """
    if switch.on().doubled_sums:
        return _doubled(x, decay)

    def backward(total: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        x_t, decay_t = x
        total = x_t + decay_t * total
        return total, total

    return jax.lax.scan(backward, jnp.zeros_like(x[0]), (x, decay), reverse=True)[1]


def _doubled(x: Array, decay: Array) -> Array:
    reach = 1
    while reach < len(x):
        nothing = jnp.zeros_like(x[:reach])
        x = x + decay * jnp.concatenate([x[reach:], nothing])
        decay = decay * jnp.concatenate([decay[reach:], nothing])
        reach *= 2
    return x
