"""V-MPO: maximum a posteriori policy optimisation with a learned state value, on policy.

Of each minibatch the half D̃ of the samples with the highest advantages counts. Minimised together,
with sg[·] for what no gradient flows through:

    L_π = −Σ_D̃ ψ log π_θ(a|s),   ψ = sg[exp(A/η) / Σ_D̃ exp(A/η)]
    L_η = η ε_η + η log(mean_D̃ exp(A/η))
    L_α = mean[α (ε_α − sg[KL(π_old ‖ π_θ)]) + sg[α] KL(π_old ‖ π_θ)]
    L_V = c_v · mean (V − V_target)²/2

The temperature η and the multiplier α are learned by the same Adam and kept positive. Differs from
the paper: value targets are λ-returns, the KL of a Gaussian has one limit for mean and covariance,
and advantages are normalised over each minibatch in place of PopArt.

    purejax-po train vmpo:VMPO --env CartPole-v1 --seeds 16

Source: Song et al. 2020, V-MPO: On-Policy Maximum a Posteriori Policy Optimization for Discrete and
Continuous Control, arXiv:1909.12238.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

import purejax_po as po
from purejax_po import minibatch
from purejax_po.advantages import weighted_mean
from purejax_po.algorithms import actor_critic, optimizers, units
from purejax_po.checks import Positive, UnitInterval, check_count, check_hyperparams
from purejax_po.types import Array

SMALLEST = 1e-8
"""Of η and α."""


@flax.struct.dataclass
class VMPOHyperparams:
    """The floats of V-MPO, all traced."""

    learning_rate: Positive = 1e-3
    """Adam's step size at the start of training, also of η and α."""
    learning_rate_decay: UnitInterval = 1.0
    """Fraction of the learning rate lost, linearly, by the end of training (0: constant)."""
    discount: UnitInterval = 0.99
    """γ, per step."""
    gae_lambda: UnitInterval = 0.95
    """λ of generalised advantage estimation."""
    value_coef: Positive = 0.5
    """c_v, weight of the value loss."""
    temperature: Positive = 1.0
    """η at the start."""
    temperature_limit: Positive = 0.1
    """ε_η: how far the weights may be from uniform (nats)."""
    kl_multiplier: Positive = 5.0
    """α at the start."""
    kl_limit: Positive = 0.01
    """ε_α: how far a policy may be from the one that acted (nats)."""
    max_grad_norm: Positive = 0.5
    """The gradient is scaled down to this global norm."""
    adam_eps: Positive = 1e-5
    """Adam's ε."""


class Duals(NamedTuple):
    """What the two limits are enforced by."""

    temperature: Array
    """η."""
    kl_multiplier: Array
    """α."""


class VMPOState(NamedTuple):
    """Parameters, duals, and Adam's moments of both."""

    params: po.ActorCriticParams
    duals: Duals
    optimizer: optax.OptState


def vmpo(
    policy: po.Policy,
    critic: po.Critic,
    *,
    num_epochs: int = 4,
    num_minibatches: int = 4,
    hyperparams: VMPOHyperparams | None = None,
) -> po.Algorithm:
    """Build V-MPO.

    Args:
        policy, critic: networks that share no parameters, with or without memory.
        num_epochs: passes over each rollout, which the old policy stays for.
        num_minibatches: per pass; divides num_envs × num_steps, or num_envs if there is memory.
        hyperparams: the defaults; every field is traced.
    """
    hyperparams = VMPOHyperparams() if hyperparams is None else hyperparams
    check_hyperparams(hyperparams)
    actor = actor_critic.actor(policy, critic)

    def init(key: Array, hyperparams: VMPOHyperparams) -> VMPOState:
        params = actor_critic.init_params(key, policy, critic)
        first = (hyperparams.temperature, hyperparams.kl_multiplier)
        duals = Duals(*(jnp.asarray(x, jnp.result_type(float)) for x in first))
        optimizer = optimizers.clipped_adam(hyperparams, 0.0)
        return VMPOState(params, duals, optimizer.init((params, duals)))

    def loss(
        learned: tuple[po.ActorCriticParams, Duals],
        samples: actor_critic.Samples,
        hyperparams: VMPOHyperparams,
    ) -> tuple[Array, dict[str, Array]]:
        params, duals = learned
        distribution, value = actor_critic.outputs(policy, critic, params, samples)
        weight = samples.transition.weight
        kl = weighted_mean(samples.transition.behaviour.kl(distribution), weight)
        log_prob = distribution.log_prob(samples.transition.action)
        top = top_half(samples.advantage, weight)
        error = jnp.square(value - samples.value_target)
        info = {
            "policy_loss": -jnp.sum(weights(samples.advantage, top, duals.temperature) * log_prob),
            "temperature_loss": temperature_loss(
                samples.advantage, top, duals.temperature, hyperparams.temperature_limit
            ),
            "kl_loss": kl_loss(kl, duals.kl_multiplier, hyperparams.kl_limit),
            "value_loss": 0.5 * weighted_mean(error, weight),
        }
        total = sum(info.values()) + (hyperparams.value_coef - 1.0) * info["value_loss"]
        entropy = weighted_mean(distribution.entropy(), weight)
        return total, {**info, **duals._asdict(), "kl": kl, "entropy": entropy}

    def update(
        key: Array, hyperparams: VMPOHyperparams, state: VMPOState, rollout: po.Rollout
    ) -> tuple[VMPOState, dict[str, Array]]:
        samples = actor_critic.make_samples(critic, state.params, rollout, hyperparams)
        optimizer = optimizers.clipped_adam(hyperparams, rollout.progress)

        def step(
            state: VMPOState, batch: actor_critic.Samples
        ) -> tuple[VMPOState, dict[str, Array]]:
            batch = actor_critic.normalize(units.in_time(batch, actor.memoryless))
            learned = state.params, state.duals
            gradient, info = jax.grad(loss, has_aux=True)(learned, batch, hyperparams)
            changes, moments = optimizer.update(gradient, state.optimizer, learned)
            params, duals = optax.apply_updates(learned, changes)
            duals = Duals(*(jnp.maximum(x, SMALLEST) for x in duals))
            return VMPOState(params, duals, moments), info

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


def top_half(advantage: Array, weight: Array) -> Array:
    """Tell which samples are D̃: those of at least the median advantage, but no padding."""
    real = jnp.where(weight > 0, advantage, jnp.nan)
    return (advantage >= jnp.nanmedian(real)) & (weight > 0)


def weights(advantage: Array, top: Array, temperature: Array) -> Array:
    """ψ, which sums to 1 over the top half and is 0 elsewhere; no gradient flows through it."""
    scaled = jnp.where(top, advantage / temperature, -jnp.inf)
    return jax.lax.stop_gradient(jax.nn.softmax(scaled.ravel()).reshape(scaled.shape))


def temperature_loss(
    advantage: Array, top: Array, temperature: Array, limit: Array | float
) -> Array:
    """η ε_η + η log(mean_D̃ exp(A/η)), whose gradient in η is ε_η − KL(ψ ‖ uniform on D̃)."""
    total = jax.nn.logsumexp(advantage / temperature, where=top)
    return temperature * (limit + total - jnp.log(jnp.sum(top)))


def kl_loss(kl: Array, multiplier: Array, limit: Array | float) -> Array:
    """α (ε_α − sg[KL]) + sg[α] KL: α grows while the KL is above its limit."""
    stop = jax.lax.stop_gradient
    return multiplier * (limit - stop(kl)) + stop(multiplier) * kl


@dataclass(frozen=True, kw_only=True)
class VMPO(po.AlgorithmConfig):
    """V-MPO: the better half of the samples, weighted by their advantage (Song et al. 2020)."""

    name = "vmpo"
    factory = staticmethod(vmpo)

    num_envs: int = 4
    """Environments that each seed steps in parallel."""
    num_steps: int = 128
    """Steps of each environment per update."""
    num_epochs: int = 4
    """Passes over each rollout."""
    num_minibatches: int = 4
    """Minibatches per pass; divides num_envs × num_steps."""
    network: po.NetworkConfig = field(default_factory=po.NetworkConfig)
    hyperparams: VMPOHyperparams = field(default_factory=VMPOHyperparams)

    def check(self) -> None:
        """Raise `ValueError` for a value that no environment allows."""
        super().check()
        check_count("num_epochs", self.num_epochs)
        check_count("num_minibatches", self.num_minibatches)
        minibatch.check_divisible(self.num_envs * self.num_steps, self.num_minibatches)
