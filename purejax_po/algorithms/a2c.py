"""Advantage actor-critic: one gradient step per rollout on policy, value and entropy.

Source: Mnih et al. 2016, Asynchronous Methods for Deep Reinforcement Learning (its synchronous
form, with generalised advantages).
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import flax.struct
import optax

from purejax_po import surrogates
from purejax_po.algorithms import actor_critic, optimizers
from purejax_po.checks import (
    Positive,
    check_networks,
    checked_hyperparams,
    checked_options,
    known_arguments,
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


@flax.struct.dataclass
class A2CHyperparams(actor_critic.ActorCriticHyperparams):
    """The floats of A2C, all traced."""

    learning_rate: Positive = 3e-3
    """Adam's step size at the start of training."""


@dataclass(frozen=True, kw_only=True)
class A2COptions:
    """Options of A2C, which shape its program."""

    normalize_advantage: bool = True
    """Normalise advantages over the rollout."""


class A2CState(NamedTuple):
    """Parameters and Adam's moments."""

    params: ActorCriticParams
    optimizer: optax.OptState


@known_arguments
def a2c(
    policy: Policy,
    critic: Critic,
    options: A2COptions | None = None,
    hyperparams: A2CHyperparams | None = None,
) -> Algorithm:
    """Build A2C: one step up E[Â log π] − c_v (V − V_target)²/2 + c_H H per rollout.

    Args:
        policy, critic: networks that share no parameters, with or without memory.
        options: see `A2COptions`.
        hyperparams: the defaults; every field is traced.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    options = checked_options(options, A2COptions)
    hyperparams = checked_hyperparams(hyperparams, A2CHyperparams)
    check_networks(policy, critic)
    networks = {"policy": policy, "critic": critic}

    def init(key: Key, hyperparams: A2CHyperparams) -> A2CState:
        params = actor_critic.init_params(key, policy, critic)
        return A2CState(params, optimizers.clipped_adam(hyperparams, 0.0).init(params))

    def update(
        key: Key, hyperparams: A2CHyperparams, state: A2CState, rollout: Rollout
    ) -> tuple[A2CState, Info]:
        del key
        samples = actor_critic.make_samples(critic, state.params, rollout, hyperparams)
        if options.normalize_advantage:
            samples = actor_critic.normalize(samples)
        loss = functools.partial(
            actor_critic.loss, hyperparams=hyperparams, objective=objective, **networks
        )
        optimizer = optimizers.clipped_adam(hyperparams, rollout.progress)
        params, moments, info = actor_critic.step(optimizer, *state, loss, samples)
        info["explained_variance"] = actor_critic.explained_variance(samples)
        return A2CState(params, moments), info

    actor = actor_critic.actor(policy, critic)
    return Algorithm(actor, hyperparams, init, update, critic=critic)


def objective(distribution: Distribution, samples: actor_critic.Samples) -> tuple[Array, Info]:
    """Â log π_θ, and no diagnostics."""
    log_prob = distribution.log_prob(samples.transition.action)
    return surrogates.score(log_prob, samples.advantage), {}
