"""Products with the Jacobian of a network's outputs: the strategy that serves every network."""

from collections.abc import Callable
from typing import Any

import jax

Params = Any
Jacobian = Callable[
    [Callable[[Params], Any], Params, int],
    tuple[Any, Callable[[Params], Any], Callable[[Any], Params]],
]
"""`(apply, params, batch_size) → (apply(params), v → J v, u → Jᵀ u)`, J = ∂apply/∂params.

`apply` makes a distribution of parameters, over a batch whose first axis is `batch_size` long; v is
a tangent of the parameters, u one of the distribution, which has its structure.
"""


def linearized(
    apply: Callable[[Params], Any], params: Params, batch_size: int
) -> tuple[Any, Callable[[Params], Any], Callable[[Any], Params]]:
    """A tangent pass for J v and its transpose for Jᵀ u; the forward pass is made once."""
    del batch_size
    distribution, push = jax.linearize(apply, params)
    pull = jax.linear_transpose(push, params)
    return distribution, push, lambda cotangent: pull(cotangent)[0]
