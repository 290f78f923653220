"""Gymnasium's environments, stepped in Python: `gymnasium/CartPole-v1`.

A program calls back to the host once for each step, with the actions of all its environments, those
of all lanes among them. That is thousands of steps a second at best: meant for evaluation, and for
small training runs.

Importing this module imports gymnasium.
"""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment

from purejax_po import spaces
from purejax_po.checks import how_to_install
from purejax_po.environments.adapters import EnvParams, raw
from purejax_po.environments.callback import call
from purejax_po.environments.catalogue import check_task
from purejax_po.environments.host import HANDLE, Host
from purejax_po.types import Action, Array, Info, Key, Space

# Not an import statement: this module has the library's name.
library: Any = importlib.import_module("gymnasium")

WITHOUT_LIMIT = -1
"""Tells gymnasium that the time limit is counted here."""


@struct.dataclass
class EnvState(environment.EnvState):
    """Which environment on the host it is; `time` counts the episode's steps."""

    handle: Array
    """By which the host finds it, int32 `[3]`."""
    obs: Array


class Gymnasium(environment.Environment[EnvState, EnvParams]):
    """A Gymnasium environment on the host; its time limit is `max_steps_in_episode`.

    Its episodes are drawn from the seed that the key of the first reset gives, and go on from there
    as Gymnasium's own generator does. They do not depend on other environments, so that the same
    actions give the same rewards in any grouping of lanes. A state whose environment is no longer
    there (that of a checkpoint, in another process) is cut in the midst of its episode: its next
    step is `truncated`, without a reward, and begins a new episode. So a resumed run is not the
    uninterrupted one to the last bit.

    Observations that are no arrays (dictionaries, tuples) are flattened by Gymnasium.

    Args:
        task: a name that Gymnasium knows, e.g. `"CartPole-v1"`.

    Raises:
        ValueError: for an unknown task, or one that Gymnasium cannot make.

    Source: Towers et al. 2024, Gymnasium: A Standard Interface for RL Environments.
    """

    deterministic = False
    """A resumed run is not bitwise the one that was never interrupted."""

    def __init__(self, task: str):
        super().__init__()
        check_task("gymnasium", task, tuple(library.registry))
        self._name = f"gymnasium/{task}"
        self._limit = library.spec(task).max_episode_steps
        example = _make(task)
        self._obs_space, self._action_space = example.observation_space, example.action_space
        if spaces.kind(self._action_space) in ("unknown", "dictionary"):
            raise ValueError(f"env {self._name} must have arrays as actions: {self._action_space}")
        example.close()
        shape, dtype = self._obs_space.shape, _dtype(self._obs_space.dtype)
        self._obs = jax.ShapeDtypeStruct(shape, dtype)
        self._host = Host(lambda: _make(task), shape, dtype)

    @property
    def default_params(self) -> EnvParams:
        """Gymnasium's own time limit; none is 2³⁰ steps."""
        return EnvParams(max_steps_in_episode=self._limit or 2**30)

    @property
    def name(self) -> str:
        """The environment's id."""
        return self._name

    @property
    def num_actions(self) -> int:
        """As Gymnasium says."""
        return int(self._action_space.n)

    def action_space(self, params: EnvParams | None = None) -> Space:
        """Gymnasium's own space."""
        return self._action_space

    def observation_space(self, params: EnvParams | None = None) -> Space:
        """Gymnasium's own space."""
        return self._obs_space

    @functools.partial(jax.jit, static_argnames=("self",))
    def reset(self, key: Key, params: EnvParams | None = None) -> tuple[Array, EnvState]:
        """Begin an episode in an environment of its own."""
        returned = (self._obs, jax.ShapeDtypeStruct((HANDLE,), jnp.int32))
        obs, handle = call(self._host.begin, returned, raw(key))
        time = jnp.zeros((), jnp.int32)
        return obs, EnvState(time=time, handle=handle, obs=obs)  # type: ignore[arg-type]

    @functools.partial(jax.jit, static_argnames=("self",))
    def step(
        self, key: Key, state: EnvState, action: Action, params: EnvParams | None = None
    ) -> tuple[Array, EnvState, Array, Array, Array, Info]:
        """Step, and reset where the episode has ended: six values, as gymnax."""
        params = self.default_params if params is None else params
        is_last = state.time + 1 >= params.max_steps_in_episode
        returned = (
            self._obs,
            self._obs,
            jax.ShapeDtypeStruct((), jnp.float32),
            jax.ShapeDtypeStruct((), jnp.bool_),
            jax.ShapeDtypeStruct((), jnp.bool_),
            jax.ShapeDtypeStruct((HANDLE,), jnp.int32),
        )
        if not isinstance(action, tuple):
            action = jnp.asarray(action, _dtype(self._action_space.dtype))
        obs, final, reward, terminated, truncated, handle = call(
            self._host.advance, returned, raw(key), state.handle, is_last, state.obs, action
        )
        time = jnp.where(terminated | truncated, 0, state.time + 1)
        state = EnvState(time=time, handle=handle, obs=obs)  # type: ignore[arg-type]
        info = {"terminated": terminated, "truncated": truncated, "final_observation": final}
        return obs, state, reward, terminated, truncated, info


def _make(task: str) -> Any:
    """Make one environment, without a time limit and with arrays as observations."""
    try:
        env = library.make(task, max_episode_steps=WITHOUT_LIMIT, disable_env_checker=True)
    except Exception as error:  # whatever the library of a task raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = f"; {how_to_install('gymnasium')}" * isinstance(error, ImportError)
        raise ValueError(f"env gymnasium/{task} cannot be made: {reason}{hint}") from None
    if spaces.kind(env.observation_space) in ("dictionary", "tuple", "unknown"):
        env = library.wrappers.FlattenObservation(env)
    return env


def _dtype(dtype: np.dtype) -> np.dtype:
    """How observations come to the device: float32 or whole numbers of at most 32 bits."""
    if np.issubdtype(dtype, np.floating):
        return np.dtype(np.float32)
    return np.dtype(np.int32) if np.dtype(dtype).itemsize > 4 else np.dtype(dtype)
