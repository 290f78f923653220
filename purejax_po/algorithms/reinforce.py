"""REINFORCE: one step along a Monte-Carlo (or bootstrapped) estimate of the policy gradient.

Source: Williams 1992, Simple Statistical Gradient-Following Algorithms for Connectionist
Reinforcement Learning; the weights Ψ are those of Schulman et al. 2016, section 2.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from purejax_po import advantages, surrogates
from purejax_po._xla import flat
from purejax_po.advantages import weighted_mean
from purejax_po.algorithms import actor_critic, critics, optimizers
from purejax_po.checks import (
    Positive,
    UnitInterval,
    WholeNumber,
    check_networks,
    checked_hyperparams,
    checked_options,
    known_arguments,
    known_names,
)
from purejax_po.types import (
    ActorCriticParams,
    Algorithm,
    Array,
    Carry,
    Critic,
    Info,
    Key,
    Params,
    Policy,
    Rollout,
    Transition,
)

Psi = Literal["total_return", "reward_to_go", "baseline", "q_value", "td_residual", "advantage"]
MONTE_CARLO = ("total_return", "reward_to_go", "baseline")
WITHOUT_CRITIC = ("total_return", "reward_to_go")


@known_names
@flax.struct.dataclass
class REINFORCEHyperparams:
    """The floats of REINFORCE, all traced."""

    learning_rate: Positive = 3e-3
    """Adam's step size for the policy."""
    critic_learning_rate: Positive = 1e-2
    """Adam's step size for the critic; used where Ψ needs one."""
    discount: UnitInterval = 0.99
    """γ, per step."""
    gae_lambda: UnitInterval = 0.95
    """λ of generalised advantage estimation; used with psi advantage."""


@dataclass(frozen=True, kw_only=True)
class REINFORCEOptions(critics.CriticOptions):
    """Options of REINFORCE, which shape its program.

    Where Ψ needs a critic, it is fitted to the reward-to-go for `baseline`, else to the λ-returns.
    """

    psi: Psi = "baseline"
    """Weight of ∇log π: the episode's return, what is left of it, that minus a learned value, or a
    bootstrapped estimate."""
    discount_states: bool = False
    """Keep the factor γᵗ that practice drops and average over episodes: unbiased for the discounted
    objective if psi is Monte-Carlo."""
    normalize_advantage: bool = False
    """Bring the weights to mean 0 and standard deviation 1 over the rollout."""
    critic_epochs: WholeNumber = 5
    """Passes of the critic's regression over each rollout."""
    critic_minibatch_size: WholeNumber = 500
    """Samples per step of that regression; divides num_envs × num_steps. With memory, a multiple of
    num_steps."""


class REINFORCEState(NamedTuple):
    """Parameters, and the moments of both networks' Adam."""

    params: ActorCriticParams
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState


@known_arguments
def reinforce(
    policy: Policy,
    critic: Critic,
    options: REINFORCEOptions | None = None,
    hyperparams: REINFORCEHyperparams | None = None,
) -> Algorithm:
    """Build REINFORCE: one step of Adam up E[Ψ_t log π(a_t|s_t)] per rollout.

    Monte-Carlo Ψ and `discount_states` learn from complete episodes (`rollout.first_episodes`).
    Make num_steps at least the time limit: `info["unfinished_episodes"]` are left out.

    Args:
        policy, critic: networks that share no parameters, with or without memory.
        options: see `REINFORCEOptions`.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    options = checked_options(options, REINFORCEOptions)
    hyperparams = checked_hyperparams(hyperparams, REINFORCEHyperparams)
    check_networks(policy, critic)
    psi = options.psi
    complete_episodes = psi in MONTE_CARLO or options.discount_states

    def init(key: Key, hyperparams: REINFORCEHyperparams) -> REINFORCEState:
        params = actor_critic.init_params(key, policy, critic)
        adams = _optimizers(hyperparams)
        return REINFORCEState(params, adams[0].init(params.policy), adams[1].init(params.critic))

    def update(
        key: Key, hyperparams: REINFORCEHyperparams, state: REINFORCEState, rollout: Rollout
    ) -> tuple[REINFORCEState, Info]:
        (policy_params, critic_params), policy_moments, critic_moments = state
        transition = rollout.transition
        policy_carry, critic_carry = rollout.carry or ((), ())
        policy_adam, critic_adam = _optimizers(hyperparams)
        value, next_value = critics.values(critic, critic_params, critic_carry, transition)
        evidence = critics.evidence(transition, value, next_value, hyperparams)
        weights = advantages.ESTIMATORS[psi](evidence)
        if options.normalize_advantage:
            weights = advantages.normalize(weights, transition.weight)
        if options.discount_states:
            weights = per_episode(psi, weights, transition.weight, hyperparams.discount)
        slope = jax.grad(loss, has_aux=True)
        gradient, info = slope(policy_params, policy, transition, weights, policy_carry)
        updates, policy_moments = policy_adam.update(gradient, policy_moments)
        policy_params = optax.apply_updates(policy_params, updates)
        info["grad_norm"] = flat.norm(gradient)
        if psi not in WITHOUT_CRITIC:
            target = value + value_error(psi, evidence)
            targets = critics.Targets(transition, target, critic_carry)
            before = critic_params, critic_adam, critic_moments
            critic_params, critic_moments, info["value_loss"] = critics.fit(
                key, critic, *before, targets, options
            )
            explained = advantages.explained_variance(value, target, transition.weight)
            info["explained_variance"] = explained
        if complete_episodes:
            info["unfinished_episodes"] = 1.0 - jnp.mean(transition.weight[0])
        params = ActorCriticParams(policy_params, critic_params)
        return REINFORCEState(params, policy_moments, critic_moments), info

    actor = actor_critic.actor(policy, critic)
    return Algorithm(
        actor, hyperparams, init, update, complete_episodes=complete_episodes, critic=critic
    )


def loss(
    params: Params, policy: Policy, transition: Transition, psi: Array, carry: Carry = ()
) -> tuple[Array, Info]:
    """−mean(Ψ log π) over samples `[T, N]`, and its diagnostics; `carry` as in a rollout."""
    distribution = policy.unroll(params, carry, transition.obs, transition.start)
    objective = surrogates.score(distribution.log_prob(transition.action), psi)
    loss = -weighted_mean(objective, transition.weight)
    entropy = weighted_mean(distribution.entropy(), transition.weight)
    return loss, {"policy_loss": loss, "entropy": entropy}


def value_error(psi: Psi, evidence: advantages.Evidence) -> Array:
    """The target minus V: to the reward-to-go if Ψ is `baseline`, else to the λ-return."""
    return advantages.ESTIMATORS["baseline" if psi == "baseline" else "advantage"](evidence)


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


def _optimizers(
    hyperparams: REINFORCEHyperparams,
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Adam for the policy and for the critic."""
    rates = hyperparams.learning_rate, hyperparams.critic_learning_rate
    return optimizers.adam(rates[0]), optimizers.adam(rates[1])
