"""Collecting data: an actor in a vectorised environment, scanned over time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejax_po import contract
from purejax_po._xla import packed, prng
from purejax_po.actor import acting
from purejax_po.spaces import to_space
from purejax_po.types import (
    Actor,
    Array,
    Carry,
    Distribution,
    Environment,
    EnvParams,
    EnvState,
    Key,
    Observation,
    Params,
    Policy,
    PyTree,
    Transition,
)


class RolloutState(NamedTuple):
    """Where the vectorised environment stands between two rollouts; leaves `[N, ...]`."""

    env_state: EnvState
    obs: Observation
    start: Array
    """The observation is the first of an episode."""
    carry: Carry
    episode_return: Array
    """Undiscounted reward so far in the running episode."""
    episode_length: Array


class Episodes(NamedTuple):
    """Episode statistics `[T, N]`, valid where `ended`."""

    ended: Array
    episode_return: Array
    episode_length: Array


def reset(
    key: Key,
    env: Environment,
    env_params: EnvParams,
    actor: Actor | Policy,
    num_envs: int,
    group_size: int = 1,
    *,
    like: contract.Start | None = None,
) -> RolloutState:
    """Start `num_envs` episodes, `group_size` neighbours of them from one state.

    Args:
        like: the dtypes that `contract.check` found; without them a Python number at which a state
            starts takes JAX's default dtype.
    """
    keys = _for_env(jax.random.split(key, num_envs // group_size), like and like.env_state)
    starts = jax.vmap(env.reset, in_axes=(0, None))(keys, env_params)
    if group_size > 1:
        starts = jax.tree.map(lambda x: jnp.repeat(x, group_size, axis=0), starts)
    obs, env_state = jax.tree.map(_strongly_typed, starts)
    if like is not None:
        obs, env_state = jax.tree.map(_in_dtype, (obs, env_state), tuple(like))
    return RolloutState(
        env_state=env_state,
        obs=obs,
        start=jnp.ones(num_envs, bool),
        carry=actor.initial_carry(num_envs),
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs),
    )


def collect(
    key: Key,
    env: Environment,
    env_params: EnvParams,
    actor: Actor | Policy,
    params: Params,
    state: RolloutState,
    num_steps: int,
) -> tuple[RolloutState, Transition, Episodes]:
    """Let an actor step `num_steps` times in every environment.

    All randomness (action noise and environment keys) is drawn before the scan: drawing it step by
    step costs as much as the steps themselves.

    Args:
        actor, params: what acts, and what it acts with; a policy does so with its own parameters.
        state: where to begin.
        num_steps: T.

    Returns:
        The next state, transitions and episode statistics with leaves `[num_steps, N, ...]`.
    """
    actor = acting(actor)
    noise_key, env_key = jax.random.split(key)
    if (begin_rollout := getattr(env, "begin_rollout", None)) is not None:
        env_key, begin_key = jax.random.split(env_key)
        keys = _for_env(jax.random.split(begin_key, state.start.shape[0]), state.env_state)
        begun = jax.vmap(begin_rollout, in_axes=(0, 0, None))(keys, state.env_state, env_params)
        state = state._replace(env_state=begun)
    abstract = jax.eval_shape(actor.act, params, state.carry, state.obs, state.start)[1]
    noise = jax.vmap(abstract.noise)(jax.random.split(noise_key, num_steps))
    env_keys = jax.random.split(env_key, (num_steps, state.start.shape[0]))
    env_keys = _for_env(env_keys, state.env_state)

    def step(
        state: RolloutState, randomness: tuple[Array, Key]
    ) -> tuple[RolloutState, tuple[Transition, Episodes]]:
        noise, keys = randomness
        carry, distribution = actor.act(params, state.carry, state.obs, state.start)
        action = distribution.sample_from(noise)
        next_state, transition, episodes = env_step(
            keys, env, env_params, state, action, distribution
        )
        # Derived after the scan: stacking these would cost one kernel per step.
        transition = transition._replace(start=None, weight=None)
        episodes = episodes._replace(ended=None)
        return next_state._replace(carry=carry), (transition, episodes)

    first_start = state.start
    state, (transition, episodes) = packed.scan(step, state, (noise, env_keys), pack_carry=True)
    ended = transition.terminated | transition.truncated
    transition = transition._replace(
        start=jnp.concatenate([first_start[None], ended[:-1]]),
        weight=jnp.ones_like(transition.reward),
    )
    episodes = episodes._replace(ended=ended)
    return state, transition, episodes


def first_episodes(transition: Transition, episodes: Episodes) -> tuple[Transition, Episodes]:
    """Keep each environment's first episode of a rollout that began with a reset.

    What follows it is padding: weight 0. So is a first episode that the rollout cut off. As no
    later episode counts, however short, the mean over those that do is that over all episodes the
    actor plays, without bias, if `num_steps` is at least the time limit; with a shorter rollout
    long episodes are missing from it.

    Args:
        transition, episodes: of `collect`, started by `reset`; leaves `[T, N, ...]`.

    Returns:
        The same, with other weights, and with no episode ended but the first ones.
    """
    ends = jnp.cumsum(episodes.ended, axis=0)
    first = ends - episodes.ended == 0
    weight = jnp.where(first & (ends[-1] > 0), transition.weight, 0.0)
    return transition._replace(weight=weight), episodes._replace(ended=episodes.ended & first)


def env_step(
    keys: Key,
    env: Environment,
    env_params: EnvParams,
    state: RolloutState,
    action: Array,
    distribution: Distribution,
) -> tuple[RolloutState, Transition, Episodes]:
    """Step every environment once with actions `[N, ...]` of a distribution."""
    name = contract.name_of(env)
    executed = to_space(env.action_space(env_params), action, distribution)
    obs, env_state, reward, terminated, truncated, info = jax.vmap(
        env.step, in_axes=(0, 0, 0, None)
    )(keys, state.env_state, executed, env_params)
    reward = reward.astype(state.episode_return.dtype)
    terminated, truncated = terminated.astype(bool), truncated.astype(bool)
    ended = terminated | truncated
    episode_return = state.episode_return + reward
    episode_length = state.episode_length + 1
    transition = Transition(
        obs=state.obs,
        action=action,
        reward=reward,
        next_obs=contract.as_before(
            f'{name}: info["final_observation"]', info["final_observation"], state.obs
        ),
        terminated=terminated,
        truncated=truncated,
        start=state.start,
        behaviour=distribution,
        weight=jnp.ones_like(reward),
    )
    next_state = RolloutState(
        env_state=contract.as_before(f"{name}: the state", env_state, state.env_state),
        obs=contract.as_before(f"{name}: the observation", obs, state.obs),
        start=ended,
        carry=state.carry,
        episode_return=jnp.where(ended, 0.0, episode_return),
        episode_length=jnp.where(ended, 0.0, episode_length),
    )
    return next_state, transition, Episodes(ended, episode_return, episode_length)


def _strongly_typed(x: PyTree) -> Array:
    """An array that keeps its dtype; gymnax starts counters as Python numbers."""
    x = jnp.asarray(x)
    return x if _is_key(x) else x.astype(x.dtype)


def _in_dtype(x: Array, like: Array) -> Array:
    return x if x.dtype == like.dtype else x.astype(like.dtype)


def _is_key(x: Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def _for_env(keys: Key, env_state: EnvState) -> Key:
    """Keys written out, or as JAX has them where states hold keys, which are of one kind always."""
    has_keys = any(map(_is_key, jax.tree.leaves(env_state)))
    return prng.as_usual(keys) if has_keys else prng.written_out(keys)
