"""An environment around another one: what reads through, what has a method of its own, and states.

A wrapper keeps the state of the environment inside as `env_state`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from purejax_po import spaces
from purejax_po.types import (
    Action,
    Array,
    EnvInfo,
    Environment,
    EnvParams,
    EnvState,
    Key,
    Observation,
    PyTree,
    Shapes,
    Space,
)

Found = tuple[Observation, EnvState, Array, Array, Array, EnvInfo]
"""What a step returns."""


class GymnaxEnvironment(Environment, Protocol):
    """An environment of gymnax's kind, whose `reset` and `step` call methods of their own."""

    def reset_env(self, key: Key, params: EnvParams, /) -> tuple[Observation, EnvState]:
        """Begin an episode."""
        ...

    def step_env(
        self, key: Key, state: EnvState, action: Action, params: EnvParams, /
    ) -> tuple[Observation, EnvState, Array, Array, EnvInfo]:
        """Step without a reset: `(obs, state, reward, terminated, info)`."""
        ...


class ReadsThrough:
    """What a class has not, its `__getattr__` finds in the environment inside: this, at least."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """What messages call it."""
            ...

        @property
        def default_params(self) -> EnvParams:
            """What `reset`, `step` and the spaces take."""
            ...

        def step(
            self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
        ) -> Found:
            """Make a step."""
            ...

        def observation_space(self, params: EnvParams | None = None) -> Space:
            """Return the space of one observation."""
            ...

        def action_space(self, params: EnvParams | None = None) -> Space:
            """Return the space of one action."""
            ...


class State(NamedTuple):
    """A wrapper's own memory around the state of the environment inside."""

    env_state: EnvState
    memory: PyTree


class Wrapper(ReadsThrough):
    """An environment around another one, known by its `reset` and `step` alone."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    def _inside(self) -> Environment:
        """The environment that this is around."""
        return self._env

    def __getattr__(self, name: str) -> Any:
        if name == "_env":  # while it is unpickled or copied
            raise AttributeError(name)
        return getattr(self._env, name)

    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Observation, EnvState]:
        """As the environment's own."""
        return self._env.reset(key, params)


class WithParams(Wrapper):
    """An environment whose default parameters are others."""

    def __init__(self, env: Environment, params: EnvParams) -> None:
        super().__init__(env)
        self._params = params

    @property
    def default_params(self) -> EnvParams:
        """Those given."""
        return self._params

    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Observation, EnvState]:
        """As the environment's own."""
        return self._env.reset(key, self._params if params is None else params)

    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> Found:
        """As the environment's own."""
        return self._env.step(key, state, action, self._params if params is None else params)


class Remembering(Wrapper):
    """A wrapper with a memory, which the pool of starts inside is drawn without."""

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        if hasattr(env, "begin_rollout"):
            self.begin_rollout = self._begin_rollout

    def _begin_rollout(self, key: Key, state: State, params: EnvParams) -> State:
        return state._replace(env_state=self._env.begin_rollout(key, state.env_state, params))  # type: ignore[attr-defined]


class Proxy(ReadsThrough):
    """An environment that is another one except for some methods.

    Its `reset` and `step` are the other's code, run on the proxy: where that code calls a method
    that the proxy has, it calls the proxy's. Nothing is copied and nothing is patched.

    Args:
        env: any environment.
        methods: by name, such as `step_env`.
    """

    def __init__(self, env: Environment, **methods: Callable[..., PyTree]) -> None:
        self._wrapped, self._methods, self._called = env, methods, set[str]()

    def _inside(self) -> Environment:
        """The environment that this is, except for some methods."""
        return self._wrapped

    def __getattr__(self, name: str) -> Any:
        if name in ("_wrapped", "_methods", "_called"):  # while it is unpickled or copied
            raise AttributeError(name)
        if name in self._methods:
            self._called.add(name)
            return self._methods[name]
        return getattr(self._wrapped, name)

    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Observation, EnvState]:
        """As the other's, with the proxy's methods."""
        return type(self._wrapped).reset(self, key, params)

    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> Found:
        """As the other's, with the proxy's methods."""
        return type(self._wrapped).step(self, key, state, action, params)

    def uses(self, name: str) -> bool:
        """Whether `step` runs a method of the proxy: an abstract step tells."""
        self._called.clear()
        try:
            _abstract_step(self)
        except Exception:  # whatever another library's class makes of a proxy
            return False
        return name in self._called


def _abstract_step(env: Environment) -> Shapes:
    """One step on shapes, with an action of the environment's space."""
    params = env.default_params
    action = spaces.example(env.action_space(params))

    def step(key: Key, params: EnvParams) -> Found:
        return env.step(key, env.reset(key, params)[1], action, params)

    return jax.eval_shape(step, jax.random.key(0), params)


def inner_state(state: EnvState) -> EnvState:
    """Return the state of the innermost environment, which wrappers keep as `env_state`."""
    while hasattr(state, "env_state"):
        state = state.env_state
    return state


def with_inner(state: EnvState, inner: EnvState) -> EnvState:
    """A wrapper's state around another state of the innermost environment."""
    if not hasattr(state, "env_state"):
        return inner
    around = with_inner(state.env_state, inner)
    if hasattr(state, "replace"):
        return state.replace(env_state=around)
    return state._replace(env_state=around)


def without_limit(params: EnvParams) -> EnvParams:
    """Return an environment's parameters with its time limit out of reach."""
    limit = jnp.asarray(params.max_steps_in_episode)
    most = jnp.iinfo(limit.dtype).max if jnp.issubdtype(limit.dtype, jnp.integer) else jnp.inf
    return params.replace(max_steps_in_episode=jnp.full_like(limit, most))
