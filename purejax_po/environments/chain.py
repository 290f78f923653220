"""A chain with its only reward at the end: exploration by chance alone is hopeless.

Importing this module imports gymnax, which takes seconds.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from purejax_po.checks import check_count
from purejax_po.types import Action, Array, Info, Key

NUM_ACTIONS = 3


@struct.dataclass
class EnvState(environment.EnvState):
    """The position on the chain; `time` counts the steps of the episode."""

    position: Array


@struct.dataclass
class EnvParams(environment.EnvParams):
    """The time limit, traced."""

    max_steps_in_episode: int = 16


class Chain(environment.Environment[EnvState, EnvParams]):
    """Positions 0, …, H: in position s the action s mod 3 advances, the others return to 0.

    The step that reaches H earns the only reward, 1, and terminates the episode. By default an
    episode is truncated after H steps: a uniform random policy has one attempt, and earns the
    reward with probability (1/3)^H exactly (16 positions: 2.3e-8). No two neighbouring positions
    share an action, so that a policy which prefers one action everywhere gets nowhere.

    Args:
        length: H, the number of right actions in a row that the reward takes.

    Raises:
        ValueError: if the length is not a positive whole number.
    """

    def __init__(self, length: int = 16):
        super().__init__()
        check_count("length", length)
        self.length = length

    @property
    def default_params(self) -> EnvParams:
        """A limit of H steps."""
        return EnvParams(max_steps_in_episode=self.length)

    def advancing_action(self, position: Array) -> Array:
        """The action that advances, int32 `[...]`, in positions `[...]`."""
        return jnp.asarray(position, jnp.int32) % NUM_ACTIONS

    def states(self) -> EnvState:
        """Every state that an episode can go on from, leaves `[H]`: for `reset_from`."""
        position = jnp.arange(self.length, dtype=jnp.int32)
        return EnvState(position=position, time=jnp.zeros_like(position))  # type: ignore[arg-type]

    def step_env(
        self, key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Array, EnvState, Array, Array, Info]:
        """Advance or return to the start."""
        advances = action == self.advancing_action(state.position)
        position = jnp.where(advances, state.position + 1, 0)
        state = EnvState(position=position, time=state.time + 1)
        terminated = self.is_terminated(state, params)
        return (
            self.get_obs(state),
            state,
            terminated.astype(jnp.float32),
            terminated,
            {"discount": self.discount(state, params)},
        )

    def reset_env(self, key: Key, params: EnvParams) -> tuple[Array, EnvState]:
        """Start in position 0."""
        zero = jnp.zeros((), jnp.int32)
        state = EnvState(position=zero, time=zero)  # type: ignore[arg-type]
        return self.get_obs(state), state

    def get_obs(
        self, state: EnvState, params: EnvParams | None = None, key: Key | None = None
    ) -> Array:
        """The position, one-hot, float32 `[H + 1]`."""
        return jax.nn.one_hot(state.position, self.length + 1, dtype=jnp.float32)

    def is_terminated(self, state: EnvState, params: EnvParams) -> Array:
        """Whether the end is reached."""
        return state.position == self.length

    @property
    def name(self) -> str:
        """The environment's id."""
        return "Chain-v0"

    @property
    def num_actions(self) -> int:
        """Three."""
        return NUM_ACTIONS

    def action_space(self, params: EnvParams | None = None) -> spaces.Discrete:
        """Actions 0, 1, 2."""
        return spaces.Discrete(NUM_ACTIONS)

    def observation_space(self, params: EnvParams | None = None) -> spaces.Box:
        """One-hot vectors `[H + 1]`."""
        return spaces.Box(0.0, 1.0, (self.length + 1,), dtype=jnp.float32)

    def state_space(self, params: EnvParams) -> spaces.Dict:
        """The position and the time."""
        return spaces.Dict(
            {
                "position": spaces.Discrete(self.length + 1),
                "time": spaces.Discrete(params.max_steps_in_episode),
            }
        )
