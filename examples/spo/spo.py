"""Simple Policy Optimization: PPO whose clip is a quadratic penalty of the ratio.

Maximises E[ρA − |A|/(2ε)·(ρ − 1)²] − c_v (V − V_target)²/2 + c_H H by epochs of minibatches. For
each sample the objective is highest at ρ = 1 + ε·sign(A), to where it leads back: unlike the clip
it never leaves a ratio that runs away without a gradient.

    purejax-po train spo:SPO --env CartPole-v1 --seeds 16

Source: Xie et al. 2024, Simple Policy Optimization, arXiv:2401.16025.
"""

import functools
from dataclasses import dataclass, field
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

import purejax_po as po
from purejax_po import minibatch
from purejax_po.algorithms import actor_critic, optimizers, units
from purejax_po.checks import Positive, check_count, check_hyperparams
from purejax_po.types import Array


@flax.struct.dataclass
class SPOHyperparams(actor_critic.ActorCriticHyperparams):
    """The floats of SPO, all traced."""

    clip_eps: Positive = 0.2
    """ε: the ratio of new to old probability is drawn to 1 ± ε."""


class SPOState(NamedTuple):
    """Parameters and Adam's moments."""

    params: po.ActorCriticParams
    optimizer: optax.OptState


def spo(
    policy: po.Policy,
    critic: po.Critic,
    *,
    num_epochs: int = 4,
    num_minibatches: int = 4,
    hyperparams: SPOHyperparams | None = None,
) -> po.Algorithm:
    """Build SPO.

    Args:
        policy, critic: networks that share no parameters, with or without memory.
        num_epochs: passes over each rollout.
        num_minibatches: per pass; divides num_envs × num_steps, or num_envs if there is memory.
        hyperparams: the defaults; every field is traced.
    """
    hyperparams = SPOHyperparams() if hyperparams is None else hyperparams
    check_hyperparams(hyperparams)
    actor = actor_critic.actor(policy, critic)

    def init(key: Array, hyperparams: SPOHyperparams) -> SPOState:
        params = actor_critic.init_params(key, policy, critic)
        return SPOState(params, optimizers.clipped_adam(hyperparams, 0.0).init(params))

    def update(
        key: Array, hyperparams: SPOHyperparams, state: SPOState, rollout: po.Rollout
    ) -> tuple[SPOState, dict[str, Array]]:
        samples = actor_critic.make_samples(critic, state.params, rollout, hyperparams)
        optimizer = optimizers.clipped_adam(hyperparams, rollout.progress)
        loss = functools.partial(
            actor_critic.loss,
            hyperparams=hyperparams,
            policy=policy,
            critic=critic,
            objective=functools.partial(objective, clip_eps=hyperparams.clip_eps),
        )

        def step(state: SPOState, batch: actor_critic.Samples) -> tuple[SPOState, dict[str, Array]]:
            batch = actor_critic.normalize(units.in_time(batch, actor.memoryless))
            *state, info = actor_critic.step(optimizer, *state, loss, batch)
            return SPOState(*state), info

        state, infos = minibatch.epochs(
            key,
            step,
            state,
            units.of_rollout(samples, actor.memoryless),
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
        )
        return state, jax.tree.map(jnp.mean, infos)

    return po.Algorithm(actor, hyperparams, init, update, critic=critic)


def objective(
    distribution: po.Distribution, samples: actor_critic.Samples, *, clip_eps: Array | float
) -> tuple[Array, dict[str, Array]]:
    """ρA − |A|/(2ε)·(ρ − 1)² of samples `[B]`, and the mean KL(π_old ‖ π_θ) (nats)."""
    ratio = jnp.exp(distribution.log_prob(samples.transition.action) - samples.log_prob)
    info = {"kl": samples.transition.behaviour.kl(distribution)}
    return penalised(ratio, samples.advantage, clip_eps), info


def penalised(ratio: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """ρA − |A|/(2ε)·(ρ − 1)²."""
    penalty = jnp.abs(advantage) / (2.0 * clip_eps) * jnp.square(ratio - 1.0)
    return ratio * advantage - penalty


@dataclass(frozen=True, kw_only=True)
class SPO(po.AlgorithmConfig):
    """Simple policy optimization: PPO with a quadratic penalty (Xie et al. 2024)."""

    name = "spo"
    factory = staticmethod(spo)

    num_envs: int = 4
    """Environments that each seed steps in parallel."""
    num_steps: int = 128
    """Steps of each environment per update."""
    num_epochs: int = 4
    """Passes over each rollout."""
    num_minibatches: int = 4
    """Minibatches per pass; divides num_envs × num_steps."""
    network: po.NetworkConfig = field(default_factory=po.NetworkConfig)
    hyperparams: SPOHyperparams = field(default_factory=SPOHyperparams)

    def check(self) -> None:
        """Raise `ValueError` for a value that no environment allows."""
        super().check()
        check_count("num_epochs", self.num_epochs)
        check_count("num_minibatches", self.num_minibatches)
        minibatch.check_divisible(self.num_envs * self.num_steps, self.num_minibatches)
