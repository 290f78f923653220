"""NAVIX's environments, MiniGrid in JAX, as gymnax environments: `navix/Navix-Empty-8x8-v0`.

Importing this module imports navix.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from purejax_po.checks import check_choice
from purejax_po.environments.adapters import Adapter, Advance, raw
from purejax_po.environments.carried import Carried
from purejax_po.environments.catalogue import check_task
from purejax_po.types import Array, EnvParams, Key, PyTree

# Not an import statement: types are checked without the extra, too.
nx: Any = importlib.import_module("navix")

VIEWS = (
    "categorical",
    "categorical_first_person",
    "rgb",
    "rgb_first_person",
    "symbolic",
    "symbolic_first_person",
)
NEVER = 2**30
"""Steps after which navix itself would cut an episode: its limit is not traced, ours is."""


class Navix(Adapter):
    """A NAVIX environment; its time limit is `max_steps_in_episode`, 100 steps as navix makes it.

    Symbols are float32 as they are numbered, pictures bytes. Of navix's state is carried what the
    next step reads: not its table of pictures, 12 kB for each environment.

    Args:
        task: a name that navix knows, e.g. `"Navix-Empty-8x8-v0"`.
        view: what is observed, by the name of a function of `navix.observations`: the 7 × 7 squares
            before the agent, or with a name without `first_person` the whole grid.
        reset_pool: see `Adapter`.

    Raises:
        ValueError: for an unknown task or view.

    Source: Pignatelli et al. 2024, NAVIX: Scaling MiniGrid Environments with JAX.
    """

    def __init__(self, task: str, view: str = "symbolic_first_person", reset_pool: int = 0):
        super().__init__(reset_pool)
        check_task("navix", task, tuple(nx.registry()))
        check_choice("view", view, VIEWS)
        self._limit, self._name = int(nx.make(task).max_steps), f"navix/{task}"
        observe = getattr(nx.observations, view)
        self.game = nx.make(task, observation_fn=observe, max_steps=NEVER)
        self._dtype = jnp.uint8 if view.startswith("rgb") else jnp.float32
        example = jax.eval_shape(lambda: self.game.reset(raw(jax.random.key(0))))
        self._shape = example.observation.shape
        action = jax.ShapeDtypeStruct((), jnp.int32)
        self._carried = Carried(self._step, example, action)

    def start(self, key: Key) -> tuple[Array, tuple[Array, ...]]:
        """Generate a grid."""
        timestep = self.game.reset(raw(key))
        return timestep.observation.astype(self._dtype), self._carried.reduce(timestep)

    def advance(self, key: Key, inner: tuple[Array, ...], action: Array) -> Advance:
        """Move."""
        (obs, reward, terminated), timestep = self._step(self._carried.restore(inner), action)
        return Advance(obs, self._carried.reduce(timestep), reward, terminated)

    @property
    def num_actions(self) -> int:
        """As navix says."""
        return len(self.game.action_set)

    def action_space(self, params: EnvParams = None) -> spaces.Discrete:
        """Turn, go, pick up, drop, toggle, be done."""
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: EnvParams = None) -> spaces.Box:
        """The view, in numbers up to 255."""
        return spaces.Box(0, 255, self._shape, self._dtype)

    def _step(self, timestep: PyTree, action: Array) -> tuple[PyTree, PyTree]:
        """What a step is made for, and the state after it; navix's `step` would begin anew."""
        new = self.game._step(timestep, action).replace(info=timestep.info)
        obs = new.observation.astype(self._dtype)
        return (obs, new.reward, new.is_termination()), new
