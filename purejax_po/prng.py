"""Threefry written out, for keys that are split inside a scan.

On a CPU JAX compiles its own as a loop, which is smaller and, for the few words that an
environment's step asks for, several times slower; and each loop is compiled by itself, at the cost
of a dozen kernels. The numbers are the same to the bit.

Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3, section 3.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl

from purejax_po.types import Array, Key

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_USUAL = "threefry2x32"


def written_out(keys: Key) -> Key:
    """The same keys, for whoever splits them or draws from them next.

    Keys of another generator than threefry are left as they are.
    """
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys = jax.random.wrap_key_data(keys)
    if jax.random.key_impl(keys) != _USUAL:
        return keys
    return jax.random.wrap_key_data(jax.random.key_data(keys), impl=_THREEFRY)


def as_usual(keys: Key) -> Key:
    """The same keys, as JAX has them: the inverse of `written_out`."""
    if jax.random.key_impl(keys) != _THREEFRY:
        return keys
    return jax.random.wrap_key_data(jax.random.key_data(keys), impl=_USUAL)


@jax.jit  # traced once for each shape
def threefry(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Encrypt counters `(high, low)` of any equal shape by a key, uint32 `[2]`: 20 rounds."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = high + schedule[0], low + schedule[1]
    for i in range(5):
        for distance in _ROTATIONS[i % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(distance)) | (y >> jnp.uint32(32 - distance)))
        x = x + schedule[(i + 1) % 3]
        y = y + schedule[(i + 2) % 3] + jnp.uint32(i + 1)
    return x, y


def _count(key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Encrypt 0, 1, … in an array of a shape, of fewer than 2^32 numbers."""
    low = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return threefry(key, jnp.zeros_like(low), low)


def _seed(seed: Array) -> Array:
    return jax.random.key_data(jax.random.key(seed))


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    return _fenced(jnp.stack(_count(key, shape), axis=-1))


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    high, low = _count(key, shape)
    if bit_width == 64:
        return (high.astype(jnp.uint64) << jnp.uint64(32)) | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{bit_width}")


def _fold_in(key: Array, data: Array | int) -> Array:
    return _fenced(jnp.stack(threefry(key, jnp.uint32(0), jnp.uint32(data))))


def _fenced(keys: Array) -> Array:
    """Keep the making of keys apart from that of what they are for.

    Fused, a key of a key of a key would be one expression that grows by a factor with every split.
    """
    return jax.lax.optimization_barrier(keys)


_THREEFRY = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_written_out",
    tag="tfw",
)
