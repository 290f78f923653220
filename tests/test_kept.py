"""What a wrapper keeps of the environment inside: parameters, ends, fields, keys, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment, spaces

import purejax_po as po
from purejax_po import environments
from purejax_po.environments import masking, stacking


@struct.dataclass
class State(environment.EnvState):
    x: jax.Array


@struct.dataclass
class Params(environment.EnvParams):
    max_steps_in_episode: int = 10


class Before(environment.Environment):
    """Says how an episode ends as gymnax did before 1.0."""

    name = "Before"
    default_params = Params()

    def reset_env(self, key, params):
        return jnp.zeros(1), State(time=jnp.int32(0), x=jnp.int32(0))

    def step_env(self, key, state, action, params):
        state = State(time=state.time + 1, x=state.x + action)
        done = self.is_terminal(state, params)
        return jnp.float32(state.x)[None], state, jnp.float32(1), done, {}

    def is_terminal(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(0, 100, (1,))


class Fields(Before):
    """Observes a dictionary, and masks an action."""

    def observe(self, key, state, action, params):
        return {"a": jnp.float32(state.x)[None], "b": jnp.float32(state.time)[None]}

    def reset_env(self, key, params):
        state = State(time=jnp.int32(0), x=jnp.int32(0))
        return self.observe(key, state, 0, params), state

    def step_env(self, key, state, action, params):
        state = State(time=state.time + 1, x=state.x + action)
        return self.observe(key, state, 0, params), state, jnp.float32(1), state.x >= 50, {}

    def action_mask(self, state, params):
        return jnp.stack([state.x >= 0, state.x < 3])

    def observation_space(self, params):
        return spaces.Dict(dict.fromkeys("ab", spaces.Box(-100, 100, (1,))))

    def is_terminated(self, state, params):
        return state.x >= 50


@struct.dataclass
class Drawing(environment.EnvState):
    x: jax.Array
    key: jax.Array


class Noisy(Before):
    """Draws from a key of its own."""

    def reset_env(self, key, params):
        return jnp.zeros(1), Drawing(time=jnp.int32(0), x=jnp.zeros(1), key=key)

    def step_env(self, key, state, action, params):
        own, draw = jax.random.split(state.key)
        x = state.x + jax.random.normal(draw, (1,))
        new = Drawing(time=state.time + 1, x=x, key=own)
        return x, new, jnp.float32(1), jnp.bool_(False), {}

    def is_terminated(self, state, params):
        return jnp.bool_(False)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (1,))


@pytest.mark.parametrize("wrappers", [[], ["frame_stack:2"], ["time_limit:500"]])
def test_parameters_that_a_function_gives_are_kept(wrappers):
    def light():
        env, env_params = environments.make("Pendulum-v1")
        return env, env_params.replace(g=1.0, m=0.5)

    env, env_params = environments.make(light, wrappers=wrappers)
    assert (env_params.g, env_params.m) == (1.0, 0.5)
    key, action = jax.random.key(0), jnp.ones(1)
    _, state = env.reset(key)
    for given in (env_params, None):
        assert env.step(key, state, action, given)[2] == env.step(key, state, action, env_params)[2]


@pytest.mark.parametrize("wrappers", [[], ["frame_stack:2"], ["reward_scale:0.1"]])
def test_an_end_of_before_1_0_is_refused_around_and_inside(wrappers):
    env, env_params = environments.make(Before(), wrappers=wrappers)
    algorithm = po.a2c(*po.mlp_actor_critic(env, env_params, hidden=(4,)))
    with pytest.raises(ValueError, match="is_terminal, but not is_terminated"):
        po.make_trainer(env, env_params, algorithm, num_envs=2, num_steps=4)


@pytest.mark.parametrize("around", [lambda env: stacking.reward_scale(env, 2.0), lambda env: env])
def test_states_with_several_fields_are_begun_at(around):
    states = State(time=jnp.zeros(3, jnp.int32), x=jnp.arange(3, dtype=jnp.int32))
    env = po.reset_from(around(masking.with_action_mask(Fields())), states)
    for seed in range(4):
        obs, _ = env.reset(jax.random.key(seed), env.default_params)
        assert set(obs) == {"a", "b", "action_mask"}
        assert 0 <= obs["a"][0] <= 2
        np.testing.assert_array_equal(obs["action_mask"], [True, True])


def test_a_limit_that_is_no_parameter_is_refused_by_shaping():
    env, _ = environments.make("CartPole-v1", wrappers=["action_repeat:2", "time_limit:3"])
    with pytest.raises(ValueError, match="wrap the environment inside of it"):
        po.shape_reward(env, lambda state: state.x, discount=1.0)


def test_a_state_may_hold_a_key():
    env = Noisy()
    assert po.check_env(env) == []
    algorithm = po.a2c(*po.mlp_actor_critic(env, env.default_params, hidden=(4,)))
    trainer = po.make_trainer(env, env.default_params, algorithm, num_envs=2, num_steps=5)
    state = trainer.init(jax.random.key(0), algorithm.hyperparams)
    for _ in range(2):
        state, log = trainer.step(algorithm.hyperparams, state)
    assert (log.episode_length.count, log.episode_length.mean) == (2, 10)
    state, _ = trainer.step(algorithm.hyperparams, state)
    assert state.rollout.obs[0] != state.rollout.obs[1]
