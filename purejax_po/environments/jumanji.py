"""Jumanji's environments as gymnax environments, `jumanji/Snake-v1`.

Importing this module imports jumanji.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from purejax_po.checks import check_choice
from purejax_po.environments.adapters import Adapter, Advance, as_space, raw, vector
from purejax_po.observations import with_mask
from purejax_po.spaces import choices
from purejax_po.types import Action, EnvParams, Key, Observation, PyTree, Space

# Not an import statement: types are checked without the extra, too.
jumanji: Any = importlib.import_module("jumanji")


class Jumanji(Adapter):
    """A Jumanji environment with a discrete or multi-discrete action and one reward.

    Observations are the entries of Jumanji's, in one vector. If the mask of valid actions is among
    them, they are a dictionary: the whole vector as `observation`, and `action_mask` (see `masks`).
    What Jumanji ends with a discount above 0 is truncated.

    Args:
        task: a name that Jumanji knows, e.g. `"Snake-v1"`.
        reset_pool: see `Adapter`.

    Raises:
        ValueError: for an unknown environment, or one of several agents or with other actions.

    Source: Bonnet et al. 2024, Jumanji: a Diverse Suite of Scalable RL Environments in JAX.
    """

    def __init__(self, task: str, reset_pool: int = 0):
        super().__init__(reset_pool)
        check_choice("jumanji environment", task, tuple(jumanji.registered_environments()))
        self.game: Any = jumanji.make(task)
        self._name = f"jumanji/{task}"
        action = self.game.action_spec
        if self.game.reward_spec.shape != ():
            raise ValueError(f"env must have one reward, got {self._name} with one for each agent")
        if isinstance(action, jumanji.specs.DiscreteArray):
            self._actions: Any = spaces.Discrete(int(action.num_values))
        elif isinstance(action, jumanji.specs.MultiDiscreteArray) and action.num_values.ndim == 1:
            choices = [spaces.Discrete(int(n)) for n in action.num_values]
            self._actions = spaces.Tuple(choices)  # type: ignore[arg-type]
        else:
            raise ValueError(f"env must have discrete actions, got {self._name} with {action}")
        self._space = as_space(jax.eval_shape(self.start, jax.random.key(0))[0])

    def start(self, key: Key) -> tuple[Observation, PyTree]:
        """Reset."""
        state, timestep = self.game.reset(raw(key))
        return self._see(timestep.observation), state

    def advance(self, key: Key, inner: PyTree, action: Action) -> Advance:
        """Step."""
        action = jnp.stack(action) if isinstance(action, tuple) else action
        state, timestep = self.game.step(inner, action)
        last, goes_on = timestep.last(), timestep.discount > 0
        obs = self._see(timestep.observation)
        return Advance(obs, state, timestep.reward, last & ~goes_on, last & goes_on)

    def action_space(self, params: EnvParams = None) -> Space:
        """Discrete, or a tuple of discrete spaces."""
        return self._actions

    def observation_space(self, params: EnvParams = None) -> Space:
        """Vectors without bounds, and masks."""
        return self._space

    def _see(self, observation: PyTree) -> Observation:
        """A vector, and the mask if there is one: of coordinates with as many values in a row."""
        if (mask := getattr(observation, "action_mask", None)) is None:
            return vector(observation)
        factors = choices(self._actions)
        if factors is not None and mask.shape != factors.sizes:
            mask = jnp.ravel(mask)
        return with_mask(vector(observation), mask)
