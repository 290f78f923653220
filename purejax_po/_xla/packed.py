"""Loops with few kernels in a turn: what they carry and stack is one array each.

A loop writes each of its outputs by a kernel or a copy of its own, and copies what it carries on.
XLA leaves a loop that copies to places which depend on the turn on the host: there every turn is a
CUDA graph. Of one array that is computed (here: put together) the loop is part of a graph, and a
turn has one kernel for it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po._xla import switch
from purejax_po.types import Array, PyTree, Structure

State = TypeVar("State")
"""What a loop carries."""

WORDS = "words"
"""The array of all leaves of 32 bits, and of few truth values."""
FEW = 256
"""Truth values that become words, of which more would be too many bytes; and entries of what is
carried: larger arrays may change in place."""


def scan(
    step: Callable[[State, PyTree], tuple[State, PyTree]],
    carry: State,
    xs: PyTree,
    pack_carry: bool = False,
) -> tuple[State, PyTree]:
    """As `jax.lax.scan`, with `lean_loops` by one array of outputs, or one for each dtype.

    Args:
        pack_carry: put small leaves of the carry into one array too.
    """
    if not switch.on().lean_loops:
        return jax.lax.scan(step, carry, xs)
    first = jax.eval_shape(lambda xs: jax.tree.map(lambda x: x[0], xs), xs)
    outputs = _Layout.of(jax.eval_shape(step, carry, first)[1])
    carried = _Layout.of(carry, FEW) if pack_carry else None

    def packed(carry: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        carry, found = step(carried.unpack(carry) if carried else carry, x)
        return carried.pack(carry) if carried else carry, outputs.pack(found)

    begin = carried.pack(carry) if carried else carry
    end, stacked = jax.lax.scan(packed, begin, xs)
    return carried.unpack(end) if carried else end, outputs.unpack(stacked)


def nested_scan(
    step: Callable[[State, PyTree], tuple[State, PyTree]],
    turns: Callable[[PyTree], PyTree],
    carry: State,
    xs: PyTree,
) -> tuple[State, PyTree]:
    """Scan a step over `turns(x)` for each x, the outputs stacked `[len(xs), len(turns), ...]`.

    With the trick `lean_loops` all turns are made first, and are one loop.
    """
    if not switch.on().lean_loops:
        return jax.lax.scan(lambda carry, x: jax.lax.scan(step, carry, turns(x)), carry, xs)
    all_turns = jax.vmap(turns)(xs)
    outer, inner = jax.tree.leaves(all_turns)[0].shape[:2]
    flat = jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[2:])), all_turns)
    carry, outputs = scan(step, carry, flat)
    return carry, jax.tree.map(lambda x: jnp.reshape(x, (outer, inner, *x.shape[1:])), outputs)


class _Layout(NamedTuple):
    """Where each leaf of a tree lies."""

    structure: Structure
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    places: tuple[str, ...]
    """The name of the array that each leaf is in."""

    @classmethod
    def of(cls, tree: PyTree, most: float = math.inf) -> "_Layout":
        """Put the leaves of at most so many entries together."""
        leaves, structure = jax.tree.flatten(tree)
        likes = tuple(jax.ShapeDtypeStruct(jnp.shape(x), x.dtype) for x in leaves)
        places = (
            _kind(like) if math.prod(like.shape) <= most else f"leaf {i}"
            for i, like in enumerate(likes)
        )
        return cls(structure, likes, tuple(places))

    def pack(self, tree: PyTree) -> dict[str, Array]:
        """One array `[W]` of words, and one of each other dtype."""
        groups: dict[str, list[Array]] = {}
        for x, like, place in zip(jax.tree.leaves(tree), self.leaves, self.places, strict=True):
            assert x.dtype == like.dtype, (x.dtype, like.dtype)
            flat = jnp.reshape(x, -1)
            groups.setdefault(place, []).append(_to_words(flat) if place == WORDS else flat)
        # An entry more for a single leaf: to copy it would not be to compute.
        return {
            name: jnp.concatenate([*found, found[0][:1]] if len(found) == 1 else found)
            if not name.startswith("leaf")
            else found[0]
            for name, found in groups.items()
        }

    def unpack(self, packed: dict[str, Array]) -> PyTree:
        """The tree, of arrays `[..., W]`."""
        found, starts = [], dict.fromkeys(packed, 0)
        for like, place in zip(self.leaves, self.places, strict=True):
            start = starts[place]
            starts[place] += math.prod(like.shape)
            flat = packed[place][..., start : starts[place]]
            shaped = jnp.reshape(flat, (*flat.shape[:-1], *like.shape))
            found.append(_from_words(shaped, like.dtype) if place == WORDS else shaped)
        return jax.tree.unflatten(self.structure, found)


def _kind(like: jax.ShapeDtypeStruct) -> str:
    is_word = like.dtype in (jnp.float32, jnp.int32, jnp.uint32)
    is_small = like.dtype == jnp.bool_ and math.prod(like.shape) <= FEW
    return WORDS if is_word or is_small else str(like.dtype)


def _to_words(x: Array) -> Array:
    is_bool = x.dtype == jnp.bool_
    return x.astype(jnp.uint32) if is_bool else jax.lax.bitcast_convert_type(x, jnp.uint32)


def _from_words(words: Array, dtype: np.dtype) -> Array:
    return words != 0 if dtype == jnp.bool_ else jax.lax.bitcast_convert_type(words, dtype)
