"""Five probe environments of known values, each solved only if one thing is learned.

All are one class, two states and two actions, told apart by traced parameters: one compiled program
trains on the five of them side by side. After rejax's `tests/environments.py`.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

DISCOUNT = 0.5


@struct.dataclass
class ProbeState(environment.EnvState):
    index: jax.Array


@struct.dataclass(kw_only=True)
class ProbeParams(environment.EnvParams):
    observation: jax.Array
    """What state s looks like, `[2]`."""
    reward: jax.Array
    """R[s, a], `[2, 2]`."""
    start: jax.Array
    """Probability of starting in state 1."""
    length: jax.Array
    """Steps until the episode terminates; each moves on to state 1."""
    max_steps_in_episode: int = 10


class Probe(environment.Environment[ProbeState, ProbeParams]):
    @property
    def default_params(self):
        return VALUE

    def reset_env(self, key, params):
        index = jax.random.bernoulli(key, params.start).astype(jnp.int32)
        state = ProbeState(index=index, time=jnp.int32(0))
        return self.observe(key, state, None, params), state

    def step_env(self, key, state, action, params):
        reward = params.reward[state.index, action]
        state = ProbeState(index=jnp.int32(1), time=state.time + 1)
        obs = self.observe(key, state, action, params)
        return obs, state, reward, self.is_terminated(state, params), {}

    def observe(self, key, state, action, params):
        return params.observation[state.index][None]

    def is_terminated(self, state, params):
        return state.time >= params.length

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (1,))


def _probe(observation, reward, start, length=1):
    return ProbeParams(
        observation=jnp.asarray(observation, jnp.float32),
        reward=jnp.asarray(reward, jnp.float32),
        start=jnp.float32(start),
        length=jnp.int32(length),
    )


VALUE = _probe([0, 0], [[1, 1], [1, 1]], start=0.0)
"""One step, always reward 1: V = 1."""
OBSERVATION = _probe([-1, 1], [[-1, -1], [1, 1]], start=0.5)
"""One step, the reward is what is seen: V(obs) = obs."""
DISCOUNTED = _probe([0, 1], [[0, 0], [1, 1]], start=0.0, length=2)
"""Two steps, the second one earns 1: V = γ, then 1."""
ACTION = _probe([0, 0], [[-1, 1], [-1, 1]], start=0.0)
"""One step; action 1 earns 1, action 0 earns −1."""
POLICY = _probe([-1, 1], [[1, -1], [-1, 1]], start=0.5)
"""One step; the action has to be the number of the state seen."""

PROBES = {
    "value": VALUE,
    "observation": OBSERVATION,
    "discount": DISCOUNTED,
    "action": ACTION,
    "policy": POLICY,
}
VALUES = {"value": {0: 1}, "observation": {-1: -1, 1: 1}, "discount": {0: DISCOUNT, 1: 1}}
"""True values by observation, where they do not depend on the policy."""
ACTIONS = {"action": {0: 1}, "policy": {-1: 0, 1: 1}}
"""The best action by observation, where there is one."""


class Aim(environment.Environment):
    """One step: the action in [1, 3] has to be 1.3 where −1 is seen and 2.6 where 1 is."""

    BEST = jnp.array([1.3, 2.6])

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=10)

    def reset_env(self, key, params):
        index = jax.random.bernoulli(key).astype(jnp.int32)
        state = ProbeState(index=index, time=jnp.int32(0))
        return self.look(index), state

    def step_env(self, key, state, action, params):
        reward = -jnp.square(action[0] - self.BEST[state.index])
        return self.look(state.index), state, reward, jnp.bool_(True), {}

    def look(self, index):
        return jnp.float32(2 * index - 1)[None]

    def action_space(self, params):
        return spaces.Box(1.0, 3.0, (1,))

    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (1,))
