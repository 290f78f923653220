"""What a user brings: a small environment that is right, and with one mistake each."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces


@struct.dataclass
class State(environment.EnvState):
    place: jax.Array


class Grid(environment.Environment):
    """A line of places; the reward is at its right end. Which end it starts at is drawn."""

    def __init__(self, size: int = 4):
        super().__init__()
        self.size = size

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=8)

    def reset_env(self, key, params):
        state = State(time=jnp.int32(0), place=jax.random.randint(key, (), 0, 2))
        return self.look(state), state

    def step_env(self, key, state, action, params):
        place = jnp.clip(state.place + 2 * action - 1, 0, self.size - 1)
        state = State(time=state.time + 1, place=place)
        reward = jnp.float32(place == self.size - 1)
        return self.look(state), state, reward, place == self.size - 1, {}

    def look(self, state):
        return jax.nn.one_hot(state.place, self.size)

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Box(0.0, 1.0, (self.size,))


GRID = Grid(5)
"""An environment rather than a class."""


def make(size: int = 3):
    """A function that makes an environment and its parameters."""
    env = Grid(size)
    return env, env.default_params.replace(max_steps_in_episode=6)


def nothing():
    """Makes no environment."""


def stepping(change):
    """A grid whose six values of `step` are changed."""

    class Changed(Grid):
        def step(self, key, state, action, params=None):
            return change(*super().step(key, state, action, params))

    return Changed


FiveValues = stepping(lambda o, s, r, term, trunc, info: (o, s, r, term | trunc, info))
NoFinal = stepping(lambda o, s, r, term, trunc, info: (o, s, r, term, trunc, {}))
Bools = stepping(lambda o, s, r, term, trunc, info: (o, s, r, False, trunc, info))
IntegerReward = stepping(lambda o, s, r, *rest: (o, s, jnp.int32(r), *rest))
LimitAsEnd = stepping(
    lambda o, s, r, term, trunc, info: (o, s, r, term | trunc, jnp.zeros_like(trunc), info)
)
Endless = stepping(lambda o, s, r, *rest: (o, s, jnp.float32(jnp.nan), *rest))
ChangingState = stepping(lambda o, s, *rest: (o, s.replace(place=jnp.float32(s.place)), *rest))
ChangingStructure = stepping(lambda o, s, *rest: (o, (s, s.place), *rest))


class WrongDtype(Grid):
    def look(self, state):
        return super().look(state).astype(jnp.int32)


class WrongShape(Grid):
    def look(self, state):
        return super().look(state)[None]


class Outside(Grid):
    def look(self, state):
        return 2.0 * super().look(state)


class NoSpace(Grid):
    def action_space(self, params=None):
        return 2


class SpaceWithoutParams(Grid):
    def action_space(self):
        return spaces.Discrete(2)


class FixedKey(Grid):
    def reset_env(self, key, params):
        return super().reset_env(jax.random.key(0), params)


class FixedStepKey(Grid):
    def step_env(self, key, state, action, params):
        slips = jax.random.bernoulli(jax.random.key(1), 0.5)
        return super().step_env(key, state, jnp.where(slips, 1 - action, action), params)


class NumpyNoise(Grid):
    def look(self, state):
        return super().look(state) * np.random.random()
