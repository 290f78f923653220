"""Trust-region geometry: Fisher-vector products, conjugate gradient, line search.

All three products are matrix-free over parameter pytrees and linearised once: the forward pass and
its residuals are computed when the product is built, and every application reuses them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purejax_po._xla import elimination
from purejax_po._xla.finite import all_finite
from purejax_po.checks import Range, check_count, check_number
from purejax_po.jacobian import Jacobian, linearized
from purejax_po.types import Array, Distribution, Info, Params

Apply = Callable[[Params], Distribution]
"""`params → Distribution` over the samples of a batch, leaves `[B, ...]`."""
Product = Callable[[Params], Params]
"""`v → F v + damping·v`."""


class Solution(NamedTuple):
    """The result of `conjugate_gradient`."""

    x: Params
    quadratic: Array
    """xᵀFx, from the residual: no further product."""
    residual: Array
    """‖b − Fx‖ / ‖b‖; 0 for b = 0."""
    iterations: Array
    """Iterations made before the lane was frozen, int32."""


class LineSearch(NamedTuple):
    """The result of `line_search`."""

    params: Params
    fraction: Array
    """Accepted fraction of the full step; 0 when every candidate was rejected."""
    info: Info
    """`evaluate`'s info on the chosen parameters (the old ones after a rejection)."""
    first_info: Info
    """`evaluate`'s info on the full step."""


def gauss_newton_product(
    apply: Apply,
    params: Params,
    weight: Array,
    damping: Array | float,
    *,
    jacobian: Jacobian = linearized,
) -> Product:
    """Fisher-vector product as Jᵀ F_d J v: positive semi-definite by construction.

    J is the Jacobian of parameters → distribution parameters, F_d the distribution's own Fisher.
    An application is one tangent and one transposed pass, about the work of 3 forward passes, or
    half of that layer by layer.

    Args:
        apply: `params → Distribution [B]`.
        params: where the Fisher matrix is taken.
        weight: `[B]`, or `[T, B]` of unrolled sequences; the product is a mean over samples, weight
            0 leaves one out.
        damping: added times v.
        jacobian: how products with J are made: `linearized`, or `layerwise` where it can serve
            `apply`.

    Source: Martens 2020, New Insights and Perspectives on the Natural Gradient Method, section 9.
    """
    share = weight / jnp.sum(weight)
    distribution, push, pull = jacobian(apply, params, weight.shape[0])

    def product(v: Params) -> Params:
        tangent = distribution.fisher_product(push(v))
        pulled = pull(jax.tree.map(lambda x: x * _align(share, x), tangent))
        return jax.tree.map(lambda f, u: f + damping * u, pulled, v)

    return product


def kl_hessian_product(
    apply: Apply, params: Params, weight: Array, damping: Array | float
) -> Product:
    """Hessian-vector product of mean KL(π_old ‖ π_θ) at θ_old, where it equals the Fisher matrix.

    Arguments as `gauss_newton_product`.

    Source: Schulman et al. 2015, Trust Region Policy Optimization, appendix C.
    """
    old = jax.lax.stop_gradient(apply(params))
    share = weight / jnp.sum(weight)

    def mean_kl(params: Params) -> Array:
        return jnp.sum(share * old.kl(apply(params)))

    _, hessian = jax.linearize(jax.grad(mean_kl), params)
    return lambda v: jax.tree.map(lambda h, u: h + damping * u, hessian(v), v)


def empirical_product(
    apply: Apply, params: Params, weight: Array, damping: Array | float, action: Array
) -> Product:
    """Mean of ∇log π (∇log πᵀ v) over sampled actions: equal to the Fisher in expectation only.

    Arguments as `gauss_newton_product`, and `action` `[B, ...]` drawn from the policy.

    Source: Schulman et al. 2015, Trust Region Policy Optimization, appendix C.1.
    """
    _, push = jax.linearize(lambda p: apply(p).log_prob(action), params)
    pull = jax.linear_transpose(push, params)
    share = weight / jnp.sum(weight)

    def product(v: Params) -> Params:
        (pulled,) = pull(share * push(v))
        return jax.tree.map(lambda f, u: f + damping * u, pulled, v)

    return product


def conjugate_gradient(
    product: Product, b: Params, *, max_iterations: int, tolerance: Array | float
) -> Solution:
    """Solve F x = b for a symmetric positive semi-definite F, from x₀ = 0.

    Differs from the textbook in three ways: the number of iterations is fixed, a lane that is done
    is frozen by a mask, and done also means pᵀFp ≤ 0 or anything non-finite (x is then the last
    good iterate).

    Args:
        product: `v → F v` over pytrees like `b`.
        b: right-hand side.
        max_iterations: static.
        tolerance: stop at ‖r‖ ≤ tolerance·‖b‖.

    Source: Nocedal & Wright 2006, Numerical Optimization, algorithm 5.2.
    """
    check_count("max_iterations", max_iterations)
    check_number("tolerance", tolerance, Range(0.0, includes_low=False))
    flat_b, unravel = ravel_pytree(b)
    b_square = flat_b @ flat_b

    def iterate(_: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        x, r, p, r_square, iterations, active = carry
        product_p = ravel_pytree(product(unravel(p)))[0]
        p_product_p = p @ product_p
        alpha = r_square / p_product_p
        new_r = r - alpha * product_p
        new_r_square = new_r @ new_r
        new_x = x + alpha * p
        new_p = new_r + (new_r_square / r_square) * p
        finite = all_finite((new_r_square, new_x))
        good = active & (p_product_p > 0) & finite
        x = jnp.where(good, new_x, x)
        r, p = jnp.where(good, new_r, r), jnp.where(good, new_p, p)
        r_square = jnp.where(good, new_r_square, r_square)
        active = good & (r_square > jnp.square(tolerance) * b_square)
        return x, r, p, r_square, iterations + good, active

    start = jnp.zeros_like(flat_b), flat_b, flat_b, b_square, jnp.int32(0), b_square > 0
    x, r, _, r_square, iterations, _ = jax.lax.fori_loop(0, max_iterations, iterate, start)
    relative = jnp.sqrt(r_square / jnp.where(b_square > 0, b_square, 1.0))
    return Solution(unravel(x), x @ (flat_b - r), relative, iterations)


def dense_solve(product: Product, b: Params) -> Solution:
    """Solve F x = b exactly for a positive definite F, by elimination on the dense matrix.

    For policies of a few hundred parameters. No LAPACK: a batched call can deadlock on a CPU.
    """
    flat_b, unravel = ravel_pytree(b)
    size = flat_b.shape[0]
    identity = jnp.eye(size, dtype=flat_b.dtype)
    matrix = jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(identity)
    x = elimination.solve(matrix, flat_b[:, None])[:, 0]
    residual = flat_b - matrix @ x
    norm = jnp.linalg.norm(flat_b)
    relative = jnp.linalg.norm(residual) / jnp.where(norm > 0, norm, 1.0)
    return Solution(unravel(x), x @ (flat_b - residual), relative, jnp.int32(size))


Turn = tuple[Array, Params, Array, Info, Info]
"""Of a search: candidates tried, the last one, whether it was taken, its info and the first's."""


def line_search(
    evaluate: Callable[[Params], tuple[Array, Info]],
    params: Params,
    step: Params,
    *,
    shrink: Array | float,
    max_backtracks: int,
    old_info: Info | None = None,
) -> LineSearch:
    """Take the first accepted of the candidates params + shrinkᵏ·step, k = 0 … max_backtracks − 1.

    A candidate with anything non-finite is rejected; when all are, the parameters stay bit for bit
    what they were. Under vmap the loop runs until the slowest lane is done, mostly one pass.

    Args:
        evaluate: `params → (acceptable, info)`.
        params, step: pytrees of the same structure.
        shrink: backtracking coefficient in (0, 1).
        max_backtracks: number of candidates, static.
        old_info: `evaluate`'s info on `params`, if it is known already.

    Raises:
        ValueError: if `shrink` is outside (0, 1) or `max_backtracks` below 1.
    """
    check_number("shrink", shrink, Range(0.0, 1.0, includes_low=False, includes_high=False))
    check_count("max_backtracks", max_backtracks)

    def candidate(k: Array) -> tuple[Params, Array, Info]:
        fraction = jnp.power(shrink, k)
        moved = jax.tree.map(lambda p, s: p + (fraction * s).astype(p.dtype), params, step)
        acceptable, info = evaluate(moved)
        return moved, acceptable & all_finite((moved, info)), info

    def searching(carry: Turn) -> Array:
        k, _, accepted, _, _ = carry
        return ~accepted & (k < max_backtracks)

    def backtrack(carry: Turn) -> Turn:
        k, _, _, _, first_info = carry
        moved, accepted, info = candidate(k)
        first_info = jax.tree.map(lambda a, b: jnp.where(k == 0, a, b), info, first_info)
        return k + 1, moved, accepted, info, first_info

    if old_info is None:
        _, old_info = evaluate(params)
    start = jnp.int32(0), params, jnp.bool_(False), old_info, old_info
    k, moved, accepted, info, first_info = jax.lax.while_loop(searching, backtrack, start)
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved, params)
    info = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), info, old_info)
    fraction = jnp.where(accepted, jnp.power(shrink, k - 1), 0.0)
    return LineSearch(chosen, fraction, info, first_info)


def _align(weight: Array, x: Array) -> Array:
    """Reshape `[*batch]` to broadcast against `[*batch, ...]`."""
    return weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
