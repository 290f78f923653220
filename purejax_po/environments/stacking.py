"""Changes to what an agent sees, does and is paid, one around another.

Each function returns an environment with `reset` and `step` of its own around the given one, whose
parameters, spaces and automatic resets stay the same except for the change. By name:
`environments.make("CartPole-v1", wrappers=["action_repeat:2", "frame_stack:4"])`, from the inside
out. Changed rewards are those of logs and of evaluations too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po import masks, spaces
from purejax_po.checks import Range, check_count, check_number
from purejax_po.contract import is_deterministic, name_of
from purejax_po.environments.around import Found, Remembering, State, Wrapper
from purejax_po.environments.boxes import box, dictionary, ravel, with_spaces
from purejax_po.observations import (
    ACTION_MASK,
    OBSERVATION,
    field,
    fields,
    with_fields,
    with_mask,
)
from purejax_po.types import (
    Action,
    Array,
    Environment,
    EnvParams,
    EnvState,
    Key,
    Observation,
    Space,
)


def frame_stack(env: Environment, count: int) -> Environment:
    """Show the last `count` observations, joined along the last axis, the newest last.

    An image `[H, W, C]` becomes `[H, W, count · C]`, a vector `[d]` becomes `[count · d]`; of a
    dictionary or a tuple each field does, but for `action_mask`. At an episode's start its first
    observation stands for those before it.

    Raises:
        ValueError: if the count is no positive whole number, or observations are no arrays with an
            axis.

    Source: Mnih et al. 2015, Human-level control through deep reinforcement learning, methods.
    """
    check_count("frame_stack", count)
    return _Stacked(env, count)


def action_repeat(env: Environment, count: int) -> Environment:
    """Take each action `count` times, or until the episode ends or a mask forbids it; rewards are
    added up.

    A time limit of the environment's own counts its own steps.

    Raises:
        ValueError: if the count is no positive whole number, or the environment cannot take a step
            that does not count (one on the host).

    Source: Mnih et al. 2015, Human-level control through deep reinforcement learning, methods.
    """
    check_count("action_repeat", count)
    if not is_deterministic(env):
        raise ValueError(
            f"action_repeat takes steps that may not count, and {name_of(env)} cannot step without "
            "effect"
        )
    return _Repeated(env, count)


def time_limit(env: Environment, count: int) -> Environment:
    """Truncate episodes after `count` steps.

    Where the limit is one of the environment's parameters, `max_steps_in_episode`, it is set there
    by default; otherwise, and around an `action_repeat`, it is counted here.

    Raises:
        ValueError: if the count is no positive whole number.
    """
    check_count("time_limit", count)
    counts = not _is_around(env, _Repeated) and hasattr(env.default_params, "max_steps_in_episode")
    return _Limit(env, count) if counts else _Timed(env, count)


def sticky_actions(env: Environment, probability: float) -> Environment:
    """With a given probability take the action before instead of the one chosen.

    An episode's first action is always the one chosen, as is one where the observation's mask
    forbids the action before.

    Raises:
        ValueError: if the probability is not in [0, 1].

    Source: Machado et al. 2018, Revisiting the Arcade Learning Environment, section 5.2 (0.25).
    """
    check_number("sticky_actions", probability, Range(0.0, 1.0))
    return _Sticky(env, probability)


def reward_scale(env: Environment, factor: float) -> Environment:
    """Multiply rewards by a factor.

    Raises:
        ValueError: if the factor is not a finite number, or 0, which leaves nothing to learn.
    """
    check_number("reward_scale", factor, Range())
    if factor == 0:
        raise ValueError(f"reward_scale must be a finite number other than 0, got {factor:g}")
    return _Rewarded(env, lambda reward: reward * factor)


def reward_clip(env: Environment, bound: float = 1.0) -> Environment:
    """Clip rewards to [−bound, bound].

    Raises:
        ValueError: if the bound is not a positive number.
    """
    check_number("reward_clip", bound, Range(0.0, includes_low=False))
    return _Rewarded(env, lambda reward: jnp.clip(reward, -bound, bound))


def flatten_observation(env: Environment) -> Environment:
    """Show observations as one vector, float32 `[n]`: arrays, dictionaries and tuples of them.

    A discrete observation of n values becomes a one-hot vector. An `action_mask` stays a field,
    beside the vector of the rest as `observation`. What is privileged is no longer told apart.
    """
    return _Flat(env)


class _Stacked(Remembering):
    """See `frame_stack`; remembers the stacked observation."""

    def __init__(self, env: Environment, count: int) -> None:
        super().__init__(env)
        space = env.observation_space(env.default_params)
        parts = fields(space)
        self._fields = tuple(name for name in parts if name != ACTION_MASK)
        several = [parts[name] for name in self._fields] if parts else [space]
        if any(spaces.kind(x) != "box" or not tuple(x.shape) for x in several):
            raise ValueError(
                f"frame_stack needs observations that are arrays with an axis, and {name_of(env)} "
                f"observes {space}; flatten_observation makes vectors of others"
            )
        self._count = count

    def observation_space(self, params: EnvParams | None = None) -> Space:
        """The bounds of each observation."""
        space = self._env.observation_space(params)
        if not self._fields:
            return self._tiled(space)
        changed = {name: self._tiled(fields(space)[name]) for name in self._fields}
        return with_spaces(space, changed)

    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Observation, State]:
        """Begin with copies of the first observation."""
        obs, state = self._env.reset(key, params)
        obs = self._copies(obs)
        return obs, State(state, obs)

    def step(
        self, key: Key, state: State, action: Action, params: EnvParams | None = None
    ) -> Found:
        """Step, and push the observation."""
        obs, inner, reward, terminated, truncated, info = self._env.step(
            key, state.env_state, action, params
        )
        final = info["final_observation"]
        pushed = self._change(_pushed, final, state.memory)
        ended = terminated | truncated
        stacked = jax.tree.map(lambda x, y: jnp.where(ended, x, y), self._copies(obs), pushed)
        info = {**info, "final_observation": pushed}
        return stacked, State(inner, stacked), reward, terminated, truncated, info

    def _tiled(self, space: Space) -> Space:
        return box(space, lambda np_, x: np_.tile(x, self._count))

    def _copies(self, obs: Observation) -> Observation:
        return self._change(lambda x: jnp.concatenate([x] * self._count, axis=-1), obs)

    def _change(self, function: Callable[..., Array], *obs: Observation) -> Observation:
        """Call with arrays: the observations, or field by field except the mask's."""
        if not self._fields:
            return function(*obs)
        changed = {name: function(*(field(x, name) for x in obs)) for name in self._fields}
        return with_fields(obs[0], changed)


def _pushed(new: Array, memory: Array) -> Array:
    """The memory without its oldest, and the newest."""
    return jnp.concatenate([memory[..., new.shape[-1] :], new], axis=-1)


class _Repeated(Wrapper):
    """See `action_repeat`."""

    def __init__(self, env: Environment, count: int) -> None:
        super().__init__(env)
        self._count = count

    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> Found:
        """Step until the count is full, the episode ends or the action is invalid."""
        params = self._env.default_params if params is None else params
        space = self._env.action_space(params)
        keys = jax.random.split(key, self._count)
        first = self._env.step(keys[0], state, action, params)

        def again(found: Found, key: Key) -> tuple[Found, None]:
            ended = found[3] | found[4] | ~masks.allows(found[0], action, space)
            obs, state, reward, *rest = self._env.step(key, found[1], action, params)
            new = (obs, state, found[2] + reward, *rest)
            return jax.tree.map(lambda x, y: _unless(ended, x, y), new, found), None

        # What a step gives to the next one has the dtypes that steps give.
        return jax.lax.scan(again, jax.tree.map(jnp.asarray, first), keys[1:])[0]


class _Limit(Wrapper):
    """See `time_limit`: the environment counts."""

    def __init__(self, env: Environment, count: int) -> None:
        super().__init__(env)
        default = env.default_params.max_steps_in_episode
        self._count = min(count, default) if isinstance(default, int) else count

    @property
    def default_params(self) -> EnvParams:
        """The environment's, with the limit set."""
        return self._env.default_params.replace(max_steps_in_episode=self._count)

    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Observation, EnvState]:
        """As the environment's own, with the limit."""
        return self._env.reset(key, self.default_params if params is None else params)

    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> Found:
        """As the environment's own, with the limit."""
        params = self.default_params if params is None else params
        return self._env.step(key, state, action, params)


class _Timed(Remembering):
    """See `time_limit`; remembers the steps of the episode."""

    counts_steps = True
    """The parameters do not tell of this limit."""

    def __init__(self, env: Environment, count: int) -> None:
        super().__init__(env)
        self._count = count

    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Observation, State]:
        """Begin to count."""
        obs, state = self._env.reset(key, params)
        return obs, State(state, jnp.int32(0))

    def step(
        self, key: Key, state: State, action: Action, params: EnvParams | None = None
    ) -> Found:
        """Step, and reset where the limit is reached."""
        from purejax_po.environments.adapters import unless_ended  # imports gymnax

        params = self._env.default_params if params is None else params
        step_key, reset_key = jax.random.split(key)
        obs, inner, reward, terminated, truncated, info = self._env.step(
            step_key, state.env_state, action, params
        )
        ended = terminated | truncated
        is_last = state.memory + 1 >= self._count
        obs, inner = unless_ended(self._env.reset)(
            is_last & ~ended, reset_key, params, (obs, inner)
        )
        truncated = truncated | (is_last & ~terminated)
        time = jnp.where(ended | is_last, 0, state.memory + 1)
        info = {**info, "terminated": terminated, "truncated": truncated}
        return obs, State(inner, time), reward, terminated, truncated, info


class _Sticky(Remembering):
    """See `sticky_actions`; remembers the action before, and whether there is one."""

    def __init__(self, env: Environment, probability: float) -> None:
        super().__init__(env)
        self._probability = probability

    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Observation, State]:
        """Begin without an action before."""
        obs, state = self._env.reset(key, params)
        space = self._env.action_space(self._env.default_params if params is None else params)
        return obs, State(state, (spaces.example(space), jnp.bool_(False)))

    def step(
        self, key: Key, state: State, action: Action, params: EnvParams | None = None
    ) -> Found:
        """Step with the action chosen, or with the one before."""
        key, stick_key = jax.random.split(key)
        last, has_last = state.memory
        sticks = has_last & jax.random.bernoulli(stick_key, self._probability)
        taken = jax.tree.map(
            lambda old, new: jnp.where(sticks, old, jnp.asarray(new, old.dtype)), last, action
        )
        obs, inner, reward, terminated, truncated, info = self._env.step(
            key, state.env_state, taken, params
        )
        space = self._env.action_space(self._env.default_params if params is None else params)
        memory = (taken, ~(terminated | truncated) & masks.allows(obs, taken, space))
        return obs, State(inner, memory), reward, terminated, truncated, info


class _Rewarded(Wrapper):
    """See `reward_scale` and `reward_clip`."""

    def __init__(self, env: Environment, change: Callable[[Array], Array]) -> None:
        super().__init__(env)
        self._change = change

    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> Found:
        """Step, with another reward."""
        found = self._env.step(key, state, action, params)
        obs, state, reward, terminated, truncated, info = found
        return obs, state, self._change(reward), terminated, truncated, info


class _Flat(Wrapper):
    """See `flatten_observation`."""

    def observation_space(self, params: EnvParams | None = None) -> Space:
        """Bounds where all observations are arrays with bounds."""
        space = self._env.observation_space(params)
        if spaces.kind(space) == "box":
            return box(space, ravel, np.float32)
        found = jax.eval_shape(lambda key: self.reset(key, params)[0], jax.random.key(0))
        if (mask := fields(space).get(ACTION_MASK)) is None:
            return box(None, ravel, np.float32, found.shape)
        vector = box(None, ravel, np.float32, found[OBSERVATION].shape)
        return dictionary({OBSERVATION: vector, ACTION_MASK: mask})

    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Observation, EnvState]:
        """Begin, and flatten."""
        obs, state = self._env.reset(key, params)
        return self._flat(obs, params), state

    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> Found:
        """Step, and flatten both observations."""
        found = self._env.step(key, state, action, params)
        obs, state, reward, terminated, truncated, info = found
        info = {**info, "final_observation": self._flat(info["final_observation"], params)}
        return self._flat(obs, params), state, reward, terminated, truncated, info

    def _flat(self, obs: Observation, params: EnvParams | None) -> Observation:
        params = self._env.default_params if params is None else params
        space, mask = self._env.observation_space(params), None
        if isinstance(obs, dict) and ACTION_MASK in obs:
            obs = dict(obs)
            mask = obs.pop(ACTION_MASK)
        vector = jnp.concatenate(_vectors(space, obs))
        return vector if mask is None else with_mask(vector, mask)


def _vectors(space: Space, obs: Observation) -> list[Array]:
    """The parts of an observation as vectors, by its space."""
    found = spaces.kind(space)
    if found == "dictionary":
        return [x for name in sorted(obs) for x in _vectors(space.spaces[name], obs[name])]
    if found == "tuple":
        pairs = zip(space.spaces, obs, strict=True)
        return [x for part, value in pairs for x in _vectors(part, value)]
    if found == "discrete":
        return [jax.nn.one_hot(obs - spaces.start(space), int(space.n), dtype=jnp.float32)]
    return [jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(obs)]


def _is_around(env: Environment, kind: type) -> bool:
    """Whether one of the wrappers of an environment is of a kind."""
    while isinstance(env, Wrapper):
        if isinstance(env, kind):
            return True
        env = env._env
    return False


def _unless(condition: Array, x: Array, y: Array) -> Array:
    """`y` where the condition holds, `x` elsewhere, in the dtype of `y`."""
    is_key = jnp.issubdtype(jnp.result_type(y), jax.dtypes.extended)
    return jnp.where(condition, y, x if is_key else jnp.asarray(x, y.dtype))
