"""Linear systems without LAPACK, several batched calls of which can deadlock on a CPU."""

import jax
import jax.numpy as jnp

from purejax_po.types import Array


def solve(matrix: Array, b: Array) -> Array:
    """Return X `[n, m]` with matrix · X = B, by Gauss-Jordan elimination without pivots.

    Args:
        matrix: `[n, n]`, of a kind that needs no pivots: diagonally dominant by rows or by columns,
            or symmetric and positive definite.
        b: B `[n, m]`.

    Source: Golub and Van Loan 2013, Matrix Computations, sections 3.4.10 and 4.2.
    """

    def clear(rows: Array, i: Array) -> tuple[Array, None]:
        pivot = rows[i] / rows[i, i]
        return (rows - rows[:, i, None] * pivot).at[i].set(pivot), None

    n = len(matrix)
    rows = jnp.concatenate([matrix, b], axis=1)
    return jax.lax.scan(clear, rows, jnp.arange(n))[0][:, n:]
