"""Proximal policy optimisation: epochs of surrogate ascent on one rollout.

Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from purejax_po import minibatch, surrogates
from purejax_po._xla import flat
from purejax_po.algorithms import actor_critic, optimizers, units
from purejax_po.algorithms.actor_critic import Samples
from purejax_po.checks import (
    NonNegative,
    Positive,
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
    Critic,
    Distribution,
    Info,
    Key,
    Policy,
    Rollout,
)

AdvantageNormalization = Literal["off", "batch", "minibatch"]
Surrogate = Literal["clip", "clip_only", "unclipped", "fixed_kl", "adaptive_kl"]
Kernels = Literal["xla", "pallas"]
Loss = Callable[[ActorCriticParams, Samples], tuple[Array, Info]]


@known_names
@flax.struct.dataclass
class PPOHyperparams(actor_critic.ActorCriticHyperparams):
    """The floats of PPO, all traced."""

    clip_eps: Positive = 0.2
    """ε: the ratio of new to old probability is clipped to [1-ε, 1+ε]."""
    kl_coef: NonNegative = 1.0
    """β at the start: weight of the KL penalty (per nat); used with surrogate *_kl."""
    kl_target: Positive = 0.01
    """Mean KL of an update that β adapts to (nats); used with surrogate adaptive_kl."""
    value_clip_eps: Positive = 0.2
    """Clip range of the value, in units of return; used with clip_value."""
    target_kl: Positive = 0.02
    """Mean KL (nats) after which an update stops; used with early_stop."""


@dataclass(frozen=True, kw_only=True)
class PPOOptions:
    """Options of PPO, which shape its program."""

    surrogate: Surrogate = "clip"
    """Objective: clipped, an ablation of it, or penalised by the KL."""
    num_epochs: WholeNumber = 4
    """Passes over each rollout."""
    num_minibatches: WholeNumber = 4
    """Minibatches per pass; divides num_envs × num_steps, or num_envs if there is memory."""
    normalize_advantage: AdvantageNormalization = "minibatch"
    """Normalise advantages over the whole batch, over each minibatch, or not (off)."""
    clip_value: bool = True
    """Clip the change of the value as that of the ratio (Engstrom et al. 2020, section 3)."""
    early_stop: bool = False
    """End an update once its mean KL exceeds hyperparams.target_kl."""
    kernels: Kernels = "xla"
    """What makes a minibatch step: XLA, or a kernel for GPUs (dense layers; elsewhere slow)."""

    def check_batch(self, num_envs: int, num_steps: int, memoryless: bool = True) -> None:
        """Raise `ValueError` unless the minibatches split a rollout evenly."""
        if memoryless:
            minibatch.check_divisible(num_envs * num_steps, self.num_minibatches)
        else:
            minibatch.check_divisible(num_envs, self.num_minibatches, "environments' sequences")


class PPOState(NamedTuple):
    """Parameters, Adam's moments, and the weight β of the KL penalty."""

    params: ActorCriticParams
    optimizer: optax.OptState
    kl_coef: Array


@known_arguments
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
    options = checked_options(options, PPOOptions)
    hyperparams = checked_hyperparams(hyperparams, PPOHyperparams)
    check_networks(policy, critic)
    actor = actor_critic.actor(policy, critic)

    def init(key: Key, hyperparams: PPOHyperparams) -> PPOState:
        params = actor_critic.init_params(key, policy, critic)
        kl_coef = jnp.asarray(hyperparams.kl_coef, jnp.result_type(float))
        return PPOState(params, optimizers.clipped_adam(hyperparams, 0.0).init(params), kl_coef)

    def update(
        key: Key, hyperparams: PPOHyperparams, state: PPOState, rollout: Rollout
    ) -> tuple[PPOState, Info]:
        samples = actor_critic.make_samples(critic, state.params.critic, rollout, hyperparams)
        if options.normalize_advantage == "batch":
            samples = actor_critic.normalize(samples)
        parts = units.of_rollout(samples, actor.memoryless)
        params, moments, infos = learn(
            key, policy, critic, options, hyperparams, state, parts, rollout.progress
        )
        info = jax.tree.map(jnp.mean, infos)
        info["explained_variance"] = actor_critic.explained_variance(samples)
        kl_coef = state.kl_coef
        if options.surrogate in ("fixed_kl", "adaptive_kl"):
            info["kl_coef"] = kl_coef
        if options.surrogate == "adaptive_kl":
            kl = info["kl_of_update"] = actor_critic.mean_kl(policy, params.policy, samples)
            kl_coef = surrogates.adapt_kl_coef(kl_coef, kl, hyperparams.kl_target)
        return PPOState(params, moments, kl_coef), info

    return Algorithm(actor, hyperparams, init, update, critic=critic)


def learn(
    key: Key,
    policy: Policy,
    critic: Critic,
    options: PPOOptions,
    hyperparams: PPOHyperparams,
    state: PPOState,
    parts: Samples,
    progress: Array | float,
) -> tuple[ActorCriticParams, optax.OptState, Info]:
    """Make the epochs of an update: parameters, moments, and the infos of the steps."""
    scalars = hyperparams, state.kl_coef
    stop_above = hyperparams.target_kl if options.early_stop else None
    turns = {"num_epochs": options.num_epochs, "num_minibatches": options.num_minibatches}
    if options.kernels == "pallas":
        from purejax_po.algorithms import ppo_kernel  # Pallas takes time to import

        if ppo_kernel.serves(policy, critic, parts, state.params, options.num_minibatches):
            return ppo_kernel.learn(
                key,
                policy,
                critic,
                functools.partial(make_loss, options),
                parts,
                state.params,
                state.optimizer,
                optimizers.numbers(hyperparams, progress),
                scalars,
                **turns,
                normalizes=options.normalize_advantage == "minibatch",
                stop_above=stop_above,
            )
    optimizer, moments, join = flat.in_parts(
        optimizers.clipped_adam(hyperparams, progress), state.params, state.optimizer
    )
    loss = make_loss(options, policy, critic, scalars)
    memoryless = policy.memoryless and critic.memoryless
    step = make_step(optimizer, loss, memoryless, options.normalize_advantage, stop_above)
    begin = state.params, moments, jnp.bool_(False)
    (params, moments, _), infos = minibatch.epochs(key, step, begin, parts, **turns)
    return params, join(moments), infos


def make_loss(options: PPOOptions, policy: Policy, critic: Critic, scalars: Any) -> Loss:
    """The loss of samples; `scalars` are the hyperparameters and the KL's weight β."""
    hyperparams, kl_coef = scalars
    return functools.partial(
        actor_critic.loss,
        hyperparams=hyperparams,
        policy=policy,
        critic=critic,
        objective=functools.partial(
            objective, name=options.surrogate, clip_eps=hyperparams.clip_eps, kl_coef=kl_coef
        ),
        value_clip_eps=hyperparams.value_clip_eps if options.clip_value else None,
    )


def make_step(
    optimizer: optax.GradientTransformation,
    loss: Loss,
    memoryless: bool,
    normalize_advantage: AdvantageNormalization,
    stop_above: Array | float | None,
) -> Callable[[Any, Samples], tuple[Any, Info]]:
    """Return a step on a minibatch, `((params, moments, stopped), units) → (the same, info)`.

    Args:
        stop_above: a mean KL (nats), from which on nothing changes any more; None for never.
    """

    def step(carry: Any, batch: Samples) -> tuple[Any, Info]:
        params, moments, stopped = carry
        batch = units.in_time(batch, memoryless)
        if normalize_advantage == "minibatch":
            batch = actor_critic.normalize(batch)
        *new, info = actor_critic.step(optimizer, params, moments, loss, batch)
        if stop_above is not None:
            stopped = stopped | (info["kl"] > stop_above)
            new = jax.tree.map(lambda n, o: jnp.where(stopped, o, n), new, [params, moments])
            info["stopped"] = jnp.float32(stopped)
        return (*new, stopped), info

    return step


def objective(
    distribution: Distribution,
    batch: Samples,
    *,
    name: str,
    clip_eps: Array | float,
    kl_coef: Array,
) -> tuple[Array, Info]:
    """The surrogate of that name and its diagnostics, each `[B]`."""
    ratio = jnp.exp(distribution.log_prob(batch.transition.action) - batch.log_prob)
    kl = batch.transition.behaviour.kl(distribution)
    info = {"kl": kl, "clip_fraction": jnp.float32(jnp.abs(ratio - 1.0) > clip_eps)}
    change = surrogates.Change(ratio, batch.advantage, kl, clip_eps, kl_coef)
    return surrogates.OBJECTIVES[name](change), info
