"""XLand-MiniGrid's environments as gymnax environments, `xminigrid/MiniGrid-Empty-8x8`.

Importing this module imports xminigrid.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from purejax_po.environments.adapters import Adapter, Advance, EnvParams, raw
from purejax_po.environments.carried import Carried
from purejax_po.environments.catalogue import check_task
from purejax_po.types import Action, Array, EnvState, Info, Key, Observation, PyTree

# Not an import statement: types are checked without the extra, too.
xmg: Any = importlib.import_module("xminigrid")

NEVER = 2**30
"""Steps after which the library itself would cut an episode: its limit is not traced, ours is."""


class Xminigrid(Adapter):
    """An environment of XLand-MiniGrid; its time limit is `max_steps_in_episode`.

    At the goal the reward is 1 − 0.9·t/limit, t and the limit in steps. Observed are the
    squares before the agent (7 × 7, in XLand 5 × 5) as pairs (tile, colour), float32 as numbered.

    Args:
        task: a name that the library knows, e.g. `"MiniGrid-Empty-8x8"`.
        ruleset: of XLand tasks, a rule set of one of the library's benchmarks, which it downloads;
            the library's default, without rules or goal, if it is not given.
        reset_pool: see `Adapter`.

    Raises:
        ValueError: for an unknown task, or a rule set where the task takes none.

    Source: Nikulin et al. 2024, XLand-MiniGrid: Scalable Meta-Reinforcement Learning in JAX.
    """

    def __init__(self, task: str, ruleset: PyTree = None, reset_pool: int = 0):
        super().__init__(reset_pool)
        check_task("xminigrid", task, tuple(xmg.registered_environments()))
        self._name = f"xminigrid/{task}"
        self.game, rules = xmg.make(task)
        self._limit = int(rules.max_steps)
        self._rules = rules.replace(max_steps=NEVER)
        if ruleset is not None:
            if not hasattr(rules, "ruleset"):
                raise ValueError(f"env {self._name} takes no ruleset; XLand tasks do")
            self._rules = self._rules.replace(ruleset=ruleset)
        example = jax.eval_shape(lambda: self.game.reset(self._rules, raw(jax.random.key(0))))
        self._shape = example.observation.shape
        self._carried = Carried(self._step, example, jax.ShapeDtypeStruct((), jnp.int32))

    def start(self, key: Key) -> tuple[Array, tuple[Array, ...]]:
        """Generate a grid."""
        timestep = self.game.reset(self._rules, raw(key))
        return timestep.observation.astype(jnp.float32), self._carried.reduce(timestep)

    def step_env(
        self, key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Observation, EnvState, Array, Array, Info]:
        """Step without a reset; the reward falls with the time that it took."""
        obs, state, succeeded, terminated, info = super().step_env(key, state, action, params)
        reward = succeeded * (1.0 - 0.9 * state.time / params.max_steps_in_episode)
        return obs, state, reward, terminated, info

    def advance(self, key: Key, inner: tuple[Array, ...], action: Array) -> Advance:
        """Move; the reward is 1 where the goal is reached, and 0 at an end that is a failure."""
        (obs, succeeded, ended), timestep = self._step(self._carried.restore(inner), action)
        return Advance(obs, self._carried.reduce(timestep), succeeded, ended)

    @property
    def num_actions(self) -> int:
        """As the library says."""
        return self.game.num_actions(self._rules)

    def action_space(self, params: EnvParams | None = None) -> spaces.Discrete:
        """Go, turn right or left, pick up, put down, toggle."""
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: EnvParams | None = None) -> spaces.Box:
        """The view, in small whole numbers."""
        return spaces.Box(0, 255, self._shape, jnp.float32)

    def _step(self, timestep: PyTree, action: Array) -> tuple[PyTree, PyTree]:
        """What a step is made for, and the state after it."""
        new = self.game.step(self._rules, timestep, action)
        obs = new.observation.astype(jnp.float32)
        return (obs, new.reward > 0.0, new.discount == 0.0), new
