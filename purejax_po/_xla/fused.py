"""A step on a minibatch as one kernel: a lane in each block, what it needs on the chip.

The kernel reads the minibatch's rows, the parameters and Adam's moments, makes forward pass, loss,
backward pass, clip and Adam, and writes parameters and moments: no activation leaves the chip.
It is written in Pallas for its Triton lowering, whose arrays have sizes that are powers of two and
at least 16 in products. So arrays are read into tiles that are padded by zeros, and what pads must
not count is masked. On a CPU it is interpreted.

It serves networks of dense layers. Under `jax.vmap` each lane is a program.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from purejax_po._xla import products, switch
from purejax_po.types import Array, Params, PyTree, Structure

Ref = Any
"""Pallas' view of an array, which a kernel reads and writes by `ref[…]`."""

WARPS = 8
"""Of each program: 4 have too few registers, 16 too few each."""
MOST_ROWS, MOST_UNITS = 256, 128
"""Of a minibatch, and of a layer: what the registers of a multiprocessor hold."""
MOST_INFO = 16
"""Numbers that a kernel tells."""
HEIGHT = 32
"""Rows that are worked on at a time: with more of them registers are spilled."""
DECAYS = 0.9, 0.999
"""Of Adam's moments, optax's defaults."""
TANH = jnp.tanh, products.tanh


class Adam(NamedTuple):
    """The numbers of a step of Adam behind a clip of the gradient's norm; all traced."""

    learning_rate: Array
    eps: Array
    max_norm: Array
    corrections: tuple[Array, Array]
    """1 − β₁ᵗ and 1 − β₂ᵗ."""


class Vectors(NamedTuple):
    """Parameters and Adam's moments, `[P]`."""

    params: Array
    mu: Array
    nu: Array


class Batch(NamedTuple):
    """Which rows a minibatch has: those of one turn, in an order that is the same in all turns.

    A loop over the rows themselves would copy them, and not be part of a graph.
    """

    order: Array
    """int32 `[turns · size]`."""
    turn: Array
    size: int


class Inside(NamedTuple):
    """What a gradient is computed of in the kernel; what is read late takes no registers before."""

    params: Callable[[str], Params]
    """The parameters in a field, by its name: a tree of `Read`."""
    rows: Callable[[Array | int], PyTree]
    """Tiles of `height` rows of the minibatch from one on."""
    height: int
    chunks: int
    """Of so many rows, which make the minibatch."""
    whole: Callable[[], PyTree]
    """Tiles of all rows."""
    scalars: PyTree


Read = Callable[[], Array]
"""Reads a tile of parameters where it is used: what is kept over a loop takes registers in it."""
Gradient = Callable[[Inside], tuple[Params, dict[str, Array]]]
"""The gradient of all parameters, as tiles, and an info."""


def step(
    gradient: Gradient,
    like: PyTree,
    vectors: Vectors,
    data: PyTree,
    batch: Batch,
    scalars: PyTree,
    adam: Adam,
    keeps: Callable[[dict[str, Array], PyTree], Array] | None = None,
) -> tuple[Vectors, dict[str, Array]]:
    """Make one step: gradient, clip, Adam.

    Args:
        gradient: traced into the kernel.
        like: a named tuple of the parameters, which `vectors` hold in its order.
        data: a tree of arrays, `[S]` or `[S, n]`; they become tiles `[B]` or `[B, n]`, padded.
        batch: the minibatch's B rows.
        scalars: a tree of numbers, which `gradient` and `keeps` are given.
        adam: the numbers of the optimiser.
        keeps: `(info, scalars) → bool`: whether parameters and moments stay as they were.

    Returns:
        The new vectors, and the info, which gains `grad_norm`.
    """
    sources, structure = jax.tree.flatten(data)
    numbers, numbers_structure = jax.tree.flatten((scalars, adam))
    size, count = batch.size, len(sources)
    tiles = _Tiles.of(like)
    names: list[str] = []

    def kernel(*refs: Ref) -> None:
        order_ref, turn_ref, numbers_ref, *old_refs = refs[count : count + 6]
        *new_refs, info_ref = refs[count + 6 :]
        values = [numbers_ref[i] for i in range(len(numbers))]
        scalars, adam = jax.tree.unflatten(numbers_structure, values)
        height = min(padded(size), HEIGHT)

        def rows(start: Array | int, height: int = height) -> PyTree:
            row = start + jnp.arange(height)
            exists = row < size
            at = plgpu.load(order_ref.at[turn_ref[0] * size + row], mask=exists, other=0)
            found = [_rows(ref, at, exists, x) for ref, x in zip(refs, sources, strict=False)]
            return jax.tree.unflatten(structure, found)

        def params(name: str) -> Params:
            before = like._fields.index(name)
            first = len(jax.tree.leaves(like[:before]))
            part = jax.tree.structure(like[before])
            indices = range(first, first + part.num_leaves)
            read = functools.partial(tiles.read, old_refs[0])
            return jax.tree.unflatten(part, [functools.partial(read, i) for i in indices])

        chunks = padded(size) // height
        inside = Inside(params, rows, height, chunks, lambda: rows(0, padded(size)), scalars)
        slope, info = gradient(inside)
        slopes = [tiles.masked(i, g) for i, g in enumerate(jax.tree.leaves(slope))]
        norm = jnp.sqrt(sum((jnp.sum(g * g) for g in slopes), jnp.float32(0.0)))
        info = {**info, "grad_norm": norm}
        kept = None if keeps is None else keeps(info, scalars)
        for i, g in enumerate(slopes):
            old = Vectors(*(tiles.read(ref, i) for ref in old_refs))
            clipped = jnp.where(norm < adam.max_norm, g, (g / norm) * adam.max_norm)
            for ref, x, y in zip(new_refs, _adam(clipped, old, adam), old, strict=True):
                tiles.write(ref, i, x if kept is None else jnp.where(kept, y, x))
        names[:] = sorted(info)
        for i, name in enumerate(names):
            info_ref[i] = info[name].astype(jnp.float32)

    *new, info = _launch(kernel, sources, batch, numbers, vectors)
    return Vectors(*new), {name: info[i] for i, name in enumerate(names)}


def _launch(
    kernel: Callable[..., None],
    sources: list[Array],
    batch: Batch,
    numbers: list[Array],
    old: Vectors,
) -> Any:
    """Start the kernel: the new vectors in place of the old ones, and the info."""
    vector, count = jax.ShapeDtypeStruct(old.params.shape, old.params.dtype), len(sources)
    return pl.pallas_call(
        kernel,
        out_shape=(vector, vector, vector, jax.ShapeDtypeStruct((MOST_INFO,), jnp.float32)),
        input_output_aliases={count + 3 + i: i for i in range(3)},
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=switch.on().interpreted,
        name="minibatch_step",
    )(
        *(jnp.reshape(x, -1) for x in sources),
        batch.order,
        batch.turn[None],
        jnp.stack([jnp.asarray(x, jnp.float32) for x in numbers]),
        *old,
    )


def network(
    params: Params, x: Array, activation: Callable[[Array], Array]
) -> tuple[Array, Callable[[Array], Params]]:
    """Dense layers of tiles: `[B, inputs] → [B, outputs]`, padded.

    Args:
        params: flax's, by names that end in the layer's number, each a `Read`.

    Returns:
        The outputs, and the function from their gradient to those of the parameters.
    """
    names = sorted(params, key=lambda name: int(name.rsplit("_", 1)[1]))
    inputs, sums = [], []
    for name in names:
        inputs.append(x)
        x = jnp.dot(x, params[name]["kernel"]()) + params[name]["bias"]()
        if name != names[-1]:
            sums.append(x)
            x = activation(x)

    def back(slope: Array) -> Params:
        found = {}
        for i, name in reversed(list(enumerate(names))):
            bias = jnp.sum(slope, axis=0, keepdims=True)
            found[name] = {"kernel": jnp.dot(inputs[i].T, slope), "bias": bias}
            if i > 0:
                slope = jnp.dot(slope, params[name]["kernel"]().T)
                slope = _before(activation, sums[i - 1], inputs[i], slope)
        return found

    return x, back


def _before(activation: Callable[[Array], Array], x: Array, y: Array, slope: Array) -> Array:
    """The gradient before an activation y(x): of tanh by y, so that nothing else is kept."""
    if activation in TANH:
        return slope * (1.0 - y * y)
    return jax.vjp(activation, x)[1](slope)[0]


def padded(size: int) -> int:
    """The next power of two, at least 16."""
    return max(16, 1 << (size - 1).bit_length())


def _adam(g: Array, old: Vectors, adam: Adam) -> Vectors:
    mu = (1.0 - DECAYS[0]) * g + DECAYS[0] * old.mu
    nu = (1.0 - DECAYS[1]) * (g * g) + DECAYS[1] * old.nu
    first, second = mu / adam.corrections[0], nu / adam.corrections[1]
    moved = old.params - adam.learning_rate * (first / (jnp.sqrt(second) + adam.eps))
    return Vectors(moved, mu, nu)


class _Tiles(NamedTuple):
    """Where the arrays of a tree lie in a vector, each as a matrix; of a vector it is a row."""

    structure: Structure
    shapes: tuple[tuple[int, int], ...]
    heights: tuple[int, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, like: Params) -> "_Tiles":
        leaves, structure = jax.tree.flatten(like)
        shapes = tuple((math.prod(x.shape[:-1]), x.shape[-1]) for x in leaves)
        sizes = [rows * columns for rows, columns in shapes]
        heights = tuple(padded(len(x)) if x.ndim > 1 else 1 for x in leaves)
        return cls(structure, shapes, heights, tuple(sum(sizes[:i]) for i in range(len(sizes))))

    def places(self, i: int) -> tuple[Array, Array | None]:
        """Indices of a tile's entries in the vector, and which there are; None if all."""
        rows, columns = self.shapes[i]
        height, width = self.heights[i], padded(columns)
        row, column = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
        exists = None if (height, width) == (rows, columns) else (row < rows) & (column < columns)
        return self.starts[i] + row * columns + column, exists

    def read(self, ref: Ref, i: int) -> Array:
        index, mask = self.places(i)
        return plgpu.load(ref.at[index], mask=mask, other=None if mask is None else 0.0)

    def write(self, ref: Ref, i: int, x: Array) -> None:
        index, mask = self.places(i)
        plgpu.store(ref.at[index], x, mask=mask)

    def masked(self, i: int, x: Array) -> Array:
        """A tile with zeros for what pads it."""
        mask = self.places(i)[1]
        return x if mask is None else jnp.where(mask, x, 0.0)


def _rows(ref: Ref, at: Array, exists: Array, like: Array) -> Array:
    """Rows of an array `[S]` or `[S, n]` as a tile."""
    if like.ndim == 1:
        return plgpu.load(ref.at[at], mask=exists, other=0)
    columns = like.shape[1]
    column = jnp.arange(padded(columns))[None, :]
    mask = exists[:, None] & (column < columns)
    return plgpu.load(ref.at[at[:, None] * columns + column], mask=mask, other=0)
