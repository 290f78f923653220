"""What the actor-critic algorithms share: acting, estimates of a rollout, losses, the critic."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from purejax_po import advantages
from purejax_po._xla import flat
from purejax_po.actor import acting
from purejax_po.advantages import weighted_mean
from purejax_po.algorithms import critics
from purejax_po.checks import KnownNames, NonNegative, Positive, UnitInterval
from purejax_po.types import (
    Actor,
    ActorCriticParams,
    Array,
    Carry,
    Critic,
    Distribution,
    Info,
    Key,
    Observation,
    Params,
    Policy,
    Prompt,
    Rollout,
    Transition,
)


@flax.struct.dataclass
class ActorCriticHyperparams(KnownNames):
    """The floats of one loss for both networks, minimised by Adam."""

    learning_rate: Positive = 2.5e-4
    """Adam's step size at the start of training."""
    learning_rate_decay: UnitInterval = 1.0
    """Fraction of the learning rate lost, linearly, by the end of training (0: constant)."""
    discount: UnitInterval = 0.99
    """γ, per step."""
    gae_lambda: UnitInterval = 0.95
    """λ of generalised advantage estimation."""
    entropy_coef: NonNegative = 0.01
    """Weight of the entropy bonus (nats)."""
    value_coef: NonNegative = 0.5
    """Weight of the value loss."""
    max_grad_norm: Positive = 0.5
    """The gradient is scaled down to this global norm."""
    adam_eps: Positive = 1e-5
    """Adam's ε."""


class Samples(NamedTuple):
    """What a gradient step sees: samples `[B]`, or whole sequences `[T, B]` if there is memory."""

    transition: Transition
    log_prob: Array
    """Of the actions when they were drawn."""
    value: Array
    advantage: Array
    value_target: Array
    carry: tuple[Carry, Carry]
    """The policy's and the critic's before the first step, `[B, ...]`; `()` without memory."""


Objective = Callable[[Distribution, Samples], tuple[Array, Info]]
"""`(π_θ, samples) → (what is maximised, diagnostics)`, one number for each sample."""
Loss = Callable[[ActorCriticParams, Samples], tuple[Array, Info]]
"""`(params, samples) → (what is minimised, diagnostics)`."""


def init_params(key: Key, policy: Policy, critic: Critic) -> ActorCriticParams:
    """Draw both networks' parameters."""
    policy_key, critic_key = jax.random.split(key)
    return ActorCriticParams(policy.init(policy_key), critic.init(critic_key))


def actor(policy: Policy, critic: Critic) -> Actor:
    """What acts with actor-critic parameters.

    If there is memory it carries that of both networks, `(policy's, critic's)`: the critic has to
    see what the policy saw to judge the steps that follow.
    """
    if policy.memoryless and critic.memoryless:
        return acting(policy, lambda params: params.policy)

    def initial_carry(num_envs: int) -> Carry:
        return policy.initial_carry(num_envs), critic.initial_carry(num_envs)

    def act(
        params: ActorCriticParams, carry: Carry, obs: Observation, start: Array
    ) -> tuple[Carry, Distribution]:
        policy_carry, distribution = policy.step(params.policy, carry[0], obs, start)
        critic_carry, _ = critic.step(critic.params_of(params), carry[1], obs, start)
        return (policy_carry, critic_carry), distribution

    prompt = policy.prompt
    if prompt is None:
        return Actor(initial_carry, act, memoryless=False)

    def read(params: ActorCriticParams, obs: Observation, group_size: int) -> Carry:
        carry = prompt.read(params.policy, obs, group_size)
        return carry, critic.initial_carry(jax.tree.leaves(obs)[0].shape[0])

    return Actor(initial_carry, act, False, Prompt(read, actor(prompt.go_on, critic)))


def make_samples(
    critic: Critic,
    params: ActorCriticParams,
    rollout: Rollout,
    hyperparams: ActorCriticHyperparams,
) -> Samples:
    """A rollout, `[T, N]`, with log-probabilities, values and advantages."""
    transition = rollout.transition
    carry = rollout.carry or ((), ())
    own = critic.params_of(params)
    estimates = critics.estimate(critic, own, transition, hyperparams, carry[1])
    log_prob = transition.behaviour.log_prob(transition.action)
    return Samples(transition, log_prob, *estimates, carry)


def explained_variance(samples: Samples) -> Array:
    """Of the value targets, by the values: 1 is perfect, 0 no better than a constant."""
    weight = samples.transition.weight
    return advantages.explained_variance(samples.value, samples.value_target, weight)


def outputs(
    policy: Policy, critic: Critic, params: ActorCriticParams, samples: Samples
) -> tuple[Distribution, Array]:
    """π_θ(·|s) and V(s) of the samples."""
    obs, start = samples.transition.obs, samples.transition.start
    distribution = policy.unroll(params.policy, samples.carry[0], obs, start)
    return distribution, critic.unroll(critic.params_of(params), samples.carry[1], obs, start)


def loss(
    params: ActorCriticParams,
    samples: Samples,
    *,
    hyperparams: ActorCriticHyperparams,
    policy: Policy,
    critic: Critic,
    objective: Objective,
    value_clip_eps: Array | float | None = None,
) -> tuple[Array, Info]:
    """−mean objective + c_v·mean (V − V_target)²/2 − c_H·mean H, and its parts.

    With `value_clip_eps` = ε the squared error is the larger one of V's and of V's clipped to
    V_old ± ε (Engstrom et al. 2020, Implementation Matters in Deep Policy Gradients, section 3).
    """
    weight = samples.transition.weight
    distribution, value = outputs(policy, critic, params, samples)
    maximised, diagnostics = objective(distribution, samples)
    _check_samples({"what is maximised": maximised, **diagnostics}, weight)
    error = jnp.square(value - samples.value_target)
    if value_clip_eps is not None:
        change = jnp.clip(value - samples.value, -value_clip_eps, value_clip_eps)
        error = jnp.maximum(error, jnp.square(samples.value + change - samples.value_target))
    info = {
        "policy_loss": -weighted_mean(maximised, weight),
        "value_loss": 0.5 * weighted_mean(error, weight),
        "entropy": weighted_mean(distribution.entropy(), weight),
        **{name: weighted_mean(x, weight) for name, x in diagnostics.items()},
    }
    total = (
        info["policy_loss"]
        + hyperparams.value_coef * info["value_loss"]
        - hyperparams.entropy_coef * info["entropy"]
    )
    return total, info


def _check_samples(outputs: Info, weight: Array) -> None:
    """Raise `ValueError` unless an objective's outputs have one number for each sample."""
    for name, x in outputs.items():
        if jnp.shape(x) != weight.shape:
            raise ValueError(
                f"objective must return one number for each sample, {list(weight.shape)}, got "
                f"{list(jnp.shape(x))} for {name}"
            )


def step(
    optimizer: optax.GradientTransformation,
    params: ActorCriticParams,
    moments: optax.OptState,
    loss: Loss,
    samples: Samples,
) -> tuple[ActorCriticParams, optax.OptState, Info]:
    """One step of the optimiser down `loss`, whose info gains `grad_norm`."""
    gradient, info = jax.grad(loss, has_aux=True)(params, samples)
    updates, moments = optimizer.update(gradient, moments, params)
    new_params: Any = optax.apply_updates(params, updates)
    return new_params, moments, {**info, "grad_norm": flat.norm(gradient)}


def mean_kl(policy: Policy, params: Params, samples: Samples) -> Array:
    """Mean KL(π_old ‖ π_θ) over a rollout `[T, N]` (nats)."""
    transition = samples.transition
    new = policy.unroll(params, samples.carry[0], transition.obs, transition.start)
    return weighted_mean(transition.behaviour.kl(new), transition.weight)


def normalize(samples: Samples) -> Samples:
    """Samples with advantages of mean 0 and standard deviation 1."""
    weight = samples.transition.weight
    return samples._replace(advantage=advantages.normalize(samples.advantage, weight))
