"""Per-sample objectives of the policy gradient and of PPO, all to be maximised."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from purejax_po.types import Array, Distribution

KLEstimator = Callable[[Distribution, Any, Array], Array]
"""`(π, π_ref, actions) → KL(π ‖ π_ref)`, of distributions `[...]`."""


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


def _of_log_ratio(estimate: Callable[[Array], Array]) -> KLEstimator:
    """Apply an estimate to log π/π_ref of the actions."""
    return lambda policy, reference, action: estimate(
        policy.log_prob(action) - reference.log_prob(action)
    )


KL_ESTIMATORS: dict[str, KLEstimator] = {
    "k1": _of_log_ratio(k1),
    "k3": _of_log_ratio(k3),
    "exact": lambda policy, reference, action: policy.kl(reference),
}
"""Estimates of KL(π ‖ π_ref) by name: `(π, π_ref, actions) → [...]`, of distributions `[...]`."""


class Change(NamedTuple):
    """The inputs of an objective of PPO: how π_θ differs from π_old on samples `[...]`."""

    ratio: Array
    """ρ = π_θ(a|s)/π_old(a|s)."""
    advantage: Array
    kl: Array
    """KL(π_old(·|s) ‖ π_θ(·|s)), nats."""
    clip_eps: Array | float
    """ε."""
    kl_coef: Array | float
    """β."""


def _penalised(change: Change) -> Array:
    return fixed_kl(change.ratio, change.advantage, change.kl, change.kl_coef)


OBJECTIVES: dict[str, Callable[[Change], Array]] = {
    "clip": lambda change: clip(change.ratio, change.advantage, change.clip_eps),
    "clip_only": lambda change: clip_only(change.ratio, change.advantage, change.clip_eps),
    "unclipped": lambda change: unclipped(change.ratio, change.advantage),
    "fixed_kl": _penalised,
    "adaptive_kl": _penalised,
}
"""PPO's objectives by name, `[...]`."""
