"""PPO's epochs of minibatch steps on one rollout, made by XLA or by a kernel."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax

from purejax_po import minibatch
from purejax_po._xla import flat
from purejax_po.algorithms import actor_critic, optimizers, units
from purejax_po.algorithms.actor_critic import Loss, Samples
from purejax_po.algorithms.ppo_surrogate import make_loss
from purejax_po.types import ActorCriticParams, Array, Critic, Info, Key, Params, Policy

if TYPE_CHECKING:
    from purejax_po.algorithms.ppo import PPOHyperparams, PPOOptions, PPOState

Moving = tuple[Params, optax.OptState, Array]
"""What a step changes: parameters, moments, and whether the update has stopped."""


def learn(
    key: Key,
    policy: Policy,
    critic: Critic,
    options: "PPOOptions",
    hyperparams: "PPOHyperparams",
    state: "PPOState",
    parts: Samples,
    progress: Array | float,
) -> tuple[ActorCriticParams, optax.OptState, Info]:
    """Make the epochs of an update: parameters, moments, and the infos of the steps."""
    scalars = hyperparams, state.kl_coef
    stop_above = hyperparams.target_kl if options.early_stop else None
    names = "num_epochs", "num_minibatches", "shuffle"
    turns = {name: getattr(options, name) for name in names}
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


def make_step(
    optimizer: optax.GradientTransformation,
    loss: Loss,
    memoryless: bool,
    normalize_advantage: str,
    stop_above: Array | float | None,
) -> Callable[[Moving, Samples], tuple[Moving, Info]]:
    """Return a step on a minibatch, `((params, moments, stopped), units) → (the same, info)`.

    Args:
        stop_above: a mean KL (nats), from which on nothing changes any more; None for never.
    """

    def step(carry: Moving, batch: Samples) -> tuple[Moving, Info]:
        params, moments, stopped = carry
        batch = units.in_time(batch, memoryless)
        if normalize_advantage == "minibatch":
            batch = actor_critic.normalize(batch)
        *new, info = actor_critic.step(optimizer, params, moments, loss, batch)
        if stop_above is not None:
            stopped = stopped | (info["kl"] > stop_above)
            new = jax.tree.map(lambda n, o: jnp.where(stopped, o, n), new, [params, moments])
            info["stopped"] = jnp.float32(stopped)
        return (new[0], new[1], stopped), info

    return step
