"""A mask of valid actions beside an environment's observations, made from its state."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purejax_po import masks
from purejax_po.contract import check_traceable, name_of
from purejax_po.environments.around import GymnaxEnvironment, Proxy
from purejax_po.observations import ACTION_MASK, OBSERVATION, fields, with_mask
from purejax_po.types import (
    Action,
    Array,
    Environment,
    EnvParams,
    EnvState,
    Info,
    Key,
    Observation,
    Space,
)

Valid = Callable[[EnvState, EnvParams], Array]
"""`(state, env_params) → mask`, bool of a shape that `masks` says."""


def with_action_mask(env: GymnaxEnvironment, valid: Valid | None = None) -> Environment:
    """Return the environment whose observations carry a mask of the valid actions.

    An array is then the field `observation` of a dictionary, a dictionary gains a field; the mask
    is the field `action_mask`.

    Args:
        env: an environment of gymnax's kind, with `reset_env` and `step_env`.
        valid: from its state; by default its own method `action_mask(state, env_params)`.

    Raises:
        ValueError: if there is no such function, or its mask does not fit the actions.
    """
    check_traceable("with_action_mask", env)
    valid = getattr(env, ACTION_MASK, None) if valid is None else valid
    if not callable(valid):
        raise ValueError(
            f"with_action_mask needs valid(state, env_params), unless {name_of(env)} has a method "
            f"{ACTION_MASK}, got {valid!r}"
        )

    def see(obs: Observation, state: EnvState, params: EnvParams) -> Observation:
        mask = valid(state, params)
        return {**obs, ACTION_MASK: mask} if isinstance(obs, dict) else with_mask(obs, mask)

    def reset_env(key: Key, params: EnvParams) -> tuple[Observation, EnvState]:
        obs, state = env.reset_env(key, params)
        return see(obs, state, params), state

    def step_env(
        key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Observation, EnvState, Array, Array, Info]:
        obs, state, reward, terminated, info = env.step_env(key, state, action, params)
        return see(obs, state, params), state, reward, terminated, info

    def observe(key: Key, state: EnvState, action: Action, params: EnvParams) -> Observation:
        return see(env.observe(key, state, action, params), state, params)  # type: ignore[attr-defined]

    def observation_space(params: EnvParams) -> Space:
        from gymnax.environments import spaces  # takes seconds

        inner = env.observation_space(params)
        state = jax.eval_shape(env.reset, jax.random.key(0), params)[1]
        mask = spaces.Box(0, 1, jax.eval_shape(valid, state, params).shape, jnp.bool_)  # type: ignore[arg-type]
        return spaces.Dict({**(fields(inner) or {OBSERVATION: inner}), ACTION_MASK: mask})

    methods = {"reset_env": reset_env, "step_env": step_env, "observation_space": observation_space}
    if callable(getattr(env, "observe", None)):
        methods["observe"] = observe
    proxy = Proxy(env, **methods)
    if not proxy.uses("step_env"):
        raise ValueError(
            f"with_action_mask needs the state before a reset, which {name_of(env)} keeps to "
            "itself: give it the environment inside of a wrapper"
        )
    params = env.default_params
    masks.check(name_of(env), observation_space(params), env.action_space(params))
    return proxy
