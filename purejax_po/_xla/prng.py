"""Threefry written out, for keys that are split inside a scan.

On a CPU JAX compiles its own as a loop, which is smaller and, for the few words that an
environment's step asks for, several times slower; and each loop is compiled by itself, at the cost
of a dozen kernels. The numbers are the same to the bit.

Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3, section 3.
"""

import functools
import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.extend.random import define_prng_impl
from jax.interpreters import batching, mlir

from purejax_po._xla import switch
from purejax_po.types import Array, Key

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_USUAL = "threefry2x32"


def written_out(keys: Key) -> Key:
    """The same keys, for whoever splits them or draws from them next.

    Keys of another generator than threefry are left as they are, and all where the trick is off.
    """
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys = jax.random.wrap_key_data(keys)
    if jax.random.key_impl(keys) != _USUAL or not switch.on().written_out_keys:
        return keys
    return jax.random.wrap_key_data(jax.random.key_data(keys), impl=_THREEFRY)


def as_usual(keys: Key) -> Key:
    """The same keys, as JAX has them: the inverse of `written_out`."""
    if jax.random.key_impl(keys) != _THREEFRY:
        return keys
    return jax.random.wrap_key_data(jax.random.key_data(keys), impl=_USUAL)


def threefry(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Encrypt counters `(high, low)` of any equal shape by a key, uint32 `[2]`: 20 rounds."""
    first, second = (jnp.broadcast_to(half, low.shape) for half in key)
    x, y = _rounds.bind(first, second, high, low)
    return x, y


def _write_out(
    _: mlir.LoweringRuleContext, first: ir.Value, second: ir.Value, x: ir.Value, y: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """The 20 rounds, of keys `(first, second)` and as many counters `(x, y)`.

    In the compiler's own operations, on arrays of static shape: JAX's would be traced first, at ten
    times the cost.
    """
    add, xor, either = stablehlo.add, stablehlo.xor, stablehlo.or_
    left, right = stablehlo.shift_left, stablehlo.shift_right_logical

    @functools.cache
    def constant(value: int) -> ir.Value:
        array = ir.RankedTensorType(x.type)
        number = ir.IntegerAttr.get(array.element_type, value)
        return stablehlo.constant(ir.DenseElementsAttr.get_splat(array, number))

    schedule = first, second, xor(xor(first, second), constant(_PARITY))
    x, y = add(x, first), add(y, second)
    for i in range(5):
        for distance in _ROTATIONS[i % 2]:
            x = add(x, y)
            rotated = either(left(y, constant(distance)), right(y, constant(32 - distance)))
            y = xor(x, rotated)
        x = add(x, schedule[(i + 1) % 3])
        y = add(add(y, schedule[(i + 2) % 3]), constant(i + 1))
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


def _map_rounds(
    words: Iterable[Array], axes: Sequence[int | None]
) -> tuple[list[Array], list[int]]:
    """The rounds of a batch, in front of the words that have one and of those that have none."""
    size = next(
        word.shape[axis] for word, axis in zip(words, axes, strict=True) if axis is not None
    )
    words = (
        jnp.broadcast_to(word, (size, *word.shape)) if axis is None else jnp.moveaxis(word, axis, 0)
        for word, axis in zip(words, axes, strict=True)
    )
    return _rounds.bind(*words), [0, 0]


def _run(*words: Array) -> list[Array]:
    """The rounds of words that are there, compiled even if nothing else is to be."""
    with jax.disable_jit(False):
        return _compiled_rounds(*words)


# A primitive, so that what maps over keys maps over one operation and not over a hundred.
_rounds = Primitive("threefry2x32_written_out")
_rounds.multiple_results = True
_compiled_rounds = jax.jit(_rounds.bind)
_rounds.def_impl(_run)
_rounds.def_abstract_eval(lambda *words: [words[0]] * 2)
batching.primitive_batchers[_rounds] = _map_rounds
mlir.register_lowering(_rounds, _write_out)

_THREEFRY = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_written_out",
    tag="tfw",
)
