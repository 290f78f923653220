"""Pytrees of results, compared."""

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po.types import Array, PyTree


def as_numpy(tree: PyTree) -> PyTree:
    """Return leaves as NumPy arrays, keys as their data."""

    def leaf(x: Array) -> np.ndarray:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(leaf, tree)


def assert_equal(a: PyTree, b: PyTree) -> None:
    """Raise `AssertionError` unless two trees are the same, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, as_numpy(a), as_numpy(b))


def assert_close(a: PyTree, b: PyTree, rtol: float = 1e-3, atol: float = 1e-4) -> None:
    """To 1e-3 relative or 1e-4 absolute: three updates, each through Adam or conjugate gradient.

    XLA orders sums differently at another batch width, and both amplify the last bit.
    """
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol),
        as_numpy(a),
        as_numpy(b),
    )


def differs(a: PyTree, b: PyTree) -> bool:
    """Tell whether any number of two trees differs."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(bool(np.any(np.asarray(x) != np.asarray(y))) for x, y in pairs)


def lane_of(tree: PyTree, lane: int | Array) -> PyTree:
    """Return one lane of leaves `[L, ...]`, or several."""
    return jax.tree.map(lambda x: x[lane], tree)


def repeated(tree: PyTree, number: int, **changed: tuple[int, PyTree]) -> PyTree:
    """Repeat every field of a dataclass over lanes; `changed` names fields: `(lane, value)`."""
    lanes = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), number), tree)
    for name, (lane, value) in changed.items():
        lanes = lanes.replace(**{name: getattr(lanes, name).at[lane].set(value)})
    return lanes
