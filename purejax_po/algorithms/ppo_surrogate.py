"""PPO's surrogates: what a minibatch step of its epochs climbs.

Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, sections 3 and 4.
"""

import functools
from typing import TYPE_CHECKING, Literal

import flax.struct
import jax.numpy as jnp

from purejax_po import surrogates
from purejax_po.algorithms import actor_critic
from purejax_po.algorithms.actor_critic import Loss, Samples
from purejax_po.checks import NonNegative, Positive
from purejax_po.types import Array, Critic, Distribution, Info, Params, Policy

if TYPE_CHECKING:
    from purejax_po.algorithms.ppo import PPOOptions

Surrogate = Literal["clip", "clip_only", "unclipped", "fixed_kl", "adaptive_kl"]


@flax.struct.dataclass
class SurrogateHyperparams(actor_critic.ActorCriticHyperparams):
    """The floats of the loss that PPO's minibatches share."""

    clip_eps: Positive = 0.2
    """ε: the ratio of new to old probability is clipped to [1-ε, 1+ε]."""
    kl_coef: NonNegative = 1.0
    """β at the start: weight of the KL penalty (per nat); used with surrogate *_kl."""
    kl_target: Positive = 0.01
    """Mean KL of an update that β adapts to (nats); used with surrogate adaptive_kl."""
    value_clip_eps: Positive = 0.2
    """Clip range of the value, in units of return; used with clip_value."""


Scalars = tuple[SurrogateHyperparams, Array]
"""The hyperparameters, and the weight β of the KL penalty."""


def make_loss(options: "PPOOptions", policy: Policy, critic: Critic, scalars: Scalars) -> Loss:
    """The loss of samples."""
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


def next_kl_coef(
    surrogate: Surrogate,
    kl_coef: Array,
    hyperparams: SurrogateHyperparams,
    policy: Policy,
    params: Params,
    samples: Samples,
) -> tuple[Array, Info]:
    """The weight β of the next update, and what this one says of it.

    Args:
        params: the policy's, after the update on these samples `[T, N]`.
    """
    info = {"kl_coef": kl_coef} if surrogate in ("fixed_kl", "adaptive_kl") else {}
    if surrogate == "adaptive_kl":
        kl = info["kl_of_update"] = actor_critic.mean_kl(policy, params, samples)
        kl_coef = surrogates.adapt_kl_coef(kl_coef, kl, hyperparams.kl_target)
    return kl_coef, info
