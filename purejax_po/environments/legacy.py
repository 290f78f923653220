"""Environments written for gymnax before 1.0, whose steps return five values.

Importing this module imports gymnax, which takes seconds.
"""

import copy
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from purejax_po.checks import check_count
from purejax_po.contract import is_legacy, name_of
from purejax_po.environments.adapters import Adapter, EnvState
from purejax_po.environments.around import GymnaxEnvironment, without_limit
from purejax_po.types import Action, Array, Environment, EnvParams, Info, Key, PyTree, Space

METHODS = ("reset_env", "step_env", "action_space", "observation_space")


class Legacy(Adapter):
    """An environment of gymnax's API before 1.0, whose `done` holds its time limit too.

    The environment steps with its own limit, `params.max_steps_in_episode`, out of reach: what it
    then calls `done` is an end. The limit is counted here, and truncates.

    Args:
        env: has `reset_env`, `step_env`, `default_params` and spaces.
        max_steps_in_episode: the limit of an environment that has none among its parameters: what
            is done after so many steps (or goes on then) is truncated. Without one it has no limit
            that could be told from an end.

    Raises:
        ValueError: for what is no such environment, or is a wrapper that knows `step` alone.
    """

    def __init__(self, env: Any, max_steps_in_episode: int | None = None):
        super().__init__()
        _check(env)
        self.game = _with_present_names(env)
        self._has_limit = hasattr(env.default_params, "max_steps_in_episode")
        if max_steps_in_episode is not None:
            check_count("max_steps_in_episode", max_steps_in_episode)
            if self._has_limit:
                raise ValueError(
                    f"{name_of(env)} has a limit among its parameters: set it by "
                    f"env.default_params.replace(max_steps_in_episode={max_steps_in_episode})"
                )
        self._limit = max_steps_in_episode

    def __getattr__(self, name: str) -> Any:
        if name == "game":  # while it is unpickled or copied
            raise AttributeError(name)
        return getattr(self.game, name)

    @property
    def default_params(self) -> EnvParams:
        """The environment's own."""
        return self.game.default_params

    @property
    def name(self) -> str:
        """The environment's name."""
        return name_of(self.game)

    @property
    def num_actions(self) -> int:
        """As the environment says."""
        return int(self.action_space(self.default_params).n)

    def action_space(self, params: EnvParams = None) -> Space:
        """As the environment's."""
        return self.game.action_space(params)

    def observation_space(self, params: EnvParams = None) -> Space:
        """As the environment's."""
        return self.game.observation_space(params)

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Whether the time limit was reached."""
        return state.is_cut

    def reset_env(self, key: Key, params: EnvParams) -> tuple[Array, EnvState]:
        """Begin an episode."""
        obs, inner = self.game.reset_env(key, params)
        state = EnvState(time=jnp.int32(0), inner=inner, obs=obs, is_cut=jnp.bool_(False))  # type: ignore[arg-type]
        return obs, state

    def step_env(
        self, key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Array, EnvState, Array, Array, Info]:
        """Step without a reset. The compiler finds that both steps do the same but for `done`."""
        obs, inner, reward, done, info = self.game.step_env(key, state.inner, action, params)
        time = state.time + 1
        if self._has_limit:
            terminated = self.game.step_env(key, state.inner, action, without_limit(params))[3]
            cut = (done & ~terminated) | (time >= params.max_steps_in_episode)  # type: ignore[operator]
        else:
            cut = jnp.bool_(False) if self._limit is None else time >= self._limit
            terminated = done & ~cut
        state = replace(state, time=time, inner=inner, obs=obs, is_cut=cut)
        return obs, state, jnp.asarray(reward), jnp.bool_(terminated), info


def _check(env: Environment) -> None:
    """Raise `ValueError` unless an environment steps without a reset by itself."""
    missing = [name for name in METHODS if not callable(getattr(type(env), name, None))]
    if missing or not hasattr(env, "default_params"):
        raise ValueError(
            f"from_legacy must be given an environment with {', '.join(METHODS)} and "
            f"default_params, got {name_of(env)} without {(*missing, 'default_params')[0]}; give "
            "it the environment inside of a wrapper"
        )


def _with_present_names(env: Any) -> GymnaxEnvironment:
    """A copy whose `is_terminated`, which gymnax's base class calls now, is its `is_terminal`."""
    if not is_legacy(env):
        return env
    env = copy.copy(env)

    def discount(state: PyTree, params: EnvParams) -> Array:
        return jnp.where(env.is_terminal(state, params), 0.0, 1.0)

    for name, method in (("is_terminated", env.is_terminal), ("discount", discount)):
        object.__setattr__(env, name, method)
    return env
