"""Policies from demonstrations, and algorithms that start from them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from purejax_po import minibatch
from purejax_po.distributions import TanhGaussian
from purejax_po.types import (
    Algorithm,
    Array,
    EnvParams,
    Key,
    Params,
    Policy,
    Range,
    check_count,
    check_number,
)


class Clone(NamedTuple):
    """What behaviour cloning returns."""

    params: Params
    """The policy's parameters."""
    loss: Array
    """−mean log π(a|s) of each epoch, in nats, `[num_epochs]`."""


def behaviour_clone(
    key: Key,
    env: Any,
    env_params: EnvParams,
    policy: Policy,
    obs: Any,
    action: Any,
    *,
    num_epochs: int = 100,
    num_minibatches: int = 1,
    learning_rate: Array | float = 1e-3,
) -> Clone:
    """Fit a policy to demonstrations: maximise mean log π(a|s) by Adam, from a fresh start.

    Compiled; to clone for many seeds map it over keys with `jax.vmap`.

    Args:
        key: decides the first parameters and the order of the samples.
        env, env_params: a gymnax environment; its spaces say what demonstrations may hold.
        policy: without memory, e.g. the first of `mlp_actor_critic`.
        obs: observations `[B, *obs_shape]`.
        action: what the expert did, `[B, *action_shape]`.
        num_epochs: passes over the demonstrations.
        num_minibatches: minibatches per pass; divides B.
        learning_rate: Adam's step size, may be traced.

    Raises:
        ValueError: for demonstrations of the wrong shape or not finite, actions outside the action
            space, or a policy with memory. Under tracing only shapes and dtypes can be checked.

    Source: Pomerleau 1991, Efficient Training of Artificial Neural Networks for Autonomous
    Navigation.
    """
    check_count("num_epochs", num_epochs)
    check_count("num_minibatches", num_minibatches)
    check_number("learning_rate", learning_rate, Range(0.0, includes_low=False))
    if not policy.memoryless:
        raise ValueError("behaviour_clone needs a policy without memory, got a recurrent one")
    _check_obs(env.name, env.observation_space(env_params), obs)
    _check_action(env.name, env.action_space(env_params), action, jnp.shape(obs)[0])
    minibatch.check_divisible(jnp.shape(obs)[0], num_minibatches)
    if isinstance(_distribution(policy, obs), TanhGaussian):
        # Its log_prob takes actions before the tanh; those of demonstrations are executed ones.
        raise ValueError("behaviour_clone needs a policy that is not squashed, got a TanhGaussian")
    samples = jnp.asarray(obs), jnp.asarray(action)
    return _clone(key, policy, samples, learning_rate, num_epochs, num_minibatches)


def warm_start(algorithm: Algorithm, params: Params) -> Algorithm:
    """Return the algorithm with its policy started from given parameters, its critic afresh.

    They also become the reference of an algorithm that has one (GRPO).

    Args:
        algorithm: any algorithm whose state has `params.policy`.
        params: of the policy alone, e.g. `behaviour_clone(...).params`; may be traced, so that
            each lane of a `vmap` starts from its own. A trainer that normalises observations
            shows them normalised from the second update on: clone from such ones, or do without.

    Raises:
        ValueError: if they are not of the form of the policy's parameters.
    """
    expected = jax.eval_shape(lambda: algorithm.policy.init(jax.random.key(0)))
    _check_params(expected, params)

    def init(key: Key, hyperparams: Any) -> Any:
        state = algorithm.init(key, hyperparams)
        state = state._replace(params=state.params._replace(policy=params))
        return state._replace(reference=state.params) if hasattr(state, "reference") else state

    return algorithm._replace(init=init)


@functools.partial(jax.jit, static_argnames=("policy", "num_epochs", "num_minibatches"))
def _clone(
    key: Key,
    policy: Policy,
    samples: tuple[Array, Array],
    learning_rate: Array | float,
    num_epochs: int,
    num_minibatches: int,
) -> Clone:
    init_key, epochs_key = jax.random.split(key)
    optimizer = optax.adam(learning_rate)
    params = policy.init(init_key)

    def loss(params: Params, batch: tuple[Array, Array]) -> Array:
        obs, action = batch
        start = jnp.zeros(obs.shape[0], bool)
        return -jnp.mean(policy.unroll(params, (), obs, start).log_prob(action))

    def step(carry: Any, batch: tuple[Array, Array]) -> tuple[Any, Array]:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = minibatch.epochs(
        epochs_key,
        step,
        (params, optimizer.init(params)),
        samples,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
    )
    return Clone(params, jnp.mean(losses, axis=-1))


def _distribution(policy: Policy, obs: Any) -> Any:
    """The policy's distribution, as shapes and dtypes."""

    def apply(obs: Array) -> Any:
        return policy.unroll(policy.init(jax.random.key(0)), (), obs, jnp.zeros(len(obs), bool))

    return jax.eval_shape(apply, obs)


def _check_obs(env_name: str, space: Any, obs: Any) -> None:
    shape = tuple(space.shape)
    if jnp.shape(obs)[1:] != shape or jnp.ndim(obs) == 0 or len(obs) == 0:
        raise ValueError(
            f"obs must have the shape {_batch_of(shape)} with B ≥ 1, as {env_name} observes, "
            f"got {list(jnp.shape(obs))}"
        )
    if not isinstance(obs, Tracer):
        _check_all("obs", np.isfinite(np.asarray(obs)), obs, "finite")


def _check_action(env_name: str, space: Any, action: Any, size: int) -> None:
    """Raise `ValueError` unless there is one action of the space per observation."""
    factors = getattr(space, "spaces", None)
    shape = (len(factors),) if factors is not None else tuple(space.shape)
    if jnp.shape(action) != (size, *shape):
        raise ValueError(
            f"action must have the shape {_batch_of(shape)} with B = {size}, one action of "
            f"{env_name} per observation, got {list(jnp.shape(action))}"
        )
    if hasattr(space, "low"):
        low, high = np.asarray(space.low), np.asarray(space.high)
        allowed = f"between {_plain(low)} and {_plain(high)}"
    else:
        if not jnp.issubdtype(jnp.result_type(action), jnp.integer):
            raise ValueError(f"action must hold whole numbers, got {jnp.result_type(action)}")
        low, high = 0, np.array([f.n for f in factors] if factors is not None else space.n) - 1
        allowed = f"between 0 and {_plain(high)}, as {env_name} has them"
    if not isinstance(action, Tracer):
        inside = (np.asarray(action) >= low) & (np.asarray(action) <= high)
        _check_all("action", inside, action, allowed)


def _check_all(name: str, is_right: Any, values: Any, allowed: str) -> None:
    """Raise `ValueError` naming the first sample that is not right."""
    wrong = np.flatnonzero(~is_right.reshape(len(is_right), -1).all(axis=1))
    if len(wrong):
        value = _plain(np.asarray(values)[wrong[0]])
        raise ValueError(f"{name}[{wrong[0]}] must be {allowed}, got {value}")


def _plain(array: Any) -> Any:
    return np.asarray(array).tolist()


def _batch_of(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(['B', *map(str, shape)])}]"


def _check_params(expected: Params, params: Params) -> None:
    """Raise `ValueError` naming the first leaf that is missing, left over or of another shape."""
    shapes, needed = (
        {
            jax.tree_util.keystr(path): list(jnp.shape(x))
            for path, x in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (params, expected)
    )
    for name in {**needed, **shapes}:
        if shapes.get(name) != needed.get(name):
            raise ValueError(
                f"params must be those of the algorithm's policy: {name or 'the array'} must be "
                f"{needed.get(name, 'absent')}, got {shapes.get(name, 'none')}"
            )
