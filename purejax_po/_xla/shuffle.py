"""Random permutations without a sort."""

from typing import Literal

import jax
import jax.numpy as jnp

from purejax_po._xla import switch
from purejax_po.types import Array, Key

Shuffle = Literal["auto", "uniform", "fast"]

SMALLEST = 64
"""Of the sizes that are permuted without a sort: below it the rounds mix too little."""


def permutation(key: Key, size: int, kind: Shuffle = "auto") -> Array:
    """Return a random permutation of `0 … size-1`, int32 `[size]`.

    It is uniform, `jax.random.permutation`, unless `size` is a power of two from `SMALLEST` on and
    `kind` is fast, or auto while the trick `affine_shuffle` is on. Then it takes six rounds of
    i ← (a·i + b) mod size followed by i ← i xor ⌊i / 2^⌊bits/2⌋⌋, with a odd and b drawn anew for
    each round, and is not uniform: at most 2^(6·(2·log₂ size − 1)) of the size! permutations can be
    drawn. Every sample is at every place equally often; how often two or three meet in a minibatch
    is that of uniform permutations as far as 40,000 draws can tell (see the test).
    """
    is_fast = switch.on().affine_shuffle if kind == "auto" else kind == "fast"
    if not is_fast or size < SMALLEST or size & (size - 1):
        return jax.random.permutation(key, size)
    mask, half = jnp.uint32(size - 1), jnp.uint32(size.bit_length() // 2)
    index = jnp.arange(size, dtype=jnp.uint32)
    for factor, offset in jax.random.bits(key, (6, 2)):
        index = ((factor | 1) * index + offset) & mask
        index = index ^ (index >> half)
    return index.astype(jnp.int32)
