"""Proximal policy optimisation: epochs of clipped surrogate ascent on one rollout.

Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms.
"""

from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from purejax_po import advantages, minibatch, surrogates
from purejax_po.advantages import weighted_mean
from purejax_po.algorithms import actor_critic
from purejax_po.types import (
    ActorCriticParams,
    Algorithm,
    Array,
    Critic,
    Info,
    Key,
    NonNegative,
    Policy,
    Positive,
    Rollout,
    Transition,
    UnitInterval,
    check_choice,
    check_count,
    check_hyperparams,
    known_names,
)

AdvantageNormalization = Literal["off", "batch", "minibatch"]


@known_names
@flax.struct.dataclass
class PPOHyperparams:
    """The floats of PPO, all traced."""

    learning_rate: Positive = 2.5e-4
    """Adam's step size at the start of training."""
    learning_rate_decay: UnitInterval = 1.0
    """Fraction of the learning rate lost, linearly, by the end of training (0: constant)."""
    discount: UnitInterval = 0.99
    """γ, per step."""
    gae_lambda: UnitInterval = 0.95
    """λ of generalised advantage estimation."""
    clip_eps: Positive = 0.2
    """ε: the ratio of new to old probability is clipped to [1-ε, 1+ε]."""
    entropy_coef: NonNegative = 0.01
    """Weight of the entropy bonus (nats)."""
    value_coef: NonNegative = 0.5
    """Weight of the value loss."""
    value_clip_eps: Positive = 0.2
    """Clip range of the value, in units of return; used with clip_value."""
    max_grad_norm: Positive = 0.5
    """The gradient is scaled down to this global norm."""
    target_kl: Positive = 0.02
    """Mean KL (nats) after which an update stops; used with early_stop."""
    adam_eps: Positive = 1e-5
    """Adam's ε."""


class PPOState(NamedTuple):
    """Parameters and Adam's moments."""

    params: ActorCriticParams
    optimizer: optax.OptState


class Samples(NamedTuple):
    """What one minibatch holds, leaves `[B, ...]`."""

    transition: Transition
    log_prob: Array
    value: Array
    advantage: Array
    value_target: Array


def ppo(
    policy: Policy,
    critic: Critic,
    *,
    num_epochs: int = 4,
    num_minibatches: int = 4,
    normalize_advantage: AdvantageNormalization = "minibatch",
    clip_value: bool = True,
    early_stop: bool = False,
    hyperparams: PPOHyperparams | None = None,
) -> Algorithm:
    """Build PPO: maximise E[min(ρA, clip(ρ, 1−ε, 1+ε)A)] − c_v (V − V_target)²/2 + c_H H.

    Args:
        policy, critic: networks without memory that share no parameters.
        num_epochs: passes over each rollout.
        num_minibatches: minibatches per pass; divides num_envs × num_steps.
        normalize_advantage: over the `"batch"`, over each `"minibatch"`, or `"off"`.
        clip_value: clip the value's change as the ratio's (Engstrom et al. 2020, section 3).
        early_stop: make no more minibatch steps once the mean KL exceeds `target_kl`.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    hyperparams = PPOHyperparams() if hyperparams is None else hyperparams
    check_hyperparams(hyperparams)
    check_count("num_epochs", num_epochs)
    check_count("num_minibatches", num_minibatches)
    check_choice("normalize_advantage", normalize_advantage, ("off", "batch", "minibatch"))

    def init(key: Key, hyperparams: PPOHyperparams) -> PPOState:
        params = actor_critic.init_params(key, policy, critic)
        return PPOState(params, _optimizer(hyperparams, 0.0).init(params))

    def update(
        key: Key, hyperparams: PPOHyperparams, state: PPOState, rollout: Rollout
    ) -> tuple[PPOState, Info]:
        transition = rollout.transition
        estimates = actor_critic.estimate(
            critic, state.params.critic, transition, hyperparams.discount, hyperparams.gae_lambda
        )
        log_prob = transition.behaviour.log_prob(transition.action)
        samples = Samples(transition, log_prob, *estimates)
        weight = transition.weight
        if normalize_advantage == "batch":
            normalized = advantages.normalize(samples.advantage, weight)
            samples = samples._replace(advantage=normalized)
        optimizer = _optimizer(hyperparams, rollout.progress)

        def loss(params: ActorCriticParams, batch: Samples) -> tuple[Array, Info]:
            if normalize_advantage == "minibatch":
                normalized = advantages.normalize(batch.advantage, batch.transition.weight)
                batch = batch._replace(advantage=normalized)
            return ppo_loss(hyperparams, policy, critic, params, batch, clip_value)

        def step(carry: Any, batch: Samples) -> tuple[Any, Info]:
            state, stopped = carry
            gradient, info = jax.grad(loss, has_aux=True)(state.params, batch)
            updates, moments = optimizer.update(gradient, state.optimizer, state.params)
            params: Any = optax.apply_updates(state.params, updates)
            new = PPOState(params, moments)
            info["grad_norm"] = optax.tree.norm(gradient)
            if early_stop:
                stopped = stopped | (info["kl"] > hyperparams.target_kl)
                new = jax.tree.map(lambda n, o: jnp.where(stopped, o, n), new, state)
                info["stopped"] = jnp.float32(stopped)
            return (new, stopped), info

        (new_state, _), infos = minibatch.epochs(
            key,
            step,
            (state, jnp.bool_(False)),
            minibatch.flatten_time(samples),
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
        )
        info = jax.tree.map(jnp.mean, infos)
        info["explained_variance"] = advantages.explained_variance(
            samples.value, samples.value_target, weight
        )
        return new_state, info

    return Algorithm(actor_critic.acting(policy), hyperparams, init, update)


def ppo_loss(
    hyperparams: PPOHyperparams,
    policy: Policy,
    critic: Critic,
    params: ActorCriticParams,
    batch: Samples,
    clip_value: bool,
) -> tuple[Array, Info]:
    """The loss of one minibatch `[B]`, and its diagnostics."""
    transition = batch.transition
    weight = transition.weight
    distribution = policy.unroll(params.policy, (), transition.obs, transition.start)
    value = critic.unroll(params.critic, (), transition.obs, transition.start)
    ratio = jnp.exp(distribution.log_prob(transition.action) - batch.log_prob)
    surrogate = surrogates.clip(ratio, batch.advantage, hyperparams.clip_eps)
    error = jnp.square(value - batch.value_target)
    if clip_value:
        eps = hyperparams.value_clip_eps
        clipped = batch.value + jnp.clip(value - batch.value, -eps, eps)
        error = jnp.maximum(error, jnp.square(clipped - batch.value_target))
    info = {
        "policy_loss": -weighted_mean(surrogate, weight),
        "value_loss": 0.5 * weighted_mean(error, weight),
        "entropy": weighted_mean(distribution.entropy(), weight),
        "kl": weighted_mean(transition.behaviour.kl(distribution), weight),
        "clip_fraction": weighted_mean(
            jnp.float32(jnp.abs(ratio - 1.0) > hyperparams.clip_eps), weight
        ),
    }
    loss = (
        info["policy_loss"]
        + hyperparams.value_coef * info["value_loss"]
        - hyperparams.entropy_coef * info["entropy"]
    )
    return loss, info


def _optimizer(
    hyperparams: PPOHyperparams, progress: Array | float
) -> optax.GradientTransformation:
    """Adam behind a global-norm clip, rebuilt from traced hyperparameters at every update."""
    learning_rate = hyperparams.learning_rate * (1.0 - hyperparams.learning_rate_decay * progress)
    return optax.chain(
        optax.clip_by_global_norm(hyperparams.max_grad_norm),
        optax.adam(learning_rate, eps=hyperparams.adam_eps),
    )
