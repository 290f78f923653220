"""What the adapters of other libraries' environments share: a small state, and cheap resets.

Importing this module imports gymnax, which takes seconds.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces
from jax.typing import ArrayLike

from purejax_po.checks import check_count
from purejax_po.types import Action, Array, EnvInfo, Key, Observation, PyTree, Space


@struct.dataclass
class EnvState(environment.EnvState):
    """The library's own state as far as the next step reads it; `time` counts the steps."""

    inner: PyTree
    obs: Observation
    is_cut: Array
    """The library itself has cut the episode here."""
    starts: PyTree = ()
    """Pre-drawn `(obs, inner)`, leaves `[P, ...]`; `()` where every reset is a real one."""


@struct.dataclass
class EnvParams(environment.EnvParams):
    """The time limit, traced."""

    max_steps_in_episode: int = 1000


class Advance(NamedTuple):
    """What a library's own step says."""

    obs: Observation
    """Of the true successor."""
    inner: PyTree
    reward: ArrayLike
    terminated: ArrayLike
    truncated: ArrayLike = False
    """By a time limit of the library's own."""
    info: Mapping[str, PyTree] = MappingProxyType({})


Current = tuple[Observation, PyTree, ArrayLike]
"""What an observation, the library's state and the time are before the next step."""


class Adapter(environment.Environment[EnvState, EnvParams]):
    """An environment of another library: a subclass gives `start`, `advance` and the spaces.

    A step returns the true successor as `info["final_observation"]`, and tells `terminated` (by the
    library's own rule) from `truncated` (by a time limit, ours or the library's). An episode that
    ends is followed by a real reset, which is computed only in steps in which some environment of
    the program ends one.

    Args:
        reset_pool: P > 0 is the cheaper choice where episodes end at every step somewhere: every
            environment draws P starts at the beginning of each rollout, and its resets choose
            among them.

    Raises:
        ValueError: if the pool's size is not a whole number ≥ 0.
    """

    _name = ""
    """A subclass sets it."""
    _limit = EnvParams().max_steps_in_episode
    """A subclass may set it (steps)."""

    def __init__(self, reset_pool: int = 0):
        super().__init__()
        check_count("reset_pool", reset_pool, minimum=0)
        self.reset_pool = reset_pool

    def start(self, key: Key) -> tuple[Observation, PyTree]:
        """Begin an episode: `key → (obs, inner)`."""
        raise NotImplementedError

    def advance(self, key: Key, inner: PyTree, action: Action) -> "Advance":
        """Step: `(key, inner, action) → Advance`."""
        raise NotImplementedError

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Whether a time limit is reached."""
        return (state.time >= params.max_steps_in_episode) | state.is_cut

    @property
    def name(self) -> str:
        """The environment's id."""
        return self._name or type(self).__name__

    @property
    def default_params(self) -> EnvParams:
        """The library's own time limit, or 1000 steps."""
        return EnvParams(max_steps_in_episode=self._limit)

    @functools.partial(jax.jit, static_argnames=("self",))
    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Observation, EnvState]:
        """Begin an episode, and draw the pool if there is one."""
        params = self.default_params if params is None else params
        reset_key, pool_key = jax.random.split(key) if self.reset_pool else (key, key)
        obs, state = self.reset_env(reset_key, params)
        return obs, self.begin_rollout(pool_key, state, params)

    def begin_rollout(self, key: Key, state: EnvState, params: EnvParams) -> EnvState:
        """Draw the pool again; without a pool the state stays the same."""
        if not self.reset_pool:
            return state
        keys = jax.random.split(key, self.reset_pool)
        obs, drawn = jax.vmap(self.reset_env, in_axes=(0, None))(keys, params)
        return replace(state, starts=(obs, drawn.inner))

    @functools.partial(jax.jit, static_argnames=("self",))
    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> tuple[Observation, EnvState, Array, Array, Array, EnvInfo]:
        """Step, and reset where the episode has ended: six values, as gymnax."""
        params = self.default_params if params is None else params
        step_key, reset_key = jax.random.split(key)
        obs, successor, reward, terminated, info = self.step_env(step_key, state, action, params)
        truncated = self.is_truncated(successor, params)
        ended = terminated | truncated
        current = obs, successor.inner, successor.time
        if self.reset_pool:
            current = _choose(ended, reset_key, state.starts, current)
        else:
            current = unless_ended(self._begin)(ended, reset_key, params, current)
        next_obs, inner, time = current
        state = replace(successor, time=time, inner=inner, obs=next_obs, is_cut=jnp.bool_(False))
        info = {
            **info,
            "terminated": terminated,
            "truncated": truncated,
            "final_observation": obs,
        }
        return next_obs, state, reward, terminated, truncated, info

    def reset_env(self, key: Key, params: EnvParams) -> tuple[Observation, EnvState]:
        """Begin an episode."""
        obs, inner = self.start(key)
        time = jnp.zeros((), jnp.int32)
        state = EnvState(time=time, inner=inner, obs=obs, is_cut=jnp.bool_(False))  # type: ignore[arg-type]
        return obs, state

    def step_env(
        self, key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Observation, EnvState, Array, Array, EnvInfo]:
        """Step without a reset."""
        obs, inner, reward, terminated, truncated, info = self.advance(key, state.inner, action)
        inner = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), inner, state.inner)
        cut = jnp.bool_(truncated)
        state = replace(state, time=state.time + 1, inner=inner, obs=obs, is_cut=cut)
        return obs, state, jnp.float32(reward), jnp.bool_(terminated), dict(info)

    def get_obs(
        self, state: EnvState, params: EnvParams | None = None, key: Key | None = None
    ) -> Observation:
        """The observation of a state."""
        return state.obs

    def _begin(self, key: Key, params: EnvParams) -> Current:
        obs, state = self.reset_env(key, params)
        return obs, state.inner, state.time


def raw(key: Key) -> Array:
    """The key as two numbers, for libraries that keep keys in their states: of one kind always."""
    return jax.random.key_data(key)


def vector(observation: Observation) -> Array:
    """All entries of an observation that is a tree of arrays, float32 `[n]`."""
    leaves = [jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(observation)]
    return jnp.concatenate(leaves)


def as_space(obs: Observation) -> Space:
    """The space of an observation of floats without bounds, and of masks, by shapes and dtypes."""
    if isinstance(obs, Mapping):
        return spaces.Dict({name: as_space(x) for name, x in obs.items()})
    if obs.dtype == jnp.bool_:
        return spaces.Box(0, 1, obs.shape, jnp.bool_)  # type: ignore[arg-type]
    return spaces.Box(-jnp.inf, jnp.inf, obs.shape)


Reset = Callable[[Key, PyTree], PyTree]
"""`(key, params) → state`, of one environment."""


def unless_ended(
    reset: Reset, batch_axes: int = 0
) -> Callable[[Array, Key, PyTree, PyTree], PyTree]:
    """Return `(ended, key, params, state) → state`, replaced by `reset(key, params)` where ended.

    Under `vmap`, over environments and over lanes, resets are computed if any of them has ended,
    and the branch is left out otherwise; a `select` would compute them in every step. What one of
    them gets does not depend on the others.

    Args:
        reset: of one environment.
        batch_axes: leading axes that all arguments have.
    """
    batched = reset
    for _ in range(batch_axes):
        batched = jax.vmap(batched)

    @jax.custom_batching.custom_vmap
    def reset_if(ended: Array, key: Key, params: PyTree, state: PyTree) -> PyTree:
        def begin() -> PyTree:
            return jax.tree.map(
                lambda new, old: _where(ended, jnp.asarray(new, old.dtype), old),
                batched(key, params),
                state,
            )

        return jax.lax.cond(jnp.any(ended), begin, lambda: state)

    @reset_if.def_vmap
    def over_one_more(
        axis_size: int, in_batched: list[PyTree], *arguments: PyTree
    ) -> tuple[PyTree, PyTree]:
        arguments = jax.tree.map(
            lambda x, is_batched: x if is_batched else jnp.broadcast_to(x, (axis_size, *x.shape)),
            arguments,
            tuple(in_batched),
        )
        state = unless_ended(reset, batch_axes + 1)(*arguments)
        return state, jax.tree.map(lambda _: True, state)

    return lambda *arguments: reset_if(*jax.tree.map(jnp.asarray, arguments))


def _choose(ended: Array, key: Key, starts: PyTree, current: Current) -> Current:
    """One of the pre-drawn starts where the episode has ended."""
    index = jax.random.randint(key, (), 0, jax.tree.leaves(starts)[0].shape[0])
    obs, inner = jax.tree.map(lambda x: x[index], starts)
    fresh = obs, inner, jnp.zeros_like(current[2])
    return jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, current)


def _where(condition: Array, x: Array, y: Array) -> Array:
    """`jnp.where` of a condition `[*B]` and leaves `[*B, ...]`."""
    return jnp.where(jnp.expand_dims(condition, range(condition.ndim, x.ndim)), x, y)
