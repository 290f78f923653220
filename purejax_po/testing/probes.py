"""Five probe environments of known values, each solved only if one thing is learned.

All are one class, two states and two actions, told apart by traced parameters: one compiled program
trains on the five of them side by side. After rejax's `tests/environments.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from purejax_po.training import make_train, make_trainer
from purejax_po.types import Algorithm, EnvParams, Hyperparams, Key, PyTree

DISCOUNT = 0.5


@struct.dataclass
class ProbeState(environment.EnvState):
    """Which of the two states it is."""

    index: jax.Array


@struct.dataclass(kw_only=True)
class ProbeParams(environment.EnvParams):
    """What tells one probe from another."""

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
    """Two states, two actions; every step moves on to state 1."""

    @property
    def default_params(self):
        """Return those of the first probe."""
        return VALUE

    def reset_env(self, key, params):
        """Start in one of the states."""
        index = jax.random.bernoulli(key, params.start).astype(jnp.int32)
        state = ProbeState(index=index, time=jnp.int32(0))
        return self.observe(key, state, None, params), state

    def step_env(self, key, state, action, params):
        """Earn the state's reward for the action, and move on."""
        reward = params.reward[state.index, action]
        state = ProbeState(index=jnp.int32(1), time=state.time + 1)
        obs = self.observe(key, state, action, params)
        return obs, state, reward, self.is_terminated(state, params), {}

    def observe(self, key, state, action, params):
        """Return what the state looks like."""
        return params.observation[state.index][None]

    def is_terminated(self, state, params):
        """Tell whether the episode's length is reached."""
        return state.time >= params.length

    def action_space(self, params):
        """Return two actions."""
        return spaces.Discrete(2)

    def observation_space(self, params):
        """Return one number."""
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


def train(
    algorithm: Algorithm, hyperparams: Hyperparams, *, num_envs: int = 8, num_steps: int = 16
) -> dict[str, dict[int, tuple[float | None, PyTree]]]:
    """Train on the five probes side by side, for 100 updates.

    Args:
        algorithm: with networks for `Probe()`.
        hyperparams: with a discount of `DISCOUNT`, if there is one.

    Returns:
        By probe and observation: the value (None without a critic), and the probabilities of both
        actions.
    """
    trainer = make_trainer(Probe(), VALUE, algorithm, num_envs=num_envs, num_steps=num_steps)
    run_one = make_train(trainer, num_updates=100, log_every=100)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *PROBES.values())
    obs, critic = jnp.array([[-1.0], [0.0], [1.0]]), algorithm.critic

    def one(key: Key, env_params: EnvParams) -> PyTree:
        params = run_one(key, hyperparams, env_params).state.algorithm.params
        start, actor = jnp.zeros(3, bool), algorithm.actor
        distribution: Any = actor.act(params, actor.initial_carry(3), obs, start)[1]
        probability = jnp.exp(jnp.stack([distribution.log_prob(jnp.full(3, a)) for a in (0, 1)]))
        value = obs[:, 0]
        if critic is not None:
            own, carry = critic.params_of(params), critic.initial_carry(3)
            value = critic.step(own, carry, obs, start)[1]
        return value, probability.T

    run_all = jax.jit(jax.vmap(one, in_axes=(None, 0)))
    value, probability = jax.device_get(run_all(jax.random.key(0), stacked))
    return {
        name: {
            int(x): (None if critic is None else float(value[i, j]), probability[i, j])
            for j, x in enumerate(obs[:, 0])
        }
        for i, name in enumerate(PROBES)
    }
