"""REINFORCE: one step along a Monte-Carlo (or bootstrapped) estimate of the policy gradient.

Source: Williams 1992, Simple Statistical Gradient-Following Algorithms for Connectionist
Reinforcement Learning; the weights Ψ are those of Schulman et al. 2016, section 2.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
import optax

from purejax_po import checks
from purejax_po.algorithms import actor_critic, critics, optimizers, weighting
from purejax_po.types import ActorCriticParams, Algorithm, Critic, Info, Key, Policy, Rollout


@flax.struct.dataclass
class REINFORCEHyperparams(checks.KnownNames):
    """The floats of REINFORCE, all traced."""

    learning_rate: checks.Positive = 3e-3
    """Adam's step size for the policy."""
    critic_learning_rate: checks.Positive = 1e-2
    """Adam's step size for the critic; used where Ψ needs one."""
    discount: checks.UnitInterval = 0.99
    """γ, per step."""
    gae_lambda: checks.UnitInterval = 0.95
    """λ of generalised advantage estimation; used with psi advantage."""


@dataclass(frozen=True, kw_only=True)
class REINFORCEOptions(critics.CriticOptions):
    """Options of REINFORCE, which shape its program.

    Where Ψ needs a critic, it is fitted to the reward-to-go for `baseline`, else to the λ-returns.
    """

    psi: weighting.Psi = "baseline"
    """Weight of ∇log π: the episode's return, its rest from each step on, that minus a learned
    value, or a bootstrapped estimate."""
    discount_states: bool = False
    """Keep the factor γᵗ, which most implementations drop, and average over episodes: unbiased for
    the discounted objective if psi is Monte-Carlo."""
    normalize_advantage: bool = False
    """Bring the weights to mean 0 and standard deviation 1 over the rollout."""
    critic_epochs: checks.WholeNumber = 5
    """Passes of the critic's regression over each rollout."""
    critic_minibatch_size: checks.WholeNumber = 500
    """Samples per step of that regression; divides num_envs × num_steps. With memory, a multiple of
    num_steps."""


class REINFORCEState(NamedTuple):
    """Parameters, and the moments of both networks' Adam."""

    params: ActorCriticParams
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState


@checks.known_arguments
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
    options = checks.checked_options(options, REINFORCEOptions)
    hyperparams = checks.checked_hyperparams(hyperparams, REINFORCEHyperparams)
    checks.check_networks(policy, critic)
    checks.check_own_critic("reinforce", critic)
    complete_episodes = options.psi in weighting.MONTE_CARLO or options.discount_states

    def init(key: Key, hyperparams: REINFORCEHyperparams) -> REINFORCEState:
        params = actor_critic.init_params(key, policy, critic)
        adam = optimizers.adam(hyperparams.learning_rate)  # begins the same at any rate
        return REINFORCEState(params, adam.init(params.policy), adam.init(params.critic))

    def update(
        key: Key, hyperparams: REINFORCEHyperparams, state: REINFORCEState, rollout: Rollout
    ) -> tuple[REINFORCEState, Info]:
        (policy_params, critic_params), policy_moments, critic_moments = state
        transition = rollout.transition
        policy_carry, critic_carry = rollout.carry or ((), ())
        policy_adam = optimizers.adam(hyperparams.learning_rate)
        critic_adam = optimizers.adam(hyperparams.critic_learning_rate)
        evidence = critics.judge(critic, critic_params, transition, hyperparams, critic_carry)
        weights = weighting.weights(options, evidence, transition.weight, hyperparams.discount)
        policy_params, policy_moments, info = weighting.climb(
            policy, policy_params, policy_adam, policy_moments, transition, weights, policy_carry
        )
        if options.psi not in weighting.WITHOUT_CRITIC:
            before = critic_params, critic_adam, critic_moments
            critic_params, critic_moments, fitted = weighting.fit_critic(
                key, critic, *before, evidence, transition, critic_carry, options
            )
            info |= fitted
        if complete_episodes:
            info["unfinished_episodes"] = 1.0 - jnp.mean(transition.weight[0])
        params = ActorCriticParams(policy_params, critic_params)
        return REINFORCEState(params, policy_moments, critic_moments), info

    actor = actor_critic.actor(policy, critic)
    return Algorithm(actor, hyperparams, init, update, complete_episodes, critic=critic)
