"""What the actor-critic algorithms share: acting, estimates of a rollout, losses, the critic."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from purejax_po import advantages, minibatch
from purejax_po.advantages import gae, weighted_mean
from purejax_po.algorithms import optimizers
from purejax_po.types import (
    ActorCriticParams,
    Array,
    Carry,
    Critic,
    Info,
    Key,
    NonNegative,
    Params,
    Policy,
    Positive,
    Rollout,
    Transition,
    UnitInterval,
    all_finite,
)


@flax.struct.dataclass
class ActorCriticHyperparams:
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


class Estimates(NamedTuple):
    """What a critic says of a rollout, `[T, N]`."""

    value: Array
    advantage: Array
    value_target: Array
    """The λ-return Â + V, which the critic is regressed on."""


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


Objective = Callable[[Any, Samples], tuple[Array, Info]]
"""`(π_θ, samples) → (what is maximised, diagnostics)`, each `[B]`."""


def init_params(key: Key, policy: Policy, critic: Critic) -> ActorCriticParams:
    """Draw both networks' parameters."""
    policy_key, critic_key = jax.random.split(key)
    return ActorCriticParams(policy.init(policy_key), critic.init(critic_key))


def acting(policy: Policy, critic: Critic) -> Policy:
    """A policy that takes actor-critic parameters.

    If there is memory it carries that of both networks, `(policy's, critic's)`: the critic has to
    see what the policy saw to judge the steps that follow.
    """
    if policy.memoryless and critic.memoryless:
        return policy._replace(step=lambda params, *inputs: policy.step(params.policy, *inputs))

    def initial_carry(num_envs: int) -> Carry:
        return policy.initial_carry(num_envs), critic.initial_carry(num_envs)

    def step(params: ActorCriticParams, carry: Carry, obs: Array, start: Array) -> Any:
        policy_carry, distribution = policy.step(params.policy, carry[0], obs, start)
        critic_carry, _ = critic.step(params.critic, carry[1], obs, start)
        return (policy_carry, critic_carry), distribution

    return policy._replace(initial_carry=initial_carry, step=step, memoryless=False)


def values(
    critic: Critic, params: Params, carry: Carry, transition: Transition
) -> tuple[Array, Array]:
    """V(obs_t) and V(next_obs_t), `[T, N]`; the latter has no meaning where an episode terminated.

    With memory, V(next_obs_t) remembers all up to obs_t.
    """
    if critic.memoryless:
        value = critic.unroll(params, (), transition.obs, transition.start)
        return value, successor_values(critic, params, transition, value)

    def step(carry: Carry, seen: tuple[Array, Array, Array]) -> Any:
        obs, next_obs, start = seen
        carry, value = critic.step(params, carry, obs, start)
        _, next_value = critic.step(params, carry, next_obs, jnp.zeros_like(start))
        return carry, (value, next_value)

    seen = transition.obs, transition.next_obs, transition.start
    return jax.lax.scan(step, carry, seen)[1]


def successor_values(critic: Critic, params: Params, transition: Transition, value: Array) -> Array:
    """V(next_obs_t) of a critic without memory, where no episode terminated.

    It is V(obs_{t+1}), which is known, but at the last step and where next_obs_t is another one:
    where an episode was truncated. Such steps are rare, and are judged one after the other, of all
    environments at once.

    Args:
        value: V(obs_t), `[T, N]`.
    """
    env = jnp.arange(value.shape[1])

    def judge(obs: Array) -> Array:
        return critic.unroll(params, (), obs, jnp.zeros(env.shape, bool))

    def some_left(state: tuple[Array, Array]) -> Array:
        return jnp.any(state[1])

    def one_of_each(state: tuple[Array, Array]) -> tuple[Array, Array]:
        next_value, left = state
        t = jnp.argmax(left, axis=0)
        found = jnp.where(left[t, env], judge(transition.next_obs[t, env]), next_value[t, env])
        return next_value.at[t, env].set(found), left.at[t, env].set(False)

    next_value = jnp.concatenate([value[1:], judge(transition.next_obs[-1])[None]])
    axes = tuple(range(2, transition.obs.ndim))
    differ = jnp.any(transition.next_obs[:-1] != transition.obs[1:], axis=axes)
    left = jnp.concatenate([differ, jnp.zeros_like(differ, shape=(1, len(env)))])
    left &= ~transition.terminated
    return jax.lax.while_loop(some_left, one_of_each, (next_value, left))[0]


def estimate(
    critic: Critic,
    params: Params,
    transition: Transition,
    discount: Array | float,
    gae_lambda: Array | float,
    carry: Carry = (),
) -> Estimates:
    """Values, generalised advantages and value targets of a rollout under a critic as it stands."""
    value, next_value = values(critic, params, carry, transition)
    advantage = gae(
        transition.reward,
        value,
        next_value,
        transition.terminated,
        transition.truncated,
        discount,
        gae_lambda,
    )
    return Estimates(value, advantage, advantage + value)


def make_samples(
    critic: Critic, params: Params, rollout: Rollout, hyperparams: ActorCriticHyperparams
) -> Samples:
    """A rollout, `[T, N]`, with what its actions' and its critic's parameters say of it."""
    transition = rollout.transition
    carry = rollout.carry or ((), ())
    estimates = estimate(
        critic, params, transition, hyperparams.discount, hyperparams.gae_lambda, carry[1]
    )
    log_prob = transition.behaviour.log_prob(transition.action)
    return Samples(transition, log_prob, *estimates, carry)


def units(samples: Samples, memoryless: bool) -> Samples:
    """What may be shuffled of a rollout: its samples `[T·N]`; with memory, sequences `[N, T]`."""
    if memoryless:
        return minibatch.flatten_time(samples)
    swapped = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), samples._replace(carry=()))
    return swapped._replace(carry=samples.carry)


def in_time(batch: Samples, memoryless: bool) -> Samples:
    """Undo what `units` did to the axes of a batch of its units: `[B, T]` become `[T, B]`."""
    return batch if memoryless else units(batch, memoryless)


def explained_variance(samples: Samples) -> Array:
    """Of the value targets, by the values: 1 is perfect, 0 no better than a constant."""
    weight = samples.transition.weight
    return advantages.explained_variance(samples.value, samples.value_target, weight)


def outputs(
    policy: Policy, critic: Critic, params: ActorCriticParams, samples: Samples
) -> tuple[Any, Array]:
    """π_θ(·|s) and V(s) of the samples."""
    obs, start = samples.transition.obs, samples.transition.start
    distribution = policy.unroll(params.policy, samples.carry[0], obs, start)
    return distribution, critic.unroll(params.critic, samples.carry[1], obs, start)


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


def step(
    optimizer: optax.GradientTransformation,
    params: ActorCriticParams,
    moments: optax.OptState,
    loss: Callable[[ActorCriticParams, Samples], tuple[Array, Info]],
    samples: Samples,
) -> tuple[ActorCriticParams, optax.OptState, Info]:
    """One step of the optimiser down `loss`, whose info gains `grad_norm`."""
    gradient, info = jax.grad(loss, has_aux=True)(params, samples)
    updates, moments = optimizer.update(gradient, moments, params)
    new_params: Any = optax.apply_updates(params, updates)
    return new_params, moments, {**info, "grad_norm": optimizers.norm(gradient)}


def mean_kl(policy: Policy, params: Params, samples: Samples) -> Array:
    """Mean KL(π_old ‖ π_θ) over a rollout `[T, N]` (nats)."""
    transition = samples.transition
    new = policy.unroll(params, samples.carry[0], transition.obs, transition.start)
    return weighted_mean(transition.behaviour.kl(new), transition.weight)


def normalize(samples: Samples) -> Samples:
    """Samples with advantages of mean 0 and standard deviation 1."""
    weight = samples.transition.weight
    return samples._replace(advantage=advantages.normalize(samples.advantage, weight))


def fit(
    key: Key,
    critic: Critic,
    params: Params,
    optimizer: optax.GradientTransformation,
    optimizer_state: Any,
    transition: Transition,
    value_target: Array,
    *,
    num_epochs: int,
    minibatch_size: int,
) -> tuple[Params, Any, Array]:
    """Regress a critic on value targets by epochs of minibatches of squared error.

    Should anything become non-finite, parameters and optimiser state stay what they were.

    Returns:
        Parameters, optimiser state, and the mean loss ½(V − V_target)² over all minibatches.
    """

    def loss(params: Params, batch: tuple[Transition, Array]) -> Array:
        transition, target = batch
        value = critic.unroll(params, (), transition.obs, transition.start)
        return 0.5 * weighted_mean(jnp.square(value - target), transition.weight)

    def step(carry: Any, batch: tuple[Transition, Array]) -> tuple[Any, Array]:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    size = value_target.size
    if size % minibatch_size:
        raise ValueError(
            f"critic_minibatch_size must divide the batch of {size} samples, got {minibatch_size}"
        )
    needed = transition._replace(action=None, next_obs=None, behaviour=None)
    fitted, losses = minibatch.epochs(
        key,
        step,
        (params, optimizer_state),
        minibatch.flatten_time((needed, value_target)),
        num_epochs=num_epochs,
        num_minibatches=size // minibatch_size,
    )
    finite, before = all_finite(fitted), (params, optimizer_state)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), fitted, before)
    return *kept, jnp.mean(losses)
