"""Pgx's games for one player as gymnax environments, `pgx/minatar-breakout`.

Importing this module imports pgx.
"""

import importlib
from typing import Any, get_args

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from purejax_po.checks import check_choice
from purejax_po.environments.adapters import Adapter, Advance, as_space, raw
from purejax_po.observations import with_mask
from purejax_po.types import Array, EnvParams, Key, Observation, PyTree

# Not an import statement: types are checked without the extra, too.
pgx: Any = importlib.import_module("pgx")


class Pgx(Adapter):
    """A pgx game with one player; an illegal action ends the episode by pgx's own rule.

    Observations are a dictionary: pgx's own as `observation`, and `action_mask` (see `masks`).

    Args:
        task: a name that pgx knows, e.g. `"minatar-breakout"` or `"2048"`.
        reset_pool: see `Adapter`.

    Raises:
        ValueError: for an unknown game, or one of several players.

    Source: Koyamada et al. 2023, Pgx: Hardware-Accelerated Parallel Game Simulators.
    """

    def __init__(self, task: str, reset_pool: int = 0):
        super().__init__(reset_pool)
        check_choice("pgx environment", task, get_args(pgx.EnvId))
        self.game = pgx.make(task)
        if self.game.num_players != 1:
            raise ValueError(
                f"env must be a game of one player, got pgx/{task} of {self.game.num_players}"
            )
        self._name = f"pgx/{task}"

    def start(self, key: Key) -> tuple[Observation, PyTree]:
        """Begin a game."""
        state = self.game.init(raw(key))
        return _observed(state), state

    def advance(self, key: Key, inner: PyTree, action: Array) -> Advance:
        """Move."""
        state = self.game.step(inner, action, raw(key))
        return Advance(_observed(state), state, state.rewards[0], state.terminated, state.truncated)

    @property
    def num_actions(self) -> int:
        """Moves, legal or not."""
        return self.game.num_actions

    def action_space(self, params: EnvParams = None) -> spaces.Discrete:
        """Moves, legal or not."""
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: EnvParams = None) -> spaces.Dict:
        """Planes of the board, and which moves are legal."""
        return as_space(jax.eval_shape(self.start, jax.random.key(0))[0])


def _observed(state: PyTree) -> Observation:
    return with_mask(state.observation.astype(jnp.float32), state.legal_action_mask)
