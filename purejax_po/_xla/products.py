"""Matrix products and gradients in the form that is fastest on a CPU.

The gradient xᵀ ∂y of a kernel is a product of which the first factor is read across its rows. A CPU
takes up to twice as long for it as for a product of xᵀ copied, and the copy included; of the two
factors the narrower is copied. A kernel with two or three outputs is multiplied column by column,
for which a CPU takes less time than for a product so narrow and its gradients. Both are left to the
compiler where their tricks are off.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental.layout import Layout, with_layout_constraint

from purejax_po._xla import switch
from purejax_po.types import Array


def apart(x: Array) -> Array:
    """Keep x apart from what is made of it: XLA would undo a transpose in between."""
    return jax.lax.optimization_barrier(x) if switch.on().copied_factors else x


def transposed(x: Array) -> Array:
    """A copy of xᵀ, but of a single row or column, which lies in memory as its transpose.

    With its layout left open, XLA of jax 0.11 would copy twice.
    """
    y = jnp.transpose(x)
    if switch.on().copied_factors and 1 not in y.shape:
        y = with_layout_constraint(y, Layout(major_to_minor=(0, 1)))
    return apart(y)


def dense(
    x: Array,
    kernel: Array,
    dimensions: jax.lax.DotDimensionNumbers,
    precision: jax.lax.PrecisionLike = None,
) -> Array:
    """Return x W: `[..., features]`, `[features, outputs] → [..., outputs]`.

    Arguments as `jax.lax.dot_general`, for which flax's `Dense` takes it.
    """
    if by_columns(kernel.shape[1]):
        columns = [jax.lax.dot_general(x, w, dimensions, precision) for w in kernel.T]
        return jnp.stack(columns, axis=-1)
    if switch.on().narrow_gradients and 1 < kernel.shape[1] < 4:
        return _narrow(x, kernel)
    return _dense(x, kernel, dimensions, precision)


@jax.custom_jvp
def _narrow(x: Array, kernel: Array) -> Array:
    """X W of which ∂x alone is made column by column: ∂y Wᵀ can be part of what reads it."""
    return x @ kernel


def _narrow_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    y_dot = x @ _instantiated(kernel_dot, kernel)
    if not isinstance(x_dot, SymbolicZero):
        y_dot = y_dot + jnp.stack([x_dot @ w for w in kernel.T], axis=-1)
    return x @ kernel, y_dot


_narrow.defjvp(_narrow_jvp, symbolic_zeros=True)


def affine(x: Array, kernel: Array, bias: Array) -> Array:
    """Return x W + b, for few inputs: ∂W and ∂b are one product [x, 1]ᵀ ∂y, which reads ∂y once."""
    return _affine(x, kernel, bias)


@jax.custom_jvp
def _affine(x: Array, kernel: Array, bias: Array) -> Array:
    return x @ kernel + bias


def _affine_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    (x, kernel, bias), (x_dot, *dots) = primals, tangents
    kernel_dot, bias_dot = map(_instantiated, dots, (kernel, bias))
    inputs = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
    y_dot = inputs @ jnp.concatenate([kernel_dot, bias_dot[None]])
    if not isinstance(x_dot, SymbolicZero):
        y_dot = y_dot + x_dot @ kernel
    return x @ kernel + bias, y_dot


_affine.defjvp(_affine_jvp, symbolic_zeros=True)


def joins(inputs: int) -> bool:
    """Whether a layer is `affine`: of few inputs, where a row more costs nothing."""
    return inputs <= 8 and switch.on().joined_biases


def tanh(x: Array) -> Array:
    """Return tanh x; its derivative 1 − y² is JAX's (1 − y)(1 + y), for which ∂y is read twice."""
    return _tanh(x) if switch.on().short_tanh else jnp.tanh(x)


@jax.custom_jvp
def _tanh(x: Array) -> Array:
    return jnp.tanh(x)


@_tanh.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    y = jnp.tanh(primals[0])
    return y, tangents[0] * (1.0 - y * y)


def by_columns(outputs: int) -> bool:
    """Whether a product is made column by column."""
    return 1 < outputs < 4 and switch.on().columns


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _dense(
    x: Array,
    kernel: Array,
    dimensions: jax.lax.DotDimensionNumbers,
    precision: jax.lax.PrecisionLike,
) -> Array:
    """Return x W."""
    return jax.lax.dot_general(x, kernel, dimensions, precision)


def _dense_jvp(
    dimensions: jax.lax.DotDimensionNumbers,
    precision: jax.lax.PrecisionLike,
    primals: tuple[Array, ...],
    tangents: tuple[Array, ...],
) -> tuple[Array, Array]:
    """∂x W + x ∂W, the latter so written that its transpose has a copied factor."""
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    y = jax.lax.dot_general(x, kernel, dimensions, precision)
    y_dot = jnp.zeros_like(y)
    if not isinstance(x_dot, SymbolicZero):
        y_dot = jax.lax.dot_general(x_dot, kernel, dimensions, precision)
    if not isinstance(kernel_dot, SymbolicZero):
        moved = _moved(jnp.reshape(x, (-1, x.shape[-1])), kernel_dot, precision)
        moved = jnp.reshape(moved, y.shape)
        y_dot = moved if isinstance(x_dot, SymbolicZero) else y_dot + moved
    return y, y_dot


_dense.defjvp(_dense_jvp, symbolic_zeros=True)


def _instantiated(tangent: Any, primal: Array) -> Array:
    return jnp.zeros_like(primal) if isinstance(tangent, SymbolicZero) else tangent


def _moved(x: Array, kernel_dot: Array, precision: jax.lax.PrecisionLike) -> Array:
    """Return x ∂W, `[B, outputs]`."""
    if kernel_dot.shape[1] < kernel_dot.shape[0]:
        return transposed(jnp.matmul(transposed(kernel_dot), x.T, precision=precision))
    return jnp.matmul(transposed(x).T, kernel_dot, precision=precision)
