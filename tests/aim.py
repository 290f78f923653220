"""One step of continuous actions, whose best ones are known."""

import jax
import jax.numpy as jnp
from gymnax.environments import environment, spaces

from purejax_po.testing.probes import ProbeState


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
