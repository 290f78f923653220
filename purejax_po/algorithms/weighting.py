"""The weights Ψ of ∇log π in REINFORCE, the loss whose gradient they weigh, and their critic.

Source: Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
Estimation, section 2.
"""

from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import optax

from purejax_po import advantages, surrogates
from purejax_po._xla import flat
from purejax_po.advantages import Evidence, weighted_mean
from purejax_po.algorithms import critics
from purejax_po.types import Array, Carry, Critic, Info, Key, Params, Policy, Transition

if TYPE_CHECKING:
    from purejax_po.algorithms.reinforce import REINFORCEOptions

Psi = Literal["total_return", "reward_to_go", "baseline", "q_value", "td_residual", "advantage"]
MONTE_CARLO = ("total_return", "reward_to_go", "baseline")
WITHOUT_CRITIC = ("total_return", "reward_to_go")


def weights(
    options: "REINFORCEOptions", evidence: Evidence, valid: Array, discount: Array | float
) -> Array:
    """Ψ of a rollout's steps, `[T, N]`.

    Args:
        evidence: what Ψ is estimated from.
        valid: the transitions' weights `[T, N]`.
        discount: γ in [0, 1].
    """
    weights = advantages.ESTIMATORS[options.psi](evidence)
    if options.normalize_advantage:
        weights = advantages.normalize(weights, valid)
    if options.discount_states:
        weights = per_episode(options.psi, weights, valid, discount)
    return weights


def per_episode(psi: Psi, weights: Array, valid: Array, discount: Array | float) -> Array:
    """γᵗΨ_t, scaled so that its mean over samples is the mean over episodes of Σ_t γᵗΨ_t.

    `total_return` gets no γᵗ: it is discounted from the episode's start as it is.

    Args:
        psi: which weight it is.
        weights, valid: Ψ and the transitions' weights `[T, N]`; episodes begin at t = 0.
        discount: γ in [0, 1].
    """
    num_steps, num_episodes = jnp.sum(valid), jnp.sum(valid[0])
    length = num_steps / jnp.where(num_episodes > 0, num_episodes, 1.0)
    if psi == "total_return":
        return length * weights
    factor = jnp.power(discount, jnp.arange(len(weights), dtype=weights.dtype))
    return length * factor[:, None] * weights


def loss(
    params: Params, policy: Policy, transition: Transition, psi: Array, carry: Carry = ()
) -> tuple[Array, Info]:
    """−mean(Ψ log π) over samples `[T, N]`, and its diagnostics; `carry` as in a rollout."""
    distribution = policy.unroll(params, carry, transition.obs, transition.start)
    objective = surrogates.score(distribution.log_prob(transition.action), psi)
    loss = -weighted_mean(objective, transition.weight)
    entropy = weighted_mean(distribution.entropy(), transition.weight)
    return loss, {"policy_loss": loss, "entropy": entropy}


def climb(
    policy: Policy,
    params: Params,
    optimizer: optax.GradientTransformation,
    moments: optax.OptState,
    transition: Transition,
    psi: Array,
    carry: Carry,
) -> tuple[Params, optax.OptState, Info]:
    """One step of the policy down `loss`: parameters, moments and diagnostics."""
    gradient, info = jax.grad(loss, has_aux=True)(params, policy, transition, psi, carry)
    updates, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(params, updates), moments, {**info, "grad_norm": flat.norm(gradient)}


def fit_critic(
    key: Key,
    critic: Critic,
    params: Params,
    optimizer: optax.GradientTransformation,
    moments: optax.OptState,
    evidence: Evidence,
    transition: Transition,
    carry: Carry,
    options: "REINFORCEOptions",
) -> tuple[Params, optax.OptState, Info]:
    """Fit the critic that Ψ needs to a rollout `[T, N]`: parameters, moments and diagnostics.

    It learns the reward-to-go if Ψ is `baseline`, else the λ-returns.

    Args:
        carry: the critic's before the first step; `()` without memory.
    """
    value = evidence.value
    target = value + value_error(options.psi, evidence)
    targets = critics.Targets(transition, target, carry)
    params, moments, loss = critics.fit(key, critic, params, optimizer, moments, targets, options)
    explained = advantages.explained_variance(value, target, transition.weight)
    return params, moments, {"value_loss": loss, "explained_variance": explained}


def value_error(psi: Psi, evidence: advantages.Evidence) -> Array:
    """The target minus V: to the reward-to-go if Ψ is `baseline`, else to the λ-return."""
    return advantages.ESTIMATORS["baseline" if psi == "baseline" else "advantage"](evidence)
