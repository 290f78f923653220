"""Per-sample objectives of the policy gradient and of PPO, all to be maximised."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from purejax_po.types import Array


def score(log_prob: Array, psi: Array) -> Array:
    """Ψ·log π, whose gradient is the policy gradient's Ψ∇log π; nothing flows through Ψ.

    Args:
        log_prob, psi: log π_θ(a|s) and the weight Ψ (an advantage, say), `[...]`.

    Source: Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
    Estimation, equation 1.
    """
    chex.assert_equal_shape([log_prob, psi])
    return jax.lax.stop_gradient(psi) * log_prob


def clip(
    ratio: Array,
    advantage: Array,
    clip_eps: Array | float,
    clip_eps_high: Array | float | None = None,
) -> Array:
    """min(ρA, clip(ρ, 1−ε, 1+ε_high)A).

    The gradient is zero exactly where A > 0 and ρ > 1+ε_high, or A < 0 and ρ < 1−ε.

    Args:
        ratio, advantage: ρ = π_θ(a|s)/π_old(a|s) and A, `[...]`.
        clip_eps: ε > 0.
        clip_eps_high: ε unless it is given (Yu et al. 2025, DAPO, section 3.1).

    Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, equation 7.
    """
    chex.assert_equal_shape([ratio, advantage])
    high = clip_eps if clip_eps_high is None else clip_eps_high
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + high)
    return jnp.minimum(ratio * advantage, clipped * advantage)


def clip_only(ratio: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """clip(ρ, 1−ε, 1+ε)A: an ablation of `clip`, of the same arguments.

    The gradient is zero wherever |ρ−1| > ε, also where a step back would help.
    """
    chex.assert_equal_shape([ratio, advantage])
    return jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps) * advantage


def unclipped(ratio: Array, advantage: Array) -> Array:
    """ρA, of ρ and A `[...]`.

    Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, equation 6.
    """
    chex.assert_equal_shape([ratio, advantage])
    return ratio * advantage


def fixed_kl(ratio: Array, advantage: Array, kl: Array, kl_coef: Array | float) -> Array:
    """ρA − β KL(π_old ‖ π_θ).

    Args:
        ratio, advantage: ρ and A, `[...]`.
        kl: KL(π_old(·|s) ‖ π_θ(·|s)) in nats, `[...]`.
        kl_coef: β ≥ 0, a scalar.

    Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, equation 8.
    """
    chex.assert_equal_shape([ratio, advantage, kl])
    return ratio * advantage - kl_coef * kl


def adapt_kl_coef(kl_coef: Array, kl: Array, kl_target: Array | float) -> Array:
    """β of the next update in `adaptive_kl`: d < d_targ/1.5 → β/2; d > 1.5 d_targ → 2β; else β.

    Args:
        kl_coef: β, a scalar.
        kl: d, the mean KL(π_old ‖ π_new) of the update that is over (nats).
        kl_target: d_targ > 0 (nats).

    Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, section 4.
    """
    chex.assert_equal_shape([kl_coef, kl])
    half = kl_coef / 2.0
    # Unlike the paper's, β is not halved to zero, from where no doubling would bring it back.
    half = jnp.where(half < jnp.finfo(half.dtype).tiny, kl_coef, half)
    halved = jnp.where(kl < kl_target / 1.5, half, kl_coef)
    return jnp.where(kl > 1.5 * kl_target, 2.0 * kl_coef, halved)


def k1(log_ratio: Array) -> Array:
    """Of a sample's log π/π_ref `[...]`: itself. Its expectation under π is KL(π ‖ π_ref).

    Source: Schulman 2020, Approximating KL Divergence, http://joschu.net/blog/kl-approx.html.
    """
    return log_ratio


def k3(log_ratio: Array) -> Array:
    """π_ref/π − log(π_ref/π) − 1 ≥ 0 of a sample's log π/π_ref `[...]`, nats.

    Its expectation under π is KL(π ‖ π_ref), but its gradient alone is that of KL(π_ref ‖ π).

    Source: as `k1`.
    """
    return jnp.expm1(-log_ratio) + log_ratio


KL_ESTIMATORS: dict[str, Callable[[Any, Any, Array], Array]] = {
    "k1": lambda policy, reference, action: k1(
        policy.log_prob(action) - reference.log_prob(action)
    ),
    "k3": lambda policy, reference, action: k3(
        policy.log_prob(action) - reference.log_prob(action)
    ),
    "exact": lambda policy, reference, action: policy.kl(reference),
}
"""Estimates of KL(π ‖ π_ref) by name: `(π, π_ref, actions) → [...]`, of distributions `[...]`."""


Objective = Callable[[Array, Array, Array, Any, Any], Array]
"""`(ρ, A, KL, ε, β) → objective`, the first three and the result `[...]`."""

OBJECTIVES: dict[str, Objective] = {
    "clip": lambda ratio, advantage, kl, eps, beta: clip(ratio, advantage, eps),
    "clip_only": lambda ratio, advantage, kl, eps, beta: clip_only(ratio, advantage, eps),
    "unclipped": lambda ratio, advantage, kl, eps, beta: unclipped(ratio, advantage),
    "fixed_kl": lambda ratio, advantage, kl, eps, beta: fixed_kl(ratio, advantage, kl, beta),
    "adaptive_kl": lambda ratio, advantage, kl, eps, beta: fixed_kl(ratio, advantage, kl, beta),
}
"""PPO's objectives by name."""
