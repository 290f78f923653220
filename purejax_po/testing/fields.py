"""Environments that tell whether masks and fields of observations are put to use."""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces
from gymnax.environments.classic_control.cartpole import CartPole

from purejax_po.environments.masking import with_action_mask
from purejax_po.types import Action, Array, Environment, EnvParams, EnvState, Info, Key, Observation

PAIRS = 4
"""Of actions in `Levers`."""


class Levers(CartPole):
    """CartPole with four pairs of levers, of which one pair works; another lever ends the episode.

    Each step turns to another pair, which is seen.
    """

    @property
    def name(self) -> str:
        """Its name."""
        return "Levers"

    @property
    def num_actions(self) -> int:
        """All levers."""
        return 2 * PAIRS

    def action_space(self, params: EnvParams = None) -> spaces.Discrete:
        """All levers."""
        return spaces.Discrete(2 * PAIRS)

    def observation_space(self, params: EnvParams = None) -> spaces.Box:
        """CartPole's four numbers, and which pair works."""
        return spaces.Box(-jnp.inf, jnp.inf, (4 + PAIRS,))

    def action_mask(self, state: EnvState, params: EnvParams) -> jax.Array:
        """The pair that works, bool `[8]`."""
        return jnp.arange(2 * PAIRS) // 2 == (3 * state.time) % PAIRS

    def get_obs(
        self, state: EnvState, params: EnvParams = None, key: Key | None = None
    ) -> jax.Array:
        """CartPole's, and the pair, one-hot."""
        pair = jax.nn.one_hot((3 * state.time) % PAIRS, PAIRS)
        return jnp.concatenate([super().get_obs(state), pair])

    def step_env(
        self, key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Observation, EnvState, Array, Array, Info]:
        """Push left or right; a lever that does not work ends the episode."""
        works = self.action_mask(state, params)[action]
        obs, state, reward, terminated, info = super().step_env(key, state, action % 2, params)
        return obs, state, reward, terminated | ~works, info


def masked_levers() -> Environment:
    """`Levers` whose observations tell which of them work."""
    return with_action_mask(Levers())


@struct.dataclass
class DisturbedState(environment.EnvState):
    """What was drawn."""

    obs: dict[str, jax.Array]


class Disturbed(environment.Environment):
    """One step: the action has to be what is seen, but the reward is disturbed by a hidden number.

    A critic that sees the number judges the action; to one that does not, the reward is noise of
    thirty times the size of what the action changes.
    """

    disturbance = 30.0

    @property
    def default_params(self) -> environment.EnvParams:
        """A time limit that is never reached."""
        return environment.EnvParams(max_steps_in_episode=2)

    @property
    def num_actions(self) -> int:
        """Four."""
        return 4

    @property
    def name(self) -> str:
        """Its name."""
        return "Disturbed"

    def action_space(self, params: EnvParams = None) -> spaces.Discrete:
        """Four actions."""
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: EnvParams = None) -> spaces.Dict:
        """What is seen, and with it what is hidden."""
        seen = spaces.Box(0.0, 1.0, (self.num_actions,))
        hidden = spaces.Box(-jnp.inf, jnp.inf, (self.num_actions + 1,))
        return spaces.Dict({"state": seen, "privileged_state": hidden})

    def reset_env(self, key: Key, params: EnvParams) -> tuple[Observation, EnvState]:
        """Draw what is seen, and the disturbance, plus or minus one."""
        index_key, sign_key = jax.random.split(key)
        seen = jax.nn.one_hot(jax.random.randint(index_key, (), 0, self.num_actions), 4)
        sign = jax.random.rademacher(sign_key, (), jnp.float32)
        obs = {"state": seen, "privileged_state": jnp.append(seen, sign)}
        return obs, DisturbedState(time=jnp.int32(0), obs=obs)  # type: ignore[arg-type]

    def step_env(
        self, key: Key, state: EnvState, action: Action, params: EnvParams
    ) -> tuple[Observation, EnvState, Array, Array, Info]:
        """1 for the right action, and the disturbance."""
        right = state.obs["state"][action]
        reward = right + self.disturbance * state.obs["privileged_state"][-1]
        state = state.replace(time=state.time + 1)
        return state.obs, state, reward, jnp.bool_(True), {}

    def is_terminated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """After one step."""
        return state.time >= 1
