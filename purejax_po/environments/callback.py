"""Calls from a program to Python: one for all that is vmapped, with one array each way.

An `io_callback` is never left out, repeated or joined with a like one, but its own rule for `vmap`
calls Python for one environment after the other, and every array that it hands over costs as much
as several steps of a small environment. So all arguments travel as the bytes of one array.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from purejax_po.types import Array, PyTree

Form = jax.ShapeDtypeStruct


def call(
    function: Callable[..., PyTree], returned: Sequence[Form], *arguments: PyTree
) -> list[Array]:
    """Call a function of NumPy arrays `[B, ...]`, B over everything that is vmapped.

    Args:
        function: takes the arguments, and returns arrays as `returned` says.
        returned: shapes and dtypes for one of the B.
        arguments: arrays, or tuples of arrays.
    """
    leaves, structure = jax.tree.flatten(arguments)
    leaves = [jnp.asarray(x) for x in leaves]
    forms = [Form(x.shape, x.dtype) for x in leaves]

    def host(packed: np.ndarray) -> np.ndarray:
        given = jax.tree.unflatten(structure, _read(packed, forms))
        return _written(function(*given), returned)

    packed = _once(host, sum(map(_size, returned)))(_packed(leaves))
    return _unpacked(packed, returned)


def _once(host: Callable[..., PyTree], size: int) -> Callable[[Array], Array]:
    """Hand rows of bytes over, `[..., n] → [..., size]`, whatever is vmapped."""

    def flat(packed: PyTree) -> np.ndarray:
        packed = np.asarray(packed)
        found = host(packed.reshape(-1, packed.shape[-1]))
        return found.reshape(*packed.shape[:-1], size)

    @jax.custom_batching.custom_vmap
    def once(packed: Array) -> Array:
        return io_callback(flat, Form((*packed.shape[:-1], size), jnp.uint8), packed)

    @once.def_vmap
    def over_one_more(
        axis_size: int, in_batched: list[PyTree], packed: Array
    ) -> tuple[Array, bool]:
        if not in_batched[0]:
            packed = jnp.broadcast_to(packed, (axis_size, *packed.shape))
        return _once(host, size)(packed), True

    return once


def _size(form: Form) -> int:
    """Bytes."""
    return int(np.prod(form.shape)) * np.dtype(form.dtype).itemsize


def _packed(leaves: Sequence[Array]) -> Array:
    """The bytes of arrays, uint8 `[n]`."""
    whole = [x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x for x in leaves]
    return jnp.concatenate([jax.lax.bitcast_convert_type(x, jnp.uint8).ravel() for x in whole])


def _unpacked(packed: Array, forms: Sequence[Form]) -> list[Array]:
    """Arrays out of their bytes, on the device."""
    found, at = [], 0
    for form in forms:
        part, at = packed[at : at + _size(form)], at + _size(form)
        width = np.dtype(form.dtype).itemsize
        part = part.reshape(*form.shape, width) if width > 1 else part.reshape(form.shape)
        is_flag = form.dtype == jnp.bool_
        found.append(part != 0 if is_flag else jax.lax.bitcast_convert_type(part, form.dtype))
    return found


def _read(packed: np.ndarray, forms: Sequence[Form]) -> list[np.ndarray]:
    """Arrays `[B, ...]` out of rows of bytes, on the host."""
    found, at = [], 0
    for form in forms:
        part, at = packed[:, at : at + _size(form)], at + _size(form)
        part = np.ascontiguousarray(part).view(form.dtype)
        found.append(part.reshape(len(packed), *form.shape))
    return found


def _written(arrays: Sequence[np.ndarray], forms: Sequence[Form]) -> np.ndarray:
    """Rows of bytes out of arrays `[B, ...]`, on the host."""
    rows = [
        np.ascontiguousarray(x, form.dtype).reshape(len(x), -1).view(np.uint8)
        for x, form in zip(arrays, forms, strict=True)
    ]
    return np.concatenate(rows, axis=1)
