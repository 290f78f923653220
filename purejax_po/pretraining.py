"""Policies from demonstrations, algorithms that start from them, rewards from preferences."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from purejax_po import minibatch, spaces
from purejax_po.advantages import weighted_mean
from purejax_po.checks import POSITIVE_FRACTION, Range, check_count, check_number
from purejax_po.distributions import ScaledGaussian
from purejax_po.types import (
    Action,
    Algorithm,
    AlgorithmState,
    Array,
    Critic,
    Distribution,
    Environment,
    EnvParams,
    Hyperparams,
    Key,
    Observation,
    Params,
    Policy,
    PyTree,
    Space,
)


class Clone(NamedTuple):
    """What behaviour cloning returns."""

    params: Params
    """The policy's parameters."""
    loss: Array
    """−mean log π(a|s) of each epoch, in nats, `[num_epochs]`."""


def behaviour_clone(
    key: Key,
    env: Environment,
    env_params: EnvParams,
    policy: Policy,
    obs: Observation,
    action: Action,
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
    if isinstance(found := _distribution(policy, obs), ScaledGaussian):
        # Its log_prob takes actions as they were drawn; those of demonstrations are executed ones.
        raise ValueError(
            "behaviour_clone needs a policy that is not squashed or scaled (action_distribution "
            f"clipped_gaussian), got a {type(found).__name__}"
        )
    # Policies count actions from 0, wherever the space's begin.
    index = jnp.asarray(action) - spaces.first_values(env.action_space(env_params))
    samples = jnp.asarray(obs), index
    return _clone(key, policy, samples, learning_rate, num_epochs, num_minibatches)


def warm_start(algorithm: Algorithm, params: Params) -> Algorithm:
    """Return the algorithm with its policy started from given parameters, and a fresh critic.

    They also become the reference of an algorithm that has one (GRPO).

    Args:
        algorithm: any algorithm whose state has `params.policy`.
        params: of the policy alone, e.g. `behaviour_clone(...).params`; may be traced, so that
            each lane of a `vmap` starts from its own. A trainer that normalises observations
            shows them normalised from the second update on: clone from such ones, or do without.

    Raises:
        ValueError: if they are not of the form of the policy's parameters.
    """
    fresh = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyperparams)
    _check_params(fresh.params.policy, params)

    def init(key: Key, hyperparams: Hyperparams) -> AlgorithmState:
        state = algorithm.init(key, hyperparams)
        state = state._replace(params=state.params._replace(policy=params))
        return state._replace(reference=state.params) if hasattr(state, "reference") else state

    return algorithm._replace(init=init)


class RewardModel(NamedTuple):
    """What `reward_model` returns."""

    params: Params
    """The model's parameters."""
    loss: Array
    """−mean log σ(R(winner) − R(loser)) of each epoch, in nats, `[num_epochs]`."""


class Pairs(NamedTuple):
    """Preferences between two outputs each; outputs as their last observation shows them."""

    winner: Array
    """`[B, *obs_shape]`."""
    loser: Array
    """`[B, *obs_shape]`."""
    weight: Array
    """1 for a preference, 0 for a tie, which carries no information, `[B]`."""


def reward_model(
    key: Key,
    env: Environment,
    env_params: EnvParams,
    model: Critic,
    pairs: Pairs,
    *,
    replay: Pairs | None = None,
    replay_fraction: float = 0.1,
    params: Params | None = None,
    num_epochs: int = 10,
    num_minibatches: int = 1,
    learning_rate: Array | float = 1e-3,
) -> RewardModel:
    """Fit R by Adam to preferences, P(a beats b) = σ(R(a) − R(b)).

    Compiled; to train for many seeds map it over keys and pairs with `jax.vmap`.

    Args:
        key: decides the first parameters, the order of the pairs and which old ones are replayed.
        env, env_params: a gymnax environment; its observations are what is judged.
        model: without memory, e.g. the second of `mlp_actor_critic`.
        pairs: what is new.
        replay: pairs of earlier rounds, some of which are drawn again, with replacement.
        replay_fraction: so many for each new pair, in (0, 1]; used with `replay`.
        params: go on from these rather than afresh.
        num_epochs: passes over the pairs.
        num_minibatches: minibatches per pass; divides the pairs, old ones included.
        learning_rate: Adam's step size, may be traced.

    Raises:
        ValueError: for pairs of unequal shapes, or not shaped as the environment observes.

    Source: Bradley & Terry 1952; Christiano et al. 2017, Deep Reinforcement Learning from Human
    Preferences, section 2.2.3; Shao et al. 2024, section 4.1.4 (replay).
    """
    check_count("num_epochs", num_epochs)
    check_count("num_minibatches", num_minibatches)
    check_number("learning_rate", learning_rate, Range(0.0, includes_low=False))
    check_number("replay_fraction", replay_fraction, POSITIVE_FRACTION)
    if not model.memoryless:
        raise ValueError("reward_model needs a model without memory, got a recurrent one")
    for name, given in (("pairs", pairs), ("replay", replay)):
        if given is not None:
            _check_pairs(name, env, env_params, given)
    num_replayed = 0 if replay is None else round(replay_fraction * len(pairs.weight))
    minibatch.check_divisible(len(pairs.weight) + num_replayed, num_minibatches, "pairs")
    replayed = None if num_replayed == 0 else replay
    return _fit_reward(
        key,
        model,
        pairs,
        replayed,
        params,
        learning_rate,
        num_replayed,
        num_epochs,
        num_minibatches,
    )


def preference_accuracy(model: Critic, params: Params, pairs: Pairs) -> Array:
    """Share of the preferences in which the model scores the winner higher, a scalar."""
    margin = _margin(model, params, pairs)
    right = jnp.sum(jnp.where(pairs.weight > 0, margin > 0, False))
    return right / jnp.maximum(jnp.sum(pairs.weight > 0), 1)


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

    def loss(params: Params, batch: tuple[Array, Array]) -> Array:
        obs, action = batch
        start = jnp.zeros(obs.shape[0], bool)
        return -jnp.mean(policy.unroll(params, (), obs, start).log_prob(action))

    params = policy.init(init_key)
    return Clone(
        *_fit(epochs_key, loss, params, samples, learning_rate, num_epochs, num_minibatches)
    )


@functools.partial(
    jax.jit, static_argnames=("model", "num_replayed", "num_epochs", "num_minibatches")
)
def _fit_reward(
    key: Key,
    model: Critic,
    pairs: Pairs,
    replay: Pairs | None,
    params: Params | None,
    learning_rate: Array | float,
    num_replayed: int,
    num_epochs: int,
    num_minibatches: int,
) -> RewardModel:
    init_key, replay_key, epochs_key = jax.random.split(key, 3)
    if replay is not None:
        index = jax.random.randint(replay_key, (num_replayed,), 0, len(replay.weight))
        pairs = jax.tree.map(lambda new, old: jnp.concatenate([new, old[index]]), pairs, replay)

    def loss(params: Params, pairs: Pairs) -> Array:
        return -weighted_mean(jax.nn.log_sigmoid(_margin(model, params, pairs)), pairs.weight)

    params = model.init(init_key) if params is None else params
    fitting = learning_rate, num_epochs, num_minibatches
    return RewardModel(*_fit(epochs_key, loss, params, pairs, *fitting))


def _margin(model: Critic, params: Params, pairs: Pairs) -> Array:
    """R(winner) − R(loser), `[B]`."""
    start = jnp.zeros(len(pairs.weight), bool)
    winner, loser = (model.unroll(params, (), x, start) for x in (pairs.winner, pairs.loser))
    return winner - loser


def _fit(
    key: Key,
    loss: Callable[[Params, PyTree], Array],
    params: Params,
    samples: PyTree,
    learning_rate: Array | float,
    num_epochs: int,
    num_minibatches: int,
) -> tuple[Params, Array]:
    """Minimise a loss over minibatches of samples by Adam: parameters, and each epoch's mean."""
    optimizer = optax.adam(learning_rate)

    def step(
        carry: tuple[Params, optax.OptState], batch: PyTree
    ) -> tuple[tuple[Params, optax.OptState], Array]:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = minibatch.epochs(
        key,
        step,
        (params, optimizer.init(params)),
        samples,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
    )
    return params, jnp.mean(losses, axis=-1)


def _check_pairs(name: str, env: Environment, env_params: EnvParams, pairs: Pairs) -> None:
    """Raise `ValueError` unless pairs are of one shape, and of what the environment observes."""
    winner, loser, weight = (jnp.shape(x) for x in pairs)
    if winner != loser or weight != winner[:1]:
        raise ValueError(
            f"{name} must hold as many winners as losers and weights, of equal shapes, "
            f"got winner {list(winner)}, loser {list(loser)}, weight {list(weight)}"
        )
    _check_obs(env.name, env.observation_space(env_params), pairs.winner)
    _check_obs(env.name, env.observation_space(env_params), pairs.loser)


def _distribution(policy: Policy, obs: Observation) -> Distribution:
    """The policy's distribution, as shapes and dtypes."""

    def apply(obs: Array) -> Distribution:
        return policy.unroll(policy.init(jax.random.key(0)), (), obs, jnp.zeros(len(obs), bool))

    return jax.eval_shape(apply, obs)


def _check_obs(env_name: str, space: Space, obs: Observation) -> None:
    if spaces.kind(space) in ("dictionary", "tuple"):
        raise ValueError(f"obs must be one array, and {env_name} observes several fields: {space}")
    shape = tuple(space.shape)
    if jnp.shape(obs)[1:] != shape or jnp.ndim(obs) == 0 or len(obs) == 0:
        raise ValueError(
            f"obs must have the shape {_batch_of(shape)} with B ≥ 1, as {env_name} observes, "
            f"got {list(jnp.shape(obs))}"
        )
    if not isinstance(obs, Tracer):
        _check_all("obs", np.isfinite(np.asarray(obs)), obs, "finite")


def _check_action(env_name: str, space: Space, action: Action, size: int) -> None:
    """Raise `ValueError` unless there is one action of the space per observation."""
    factors = spaces.choices(space)
    shape = (len(factors.sizes),) if factors is not None else tuple(space.shape)
    if jnp.shape(action) != (size, *shape):
        raise ValueError(
            f"action must have the shape {_batch_of(shape)} with B = {size}, one action of "
            f"{env_name} per observation, got {list(jnp.shape(action))}"
        )
    if factors is None and spaces.kind(space) == "box":
        low, high = np.asarray(space.low), np.asarray(space.high)
        allowed = f"between {_plain(low)} and {_plain(high)}"
    else:
        if not jnp.issubdtype(jnp.result_type(action), jnp.integer):
            raise ValueError(f"action must hold whole numbers, got {jnp.result_type(action)}")
        low = spaces.first_values(space)
        high = low + np.array(factors.sizes if factors is not None else space.n) - 1
        allowed = f"between {_plain(low)} and {_plain(high)}, as {env_name} has them"
    if not isinstance(action, Tracer):
        inside = (np.asarray(action) >= low) & (np.asarray(action) <= high)
        _check_all("action", inside, action, allowed)


def _check_all(name: str, is_right: np.ndarray, values: Array, allowed: str) -> None:
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
