"""MuJoCo Playground's environments as gymnax environments, `playground/CartpoleBalance`.

Importing this module imports mujoco_playground, which takes seconds.
"""

import importlib
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from subprocess import CalledProcessError
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from purejax_po.checks import check_choice
from purejax_po.environments.adapters import Adapter, Advance, as_space, raw
from purejax_po.environments.carried import Carried
from purejax_po.environments.catalogue import check_task
from purejax_po.types import Array, EnvParams, Key, Observation, PyTree, Space

# Not an import statement: types are checked without the extra, too.
with redirect_stdout(StringIO()):
    registry: Any = importlib.import_module("mujoco_playground").registry

IMPLEMENTATIONS = ("jax", "warp")
NEVER = 2**30
"""Steps after which Playground itself would end an episode: its limit is not traced, ours is."""


class Playground(Adapter):
    """An environment of MuJoCo Playground; actions are in [−1, 1].

    Robots observe a dictionary, such as `state` and `privileged_state`: of this the critic sees all
    and the policy what is not privileged, unless they are told otherwise (`policy_fields`).
    `terminated` is Playground's `done`, `truncated` the time limit `max_steps_in_episode`. Of the
    state are carried the leaves that the next step reads, and no metrics.

    Args:
        task: a name that Playground knows, e.g. `"CartpoleBalance"`.
        impl: the physics: `"jax"` (MJX, on any device) or `"warp"` (for GPUs of NVIDIA); `"jax"`
            unless there is a GPU, on which the task's own default is taken.
        observed: which one of a robot's several observations is seen, e.g. `"state"`; all by
            default.
        reset_pool: see `Adapter`.

    Raises:
        ValueError: for an unknown task, implementation or observation, and for robots whose models
            Playground would have to download and cannot.

    Source: Zakka et al. 2025, MuJoCo Playground.
    """

    def __init__(
        self,
        task: str,
        impl: str | None = None,
        observed: str | None = None,
        reset_pool: int = 0,
    ):
        super().__init__(reset_pool)
        check_task("playground", task, tuple(registry.ALL_ENVS))
        self._name, self._observed = f"playground/{task}", observed
        self._limit = int(registry.get_default_config(task).episode_length)
        self.game = _load(task, impl)
        example = jax.eval_shape(lambda: self.game.reset(raw(jax.random.key(0))))
        if observed is not None and isinstance(example.obs, Mapping):
            check_choice(f"observed of {self._name}", observed, tuple(example.obs))
        self._space = as_space(self._see(example.obs))
        action = jax.ShapeDtypeStruct((self.game.action_size,), jnp.float32)
        self._carried = Carried(self._step, example, action)

    def start(self, key: Key) -> tuple[Observation, PyTree]:
        """Reset."""
        state = self.game.reset(raw(key))
        return self._see(state.obs), self._carried.reduce(state)

    def advance(self, key: Key, inner: tuple[Array, ...], action: Array) -> Advance:
        """Step."""
        (obs, reward, done), state = self._step(self._carried.restore(inner), action)
        return Advance(obs, self._carried.reduce(state), reward, done > 0)

    def action_space(self, params: EnvParams = None) -> spaces.Box:
        """The command of each actuator, in [−1, 1]."""
        return spaces.Box(-1.0, 1.0, (self.game.action_size,))

    def observation_space(self, params: EnvParams = None) -> Space:
        """Vectors without bounds, by name where there are several."""
        return self._space

    def _see(self, obs: Observation) -> Observation:
        if not isinstance(obs, Mapping):
            return obs
        return dict(obs) if self._observed is None else obs[self._observed]

    def _step(self, state: PyTree, action: Array) -> tuple[PyTree, PyTree]:
        """What a step is made for, and the state after it."""
        state = self.game.step(state, action)
        return (self._see(state.obs), state.reward, state.done), state


def _load(task: str, impl: str | None) -> Any:
    """Make Playground's own environment; of a download that fails one line tells."""
    config = registry.get_default_config(task)
    if impl is None and jax.default_backend() != "gpu":
        impl = "jax"
    if impl is not None:
        check_choice(f"impl of playground/{task}", impl, IMPLEMENTATIONS)
    overrides = {"impl": impl} if impl is not None and "impl" in config else {}
    try:
        with redirect_stderr(StringIO()):
            return registry.load(task, config_overrides=overrides)
    except (CalledProcessError, OSError) as error:
        path = importlib.import_module("mujoco_playground._src.mjx_env").MENAGERIE_PATH
        raise ValueError(
            f"env playground/{task} needs the robots of mujoco_menagerie, which could not be "
            f"downloaded ({type(error).__name__}): git clone "
            f"https://github.com/google-deepmind/mujoco_menagerie {path}"
        ) from None
