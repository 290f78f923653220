"""Evaluation: whole episodes, fixed length, masked, with common random numbers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejax_po import contract, rollout
from purejax_po.actor import acting
from purejax_po.checks import check_count
from purejax_po.types import Actor, Array, Environment, EnvParams, Key, Params, Policy


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

    Episode i starts and is disturbed alike for every actor that is given the same key, so that
    returns may be compared in pairs.

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

    def step(carry: Any, keys: tuple[Key, Key]) -> tuple[Any, None]:
        state, evaluation = carry
        noise_key, env_key = keys
        memory, distribution = actor.act(params, state.carry, state.obs, state.start)
        action = (
            distribution.mode() if greedy else distribution.sample_from(abstract.noise(noise_key))
        )
        state, transition, episodes = rollout.env_step(
            env_key, env, env_params, state, action, distribution
        )
        running = ~evaluation.finished
        evaluation = Evaluation(
            evaluation.episode_return + jnp.where(running, transition.reward, 0.0),
            evaluation.episode_length + running,
            evaluation.finished | episodes.ended,
        )
        return (state._replace(carry=memory), evaluation), None

    zeros = jnp.zeros(num_episodes)
    nothing = Evaluation(zeros, zeros, jnp.zeros(num_episodes, bool))
    (_, evaluation), _ = jax.lax.scan(step, (state, nothing), (noise_keys, env_keys))
    return evaluation
