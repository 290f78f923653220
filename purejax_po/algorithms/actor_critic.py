"""What the actor-critic algorithms share: acting, estimates of a rollout, fitting the critic."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purejax_po import minibatch
from purejax_po.advantages import gae, weighted_mean
from purejax_po.types import ActorCriticParams, Array, Critic, Key, Params, Policy, Transition


class Estimates(NamedTuple):
    """What a critic says of a rollout, `[T, N]`."""

    value: Array
    advantage: Array
    value_target: Array
    """The λ-return Â + V, which the critic is regressed on."""


def init_params(key: Key, policy: Policy, critic: Critic) -> ActorCriticParams:
    """Draw both networks' parameters."""
    policy_key, critic_key = jax.random.split(key)
    return ActorCriticParams(policy.init(policy_key), critic.init(critic_key))


def acting(policy: Policy) -> Policy:
    """A policy that takes actor-critic parameters."""
    return policy._replace(step=lambda params, *inputs: policy.step(params.policy, *inputs))


def estimate(
    critic: Critic,
    params: Params,
    transition: Transition,
    discount: Array | float,
    gae_lambda: Array | float,
) -> Estimates:
    """Values, generalised advantages and value targets of a rollout under a critic as it stands."""
    value, next_value = (
        critic.unroll(params, (), obs, transition.start)
        for obs in (transition.obs, transition.next_obs)
    )
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
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(fitted)]))
    before = params, optimizer_state
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), fitted, before)
    return *kept, jnp.mean(losses)
