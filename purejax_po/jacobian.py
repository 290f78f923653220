"""Products with the Jacobian of a network's outputs: the strategy that serves every network."""

from collections.abc import Callable
from typing import Any

import jax

Params = Any
Outputs = Any
"""A batch of distributions, or a tangent of one: a pytree of their parameters."""
Jacobian = Callable[
    [Callable[[Params], Outputs], Params, int],
    tuple[Outputs, Callable[[Params], Outputs], Callable[[Outputs], Params]],
]
"""`(apply, params, batch_size) → (apply(params), v → J v, u → Jᵀ u)`, J = ∂apply/∂params.

`apply` makes a distribution of parameters, over a batch whose first axis is `batch_size` long; v is
a tangent of the parameters, u one of the distribution, which has its structure.
"""


def linearized(
    apply: Callable[[Params], Outputs], params: Params, batch_size: int
) -> tuple[Outputs, Callable[[Params], Outputs], Callable[[Outputs], Params]]:
    """A tangent pass for J v and its transpose for Jᵀ u; the forward pass is made once."""
    del batch_size
    distribution, push = jax.linearize(apply, params)
    pull = jax.linear_transpose(push, params)
    return distribution, push, lambda cotangent: pull(cotangent)[0]
