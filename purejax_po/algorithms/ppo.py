"""Proximal policy optimisation: epochs of surrogate ascent on one rollout.

Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from purejax_po import checks, minibatch
from purejax_po.algorithms import actor_critic, optimizers, ppo_epochs, ppo_surrogate, units
from purejax_po.types import ActorCriticParams, Algorithm, Array, Critic, Info, Key, Policy, Rollout

AdvantageNormalization = Literal["off", "batch", "minibatch"]
Kernels = Literal["xla", "pallas"]


@flax.struct.dataclass
class PPOHyperparams(ppo_surrogate.SurrogateHyperparams):
    """The floats of PPO, all traced."""

    target_kl: checks.Positive = 0.02
    """Mean KL (nats) after which an update stops; used with early_stop."""


@dataclass(frozen=True, kw_only=True)
class PPOOptions(minibatch.ShuffleOptions):
    """Options of PPO, which shape its program."""

    surrogate: ppo_surrogate.Surrogate = "clip"
    """Objective: clipped, an ablation of it, or penalised by the KL."""
    num_epochs: checks.WholeNumber = 4
    """Passes over each rollout."""
    num_minibatches: checks.WholeNumber = 4
    """Minibatches per pass; divides num_envs × num_steps, or num_envs if there is memory."""
    normalize_advantage: AdvantageNormalization = "minibatch"
    """Normalise advantages over the whole batch, over each minibatch, or not (off)."""
    clip_value: bool = True
    """Clip the change of the value as the ratio is clipped (Engstrom et al. 2020, section 3)."""
    early_stop: bool = False
    """End an update once its mean KL exceeds hyperparams.target_kl."""
    kernels: Kernels = "xla"
    """What computes a minibatch step: XLA, or one kernel of a GPU (dense layers; slow on a CPU)."""

    def check_batch(self, num_envs: int, num_steps: int, memoryless: bool = True) -> None:
        """Raise `ValueError` unless the minibatches split a rollout evenly."""
        size = num_envs * num_steps if memoryless else num_envs
        parts = "samples" if memoryless else "environments' sequences"
        minibatch.check_divisible(size, self.num_minibatches, parts)


class PPOState(NamedTuple):
    """Parameters, Adam's moments, and the weight β of the KL penalty."""

    params: ActorCriticParams
    optimizer: optax.OptState
    kl_coef: Array


@checks.known_arguments
def ppo(
    policy: Policy,
    critic: Critic,
    options: PPOOptions | None = None,
    hyperparams: PPOHyperparams | None = None,
) -> Algorithm:
    """Build PPO: maximise E[surrogate(ρ, A)] − c_v (V − V_target)²/2 + c_H H.

    Args:
        policy, critic: networks that share no parameters, with or without memory.
        options: see `PPOOptions`.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the field, its value and what is allowed.

    Example:
        >>> import purejax_po as po
        >>> networks = po.mlp_actor_critic(*po.make_env("CartPole-v1"))
        >>> algorithm = po.ppo(*networks, hyperparams=po.PPOHyperparams(learning_rate=1e-3))
        >>> algorithm.hyperparams.learning_rate
        0.001
        >>> po.ppo(*networks, po.PPOOptions(surrogate="clipp"))
        Traceback (most recent call last):
            ...
        ValueError: ...surrogate must be one of clip, ..., got 'clipp'; did you mean clip?
    """
    options = checks.checked_options(options, PPOOptions)
    hyperparams = checks.checked_hyperparams(hyperparams, PPOHyperparams)
    checks.check_networks(policy, critic)
    actor = actor_critic.actor(policy, critic)

    def init(key: Key, hyperparams: PPOHyperparams) -> PPOState:
        params = actor_critic.init_params(key, policy, critic)
        kl_coef = jnp.asarray(hyperparams.kl_coef, jnp.result_type(float))
        return PPOState(params, optimizers.clipped_adam(hyperparams, 0.0).init(params), kl_coef)

    def update(
        key: Key, hyperparams: PPOHyperparams, state: PPOState, rollout: Rollout
    ) -> tuple[PPOState, Info]:
        samples = actor_critic.make_samples(critic, state.params, rollout, hyperparams)
        if options.normalize_advantage == "batch":
            samples = actor_critic.normalize(samples)
        parts = units.of_rollout(samples, actor.memoryless)
        params, moments, infos = ppo_epochs.learn(
            key, policy, critic, options, hyperparams, state, parts, rollout.progress
        )
        info = jax.tree.map(jnp.mean, infos)
        info["explained_variance"] = actor_critic.explained_variance(samples)
        kl_coef, of_kl = ppo_surrogate.next_kl_coef(
            options.surrogate, state.kl_coef, hyperparams, policy, params.policy, samples
        )
        return PPOState(params, moments, kl_coef), {**info, **of_kl}

    return Algorithm(actor, hyperparams, init, update, critic=critic)
