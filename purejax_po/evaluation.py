"""Evaluation: whole episodes, fixed length, masked, with common random numbers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejax_po import contract, rollout
from purejax_po.actor import acting
from purejax_po.checks import check_count
from purejax_po.rollout import Episodes, RolloutState
from purejax_po.types import (
    Actor,
    Array,
    Environment,
    EnvParams,
    Key,
    Params,
    Policy,
    PyTree,
    Trainer,
    Transition,
)


class Evaluation(NamedTuple):
    """One entry per episode, `[num_episodes]`."""

    episode_return: Array
    """Undiscounted sum of rewards until the episode ended, or until `num_steps`."""
    episode_length: Array
    """Steps, float32."""
    finished: Array
    """The episode ended within `num_steps`."""


def evaluate(
    key: Key,
    env: Environment,
    env_params: EnvParams,
    actor: Actor | Policy,
    params: Params,
    *,
    num_episodes: int,
    num_steps: int,
    greedy: bool = True,
) -> Evaluation:
    """Run `num_episodes` episodes side by side for `num_steps` steps, masked after their ends.

    With the same key, episode i has the same start and the same noise for every actor, so returns
    may be compared in pairs.

    Args:
        key: decides starts, environment noise and, unless `greedy`, action noise.
        actor, params: e.g. `trainer.actor` and `state.acting_params`, with which observations are
            normalised as in training; or a policy and its parameters.
        num_episodes: episodes, one per parallel environment.
        num_steps: the longest episode, e.g. `env_params.max_steps_in_episode`.
        greedy: act by the distribution's mode rather than a sample.

    Raises:
        ValueError: if a number is not a positive whole number, or environment and actor do not fit
            each other (`contract.check`).
    """
    check_count("num_episodes", num_episodes)
    check_count("num_steps", num_steps)
    like = contract.check(env, env_params, actor, params)
    actor = acting(actor)
    reset_key, noise_key, env_key = jax.random.split(key, 3)
    state = rollout.reset(reset_key, env, env_params, actor, num_episodes, like=like)
    abstract = jax.eval_shape(actor.act, params, state.carry, state.obs, state.start)[1]
    noise_keys = jax.random.split(noise_key, num_steps)
    env_keys = jax.random.split(env_key, (num_steps, num_episodes))

    def step(carry: PyTree, keys: tuple[Key, Key]) -> tuple[PyTree, None]:
        state, evaluation = carry
        noise_key, env_key = keys
        memory, distribution = actor.act(params, state.carry, state.obs, state.start)
        action = (
            distribution.mode() if greedy else distribution.sample_from(abstract.noise(noise_key))
        )
        state, transition, episodes = rollout.env_step(
            env_key, env, env_params, state, action, distribution
        )
        found = _count(evaluation, transition, episodes)
        return (state._replace(carry=memory), found), None

    (_, evaluation), _ = jax.lax.scan(step, (state, _nothing(num_episodes)), (noise_keys, env_keys))
    return evaluation


def evaluate_lanes(
    key: Key,
    trainer: Trainer,
    env_params: EnvParams,
    params: Params,
    *,
    num_episodes: int,
    num_steps: int,
    greedy: bool = True,
) -> Evaluation:
    """As `evaluate` for every lane, on the same episodes, until the last one of all has ended.

    A lane's numbers do not depend on its neighbours: steps after an episode's end do not count.

    Args:
        key: as `evaluate`; the same for all lanes.
        trainer: whose actor acts.
        env_params, params: of each lane, leaves `[L, ...]`; `state.acting_params` are the latter.
        num_episodes, num_steps, greedy: as `evaluate`.

    Returns:
        Leaves `[L, num_episodes]`.
    """
    check_count("num_episodes", num_episodes)
    check_count("num_steps", num_steps)
    env, actor = trainer.env, trainer.actor
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), params)
    like = contract.check(env, trainer.env_params, actor, one)
    reset_key, noise_key, env_key = jax.random.split(key, 3)
    noise_keys = jax.random.split(noise_key, num_steps)
    env_keys = jax.random.split(env_key, (num_steps, num_episodes))

    def begin(env_params: EnvParams) -> tuple[RolloutState, Evaluation]:
        state = rollout.reset(reset_key, env, env_params, actor, num_episodes, like=like)
        return state, _nothing(num_episodes)

    def step(
        env_params: EnvParams, params: Params, carry: PyTree, keys: tuple[Key, Key]
    ) -> tuple[RolloutState, Evaluation]:
        noise_key, env_key = keys
        state, evaluation = carry
        memory, distribution = actor.act(params, state.carry, state.obs, state.start)
        if greedy:
            action = distribution.mode()
        else:
            action = distribution.sample_from(distribution.noise(noise_key))
        state, transition, episodes = rollout.env_step(
            env_key, env, env_params, state, action, distribution
        )
        found = _count(evaluation, transition, episodes)
        return state._replace(carry=memory), found

    def is_running(progress: PyTree) -> Array:
        time, (_, evaluation) = progress
        return (time < num_steps) & ~jnp.all(evaluation.finished)

    def advance(progress: PyTree) -> PyTree:
        time, carry = progress
        keys = noise_keys[time], env_keys[time]
        return time + 1, jax.vmap(step, in_axes=(0, 0, 0, None))(env_params, params, carry, keys)

    start = jnp.int32(0), jax.vmap(begin)(env_params)
    return jax.lax.while_loop(is_running, advance, start)[1][1]


def _nothing(num_episodes: int) -> Evaluation:
    """No step yet."""
    zeros = jnp.zeros(num_episodes)
    return Evaluation(zeros, zeros, jnp.zeros(num_episodes, bool))


def _count(evaluation: Evaluation, transition: Transition, episodes: Episodes) -> Evaluation:
    """Count a step of the episodes that run."""
    running = ~evaluation.finished
    return Evaluation(
        evaluation.episode_return + jnp.where(running, transition.reward, 0.0),
        evaluation.episode_length + running,
        evaluation.finished | episodes.ended,
    )
