"""What the algorithms share of a critic: values of a rollout, advantages, and its regression."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from purejax_po import minibatch, observations
from purejax_po._xla import flat, switch
from purejax_po._xla.finite import all_finite
from purejax_po.advantages import Evidence, gae, weighted_mean
from purejax_po.algorithms import units
from purejax_po.checks import WholeNumber
from purejax_po.types import (
    Array,
    Carry,
    Critic,
    Hyperparams,
    Key,
    Observation,
    Params,
    Transition,
)


class Estimates(NamedTuple):
    """What a critic says of a rollout, `[T, N]`."""

    value: Array
    advantage: Array
    value_target: Array
    """The λ-return Â + V, which the critic is regressed on."""


@dataclass(frozen=True, kw_only=True)
class CriticOptions(minibatch.ShuffleOptions):
    """What shapes a critic's fit to a rollout."""

    critic_epochs: WholeNumber = 10
    """Passes of the critic's regression over each rollout."""
    critic_minibatch_size: WholeNumber = 128
    """Samples per step of that regression; divides num_envs × num_steps. With memory, a multiple of
    num_steps."""

    def check_batch(self, num_envs: int, num_steps: int, memoryless: bool = True) -> None:
        """Raise `ValueError` unless the minibatches split a rollout's batch evenly."""
        size, batch = self.critic_minibatch_size, num_envs * num_steps
        if batch % size:
            raise ValueError(
                f"critic_minibatch_size must divide the batch of {batch} samples, got {size}"
            )
        if not memoryless and size % num_steps:
            raise ValueError(
                f"critic_minibatch_size must be a multiple of num_steps = {num_steps}, since a "
                f"critic with memory learns from whole sequences, got {size}"
            )


class Targets(NamedTuple):
    """What a critic is fitted to, `[T, N]`."""

    transition: Transition
    value_target: Array
    carry: Carry
    """The critic's before the first step, `[N, ...]`; `()` without memory."""


def values(
    critic: Critic, params: Params, carry: Carry, transition: Transition
) -> tuple[Array, Array]:
    """V(obs_t) and V(next_obs_t), `[T, N]`; the latter has no meaning where an episode terminated.

    With memory, V(next_obs_t) remembers all up to obs_t.
    """
    if critic.memoryless:
        if switch.on().next_values and switch.on().joined_values:
            obs = jnp.concatenate([transition.obs, transition.next_obs[-1:]])
            start = jnp.concatenate([transition.start, jnp.zeros_like(transition.start[:1])])
            value = critic.unroll(params, (), obs, start)
            return value[:-1], successor_values(critic, params, transition, value[:-1], value[-1])
        value = critic.unroll(params, (), transition.obs, transition.start)
        return value, successor_values(critic, params, transition, value)

    def step(
        carry: Carry, seen: tuple[Observation, Observation, Array]
    ) -> tuple[Carry, tuple[Array, Array]]:
        obs, next_obs, start = seen
        carry, value = critic.step(params, carry, obs, start)
        _, next_value = critic.step(params, carry, next_obs, jnp.zeros_like(start))
        return carry, (value, next_value)

    seen = transition.obs, transition.next_obs, transition.start
    return jax.lax.scan(step, carry, seen)[1]


def successor_values(
    critic: Critic,
    params: Params,
    transition: Transition,
    value: Array,
    last: Array | None = None,
) -> Array:
    """V(next_obs_t) of a critic without memory, where no episode terminated.

    It is V(obs_{t+1}), which is known, except at the last step and where next_obs_t differs:
    where an episode was truncated. Such steps are rare, and are judged one after the other, of all
    environments at once.

    Args:
        value: V(obs_t), `[T, N]`.
        last: V(next_obs) at the last step, `[N]`, if it is known.
    """
    if not switch.on().next_values:
        return critic.unroll(params, (), transition.next_obs, jnp.zeros_like(transition.start))
    env = jnp.arange(value.shape[1])

    def judge(obs: Observation) -> Array:
        return critic.unroll(params, (), obs, jnp.zeros(env.shape, bool))

    def some_left(state: tuple[Array, Array]) -> Array:
        return jnp.any(state[1])

    def one_of_each(state: tuple[Array, Array]) -> tuple[Array, Array]:
        next_value, left = state
        t = jnp.argmax(left, axis=0)
        here = left[t, env]
        next_obs = jax.tree.map(lambda x: x[t, env], transition.next_obs)
        found = jnp.where(here, judge(next_obs), next_value[t, env])
        return next_value.at[t, env].set(found), left.at[t, env].set(False)

    if last is None:
        last = judge(jax.tree.map(lambda x: x[-1], transition.next_obs))
    next_value = jnp.concatenate([value[1:], last[None]])
    differ = observations.differ_in_time(transition.next_obs, transition.obs)
    left = jnp.concatenate([differ, jnp.zeros_like(differ, shape=(1, len(env)))])
    left &= ~transition.terminated
    return jax.lax.while_loop(some_left, one_of_each, (next_value, left))[0]


def evidence(
    transition: Transition, value: Array, next_value: Array, hyperparams: Hyperparams
) -> Evidence:
    """What an estimate of the advantage may look at, `[T, N]`.

    Args:
        hyperparams: with `discount` and `gae_lambda`.
    """
    return Evidence(
        transition.reward,
        value,
        next_value,
        transition.terminated,
        transition.truncated,
        hyperparams.discount,
        hyperparams.gae_lambda,
    )


def judge(
    critic: Critic,
    params: Params,
    transition: Transition,
    hyperparams: Hyperparams,
    carry: Carry = (),
) -> Evidence:
    """What an estimate of the advantage may look at under a critic as it stands, `[T, N]`."""
    value, next_value = values(critic, params, carry, transition)
    return evidence(transition, value, next_value, hyperparams)


def estimate(
    critic: Critic,
    params: Params,
    transition: Transition,
    hyperparams: Hyperparams,
    carry: Carry = (),
) -> Estimates:
    """Values, generalised advantages and value targets of a rollout under a critic as it stands."""
    judged = judge(critic, params, transition, hyperparams, carry)
    advantage = gae(*judged)
    return Estimates(judged.value, advantage, advantage + judged.value)


def fit(
    key: Key,
    critic: Critic,
    params: Params,
    optimizer: optax.GradientTransformation,
    optimizer_state: optax.OptState,
    targets: Targets,
    options: CriticOptions,
) -> tuple[Params, optax.OptState, Array]:
    """Regress a critic on value targets by epochs of minibatches of squared error.

    Should anything become non-finite, parameters and optimiser state stay what they were. With
    memory a minibatch holds whole environments' sequences.

    Returns:
        Parameters, optimiser state, and the mean loss ½(V − V_target)² over all minibatches.

    Raises:
        ValueError: unless the minibatches split the batch evenly.
    """

    def loss(params: Params, batch: Targets) -> Array:
        transition, target, carry = units.in_time(batch, critic.memoryless)
        value = critic.unroll(params, carry, transition.obs, transition.start)
        return 0.5 * weighted_mean(jnp.square(value - target), transition.weight)

    def step(
        carry: tuple[Params, optax.OptState], batch: Targets
    ) -> tuple[tuple[Params, optax.OptState], Array]:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = inner.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    num_steps, num_envs = targets.value_target.shape
    options.check_batch(num_envs, num_steps, critic.memoryless)
    needed = targets.transition._replace(action=None, next_obs=None, behaviour=None)
    inner, moments, join = flat.in_parts(optimizer, params, optimizer_state)
    (params_fitted, moments), losses = minibatch.epochs(
        key,
        step,
        (params, moments),
        units.of_rollout(targets._replace(transition=needed), critic.memoryless),
        num_epochs=options.critic_epochs,
        num_minibatches=num_steps * num_envs // options.critic_minibatch_size,
        shuffle=options.shuffle,
    )
    fitted = params_fitted, join(moments)
    finite, before = all_finite(fitted), (params, optimizer_state)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), fitted, before)
    return *kept, jnp.mean(losses)
