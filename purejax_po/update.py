"""One update: a rollout, what the algorithm learns from it, and a check that all stayed finite."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejax_po import contract, metrics, normalization, rollout
from purejax_po._xla import prng
from purejax_po._xla.finite import all_finite
from purejax_po.metrics import Log
from purejax_po.normalization import Normalization, NormalizedParams
from purejax_po.rollout import Episodes, RolloutState
from purejax_po.types import (
    Actor,
    Algorithm,
    AlgorithmState,
    Array,
    Environment,
    EnvParams,
    Hyperparams,
    Info,
    Key,
    Observation,
    Params,
    PyTree,
    Rollout,
    Transition,
)


class TrainState(NamedTuple):
    """The complete state of a run between two updates."""

    key: Key
    num_done: Array
    """Updates done so far, int32."""
    num_planned: Array
    """Updates planned: what schedules run against; infinite if unknown."""
    algorithm: AlgorithmState
    """The algorithm's own state; its first field is `params`."""
    rollout: RolloutState | None
    """Where the next rollout goes on; None if every rollout begins with a reset."""
    normalization: Normalization
    """Running statistics; no leaves unless the trainer normalises."""
    diverged_at: Array
    """The update whose result was not finite, int32; -1 while there was none."""

    @property
    def acting_params(self) -> Params:
        """What `trainer.actor` acts with: the parameters, and statistics if it normalises."""
        params, obs = self.algorithm.params, self.normalization.obs
        return params if obs == () else NormalizedParams(params, obs)

    def __repr__(self) -> str:
        numbers = sum(math.prod(jnp.shape(x)) for x in jax.tree.leaves(self.algorithm))
        return f"TrainState(updates done {shape_of(self.num_done)}, {numbers:,} numbers learned)"


class Loop(NamedTuple):
    """What the updates of a trainer are made of: everything that is static."""

    env: Environment
    algorithm: Algorithm
    actor: Actor
    """The algorithm's, or one that normalises what it sees."""
    num_envs: int
    num_steps: int
    like: contract.Start
    """The dtypes of observations and states between two steps."""
    obs: Observation
    """Shape and dtype of one observation, where it is normalised."""
    normalize_observations: bool
    normalize_rewards: bool


def start(
    loop: Loop,
    key: Key,
    hyperparams: Hyperparams,
    env_params: EnvParams,
    num_updates: Array | float,
) -> TrainState:
    """Return the state before the first of `num_updates` updates."""
    key, algorithm_key, reset_key = jax.random.split(prng.written_out(key), 3)
    algorithm_state = loop.algorithm.init(algorithm_key, hyperparams)
    begin = None
    if not loop.algorithm.complete_episodes:
        begin = rollout.reset(
            reset_key, loop.env, env_params, loop.actor, loop.num_envs, like=loop.like
        )
    return TrainState(
        key=prng.as_usual(key),
        num_done=jnp.int32(0),
        num_planned=jnp.asarray(num_updates, jnp.result_type(float)),
        algorithm=algorithm_state,
        rollout=begin,
        normalization=normalization.init(
            loop.obs,
            loop.num_envs,
            observations=loop.normalize_observations,
            rewards=loop.normalize_rewards,
        ),
        diverged_at=jnp.int32(-1),
    )


def step(
    loop: Loop, hyperparams: Hyperparams, state: TrainState, env_params: EnvParams
) -> tuple[TrainState, Log]:
    """Collect, normalise, learn, merge the statistics; keep it if all is finite, and log it."""
    key, rollout_key, update_key = jax.random.split(prng.written_out(state.key), 3)
    begin, rollout_state, transition, episodes = collect(loop, rollout_key, state, env_params)
    seen = normalization.apply(state.normalization, transition)
    batch = Rollout(seen, begin.carry, progress=state.num_done / state.num_planned)
    algorithm_state, info = loop.algorithm.update(update_key, hyperparams, state.algorithm, batch)
    discount = getattr(hyperparams, "discount", None)
    statistics = normalization.update(state.normalization, transition, discount)
    proposed = state._replace(
        key=prng.as_usual(key),
        algorithm=algorithm_state,
        rollout=rollout_state,
        normalization=statistics,
    )
    finite = all_finite((algorithm_state, info, statistics))
    kept, healthy = freeze_if_diverged(state, proposed, finite)
    return kept, metrics.mask_log(make_log(info, episodes), healthy)


def collect(
    loop: Loop, key: Key, state: TrainState, env_params: EnvParams
) -> tuple[RolloutState, RolloutState | None, Transition, Episodes]:
    """Collect a rollout, which goes on where the last one ended, or begins with a reset.

    Returns:
        Where it began, where the next one goes on (None: with a reset), and what was collected.
    """
    algorithm, actor, params = loop.algorithm, loop.actor, state.acting_params
    if not algorithm.complete_episodes:
        assert state.rollout is not None
        found = rollout.collect(
            key, loop.env, env_params, actor, params, state.rollout, loop.num_steps
        )
        return state.rollout, *found
    key, reset_key = jax.random.split(key)
    begin = rollout.reset(
        reset_key, loop.env, env_params, actor, loop.num_envs, algorithm.group_size, like=loop.like
    )
    if (prompt := actor.prompt) is not None:
        carry = prompt.read(params, begin.obs, algorithm.group_size)
        begin, actor = begin._replace(carry=carry), prompt.go_on
    _, transition, episodes = rollout.collect(
        key, loop.env, env_params, actor, params, begin, loop.num_steps
    )
    return begin, None, *rollout.first_episodes(transition, episodes)


def freeze_if_diverged(
    state: TrainState, proposed: TrainState, finite: Array
) -> tuple[TrainState, Array]:
    """Keep what an update proposes, as long as everything has been finite.

    A diverged lane stays at its last finite state, bit for bit; its neighbours never notice.

    Returns:
        The state after the update, and whether the lane is healthy.
    """
    healthy = finite & (state.diverged_at < 0)
    kept = jax.tree.map(lambda new, old: jnp.where(healthy, new, old), proposed, state)
    diverged_now = (state.diverged_at < 0) & ~finite
    kept = kept._replace(
        num_done=state.num_done + 1,
        diverged_at=jnp.where(diverged_now, state.num_done, state.diverged_at),
    )
    return kept, healthy


def make_log(info: Info, episodes: Episodes) -> Log:
    """Return the log of one update."""
    return Log(
        info=metrics.of_single(info),
        episode_return=metrics.of_masked(episodes.episode_return, episodes.ended),
        episode_length=metrics.of_masked(episodes.episode_length, episodes.ended),
    )


def shape_of(x: PyTree) -> str:
    """A shape for a short text: `[8, 100]`."""
    return str(list(jnp.shape(x)))
