"""Per-sample surrogate objectives of PPO, all to be maximised."""

import chex
import jax.numpy as jnp

from purejax_po.types import Array


def clip(ratio: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """min(ρA, clip(ρ, 1−ε, 1+ε)A).

    The gradient is zero exactly where A > 0 and ρ > 1+ε, or A < 0 and ρ < 1−ε.

    Args:
        ratio, advantage: ρ = π_θ(a|s)/π_old(a|s) and A, `[...]`.
        clip_eps: ε > 0.

    Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, equation 7.
    """
    chex.assert_equal_shape([ratio, advantage])
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return jnp.minimum(ratio * advantage, clipped * advantage)
