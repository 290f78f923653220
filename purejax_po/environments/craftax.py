"""Craftax as gymnax environments, `craftax/Craftax-Symbolic-v1`.

Importing this module imports craftax.
"""

import importlib
from typing import Any

import jax.numpy as jnp
from gymnax.environments import spaces

from purejax_po.checks import check_choice
from purejax_po.environments.adapters import Adapter, Advance, raw
from purejax_po.types import Array, EnvParams, Key, PyTree

# Not an import statement: types are checked without the extra, too.
craftax_env: Any = importlib.import_module("craftax.craftax_env")

NAMES = (
    "Craftax-Classic-Pixels-v1",
    "Craftax-Classic-Symbolic-v1",
    "Craftax-Pixels-v1",
    "Craftax-Symbolic-v1",
)
NEVER = 2**30
"""Steps after which Craftax would call the time limit a termination."""


class Craftax(Adapter):
    """Craftax; its time limit is `max_steps_in_episode`, and truncates.

    Worlds are generated in every reset: with many environments a pool of starts is far cheaper.

    Args:
        task: e.g. `"Craftax-Symbolic-v1"`.
        reset_pool: see `Adapter`.

    Raises:
        ValueError: for an unknown name.

    Source: Matthews et al. 2024, Craftax: A Lightning-Fast Benchmark for Open-Ended RL.
    """

    def __init__(self, task: str, reset_pool: int = 0):
        super().__init__(reset_pool)
        check_choice("craftax environment", task, NAMES)
        self.game = craftax_env.make_craftax_env_from_name(task, auto_reset=False)
        self._limit = int(self.game.default_params.max_timesteps)
        self._rules = self.game.default_params.replace(max_timesteps=NEVER)
        self._name = f"craftax/{task}"

    def start(self, key: Key) -> tuple[Array, PyTree]:
        """Generate a world."""
        return self.game.reset_env(raw(key), self._rules)

    def advance(self, key: Key, inner: PyTree, action: Array) -> Advance:
        """Step."""
        obs, inner, reward, done, _ = self.game.step_env(raw(key), inner, action, self._rules)
        return Advance(obs, inner, reward, done)

    @property
    def num_actions(self) -> int:
        """As Craftax says."""
        return int(self.game.action_space(self._rules).n)

    def action_space(self, params: EnvParams = None) -> spaces.Discrete:
        """As Craftax's."""
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: EnvParams = None) -> spaces.Box:
        """A vector of symbols, or an image."""
        return spaces.Box(0.0, 1.0, self.game.observation_space(self._rules).shape, jnp.float32)
