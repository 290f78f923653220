"""Environments written for gymnax before 1.0: recognised, and brought to six values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment, spaces
from gymnax.environments.classic_control import cartpole

import purejax_po as po
from purejax_po import contract, environments

NEW = cartpole.CartPole()


class Plain:
    """CartPole as it was before 1.0, in a class of its own."""

    name = "OldCartPole"
    default_params = cartpole.EnvParams()

    def reset_env(self, key, params):
        return NEW.reset_env(key, params)

    def step_env(self, key, state, action, params):
        obs, state, reward, done, info = NEW.step_env(key, state, action, params)
        return obs, state, reward, done | (state.time >= params.max_steps_in_episode), info

    def reset(self, key, params):
        return self.reset_env(key, params)

    def step(self, key, state, action, params):
        return self.step_env(key, state, action, params)

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return NEW.observation_space(params)


class Derived(environment.Environment):
    """The same on gymnax's base class, which calls methods by other names now."""

    default_params = cartpole.EnvParams()

    def reset_env(self, key, params):
        return NEW.reset_env(key, params)

    def step_env(self, key, state, action, params):
        obs, state, reward, _, _ = NEW.step_env(key, state, action, params)
        info = {"discount": self.discount(state, params)}
        return obs, state, reward, self.is_terminal(state, params), info

    def is_terminal(self, state, params):
        return NEW.is_terminated(state, params) | (state.time >= params.max_steps_in_episode)

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return NEW.observation_space(params)


class WithoutLimit(Plain):
    """Ends after seven steps, and has no parameter that says so."""

    default_params = environment.EnvState(time=0)  # any dataclass

    def reset_env(self, key, params):
        return NEW.reset_env(key, NEW.default_params)

    def step_env(self, key, state, action, params):
        found = NEW.step_env(key, state, action, NEW.default_params)
        return *found[:3], found[3] | (found[1].time >= 7), found[4]


def trainer_of(env):
    params = NEW.default_params
    algorithm = po.ppo(*po.mlp_actor_critic(NEW, params, hidden=(4,)))
    return po.make_trainer(env, env.default_params, algorithm, num_envs=2, num_steps=8)


def walk(env, params, num_steps=200):
    """Observations, ends and successors of a policy that falls over."""

    def body(carry, key):
        obs, state = carry
        found = env.step(key, state, jnp.int32(obs[2] > 0), params)
        return found[:2], (found[0], found[3], found[4], found[5]["final_observation"])

    keys = jax.random.split(jax.random.key(2), num_steps)
    return jax.lax.scan(body, env.reset(jax.random.key(1), params), keys)[1]


@pytest.mark.parametrize("old", [Plain(), Derived()])
def test_it_is_recognised_and_pointed_to(old):
    with pytest.raises(ValueError, match=r"gymnax before 1.0.*po.from_legacy\(env\)") as told:
        trainer_of(old)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("limit", [20, 180])
@pytest.mark.parametrize("old", [Plain(), Derived()])
def test_ends_and_limits_are_those_of_today_s_environment(old, limit):
    params = NEW.default_params.replace(max_steps_in_episode=limit)
    expected = walk(NEW, params)
    for x, y in zip(walk(po.from_legacy(old), params), expected, strict=True):
        np.testing.assert_array_equal(x, y)
    assert bool(expected[2].any()) == (limit == 20)


def test_a_limit_of_its_own_may_be_told():
    env = po.from_legacy(WithoutLimit(), max_steps_in_episode=7)
    _, terminated, truncated, _ = walk(env, env.default_params, 21)
    np.testing.assert_array_equal(np.flatnonzero(truncated), [6, 13, 20])
    assert not terminated.any()
    unknown = po.from_legacy(WithoutLimit())
    np.testing.assert_array_equal(walk(unknown, unknown.default_params, 21)[1], truncated)


def test_it_trains(compile_quickly):
    trainer = trainer_of(po.from_legacy(Derived()))
    state = trainer.init(jax.random.key(0), trainer.algorithm.hyperparams)
    _, log = jax.jit(trainer.step)(trainer.algorithm.hyperparams, state)
    assert bool(jnp.isfinite(log.episode_return.mean))


def test_mistakes_are_one_line():
    with pytest.raises(ValueError, match="without reset_env; give it the environment inside"):
        po.from_legacy(object())
    with pytest.raises(ValueError, match="has a limit among its parameters"):
        po.from_legacy(Plain(), max_steps_in_episode=7)
    with pytest.raises(ValueError, match="max_steps_in_episode must be a whole number ≥ 1, got 0"):
        po.from_legacy(WithoutLimit(), max_steps_in_episode=0)


@pytest.mark.parametrize("name", ["CartPole-v1", "Catch-bsuite", "Breakout-MinAtar", "Chain-v0"])
def test_today_s_environments_are_not_taken_for_old_ones(name):
    assert not contract.is_legacy(environments.make(name)[0])
