"""One check that all numbers of a pytree are finite."""

import jax
import jax.numpy as jnp

from purejax_po._xla import switch
from purejax_po.types import Array, PyTree


def all_finite(tree: PyTree) -> Array:
    """Return whether every leaf of real or complex floats is finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    if not switch.on().one_check:
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
    # inf - inf and nan - nan are nan; a CPU sums floats sooner than it joins booleans.
    finite = jnp.stack([jnp.sum(x - x) == 0.0 for x in leaves])
    # Without the barrier a compiler writes `all` out as a chain of ands, and the whole chain anew
    # for everything that depends on it: much of what a program consisted of.
    return jnp.all(jax.lax.optimization_barrier(finite))
