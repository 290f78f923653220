"""The chain against its definition: every step, and the exact probability that chance succeeds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejax_po import environments, exact, rollout
from purejax_po.environments.chain import NUM_ACTIONS, Chain, EnvState
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.networks import softmax_linear_policy


def all_steps(env):
    """`step_env` for every position `[H]` and action `[3]`: leaves `[H, 3, ...]`."""

    def step(position, action):
        state = EnvState(position=position, time=jnp.int32(0))
        return env.step_env(jax.random.key(0), state, action, env.default_params)

    over_actions = jax.vmap(step, (None, 0))
    return jax.vmap(over_actions, (0, None))(jnp.arange(env.length), jnp.arange(NUM_ACTIONS))


def as_mdp(env, discount):
    """The chain as tables over positions 0, …, H; what follows the end is worth nothing."""
    _, state, reward, _, _ = all_steps(env)
    transition = np.eye(env.length + 1)[np.asarray(state.position)]
    absorbing = np.tile(np.eye(env.length + 1)[-1], (1, NUM_ACTIONS, 1))
    return exact.make_mdp(
        np.concatenate([transition, absorbing]),
        np.concatenate([np.asarray(reward, float), np.zeros((1, NUM_ACTIONS))]),
        np.eye(env.length + 1)[0],
        discount,
    )


@pytest.mark.parametrize("length", [1, 4, 7])
def test_one_action_advances_and_the_others_return_to_the_start(length):
    env, env_params = environments.make("Chain-v0", length=length)
    obs, state, reward, terminated, info = all_steps(env)
    for s, a in itertools.product(range(length), range(NUM_ACTIONS)):
        successor = s + 1 if a == s % 3 else 0
        is_end = successor == length
        assert state.position[s, a] == successor
        assert state.time[s, a] == 1
        assert reward[s, a] == is_end
        assert terminated[s, a] == is_end
        assert info["discount"][s, a] == (not is_end)
        np.testing.assert_array_equal(obs[s, a], np.eye(length + 1)[successor])
    assert env_params.max_steps_in_episode == length
    np.testing.assert_array_equal(env.advancing_action(jnp.arange(length)), np.arange(length) % 3)


@pytest.mark.parametrize("length", [3, 16])
def test_a_uniform_walk_reaches_the_end_of_an_episode_with_probability_3_to_the_minus_h(
    x64, length
):
    env = Chain(length)
    mdp = as_mdp(env, 0.5)
    walk = np.asarray(mdp.transition).mean(axis=1)
    distribution = np.asarray(mdp.start)
    for _ in range(env.default_params.max_steps_in_episode):
        distribution = distribution @ walk
    np.testing.assert_allclose(distribution[-1], 3.0**-length, rtol=1e-12)


def test_the_best_policy_is_worth_the_discounted_end(x64):
    discount = 0.9
    mdp = as_mdp(Chain(5), discount)
    found = exact.policy_iteration(mdp)
    assert found.converged
    np.testing.assert_allclose(found.value[:5], discount ** np.arange(4, -1, -1), rtol=1e-12)
    np.testing.assert_array_equal(np.argmax(found.policy, axis=1)[:5], np.arange(5) % 3)


def test_an_expert_ends_in_h_steps_and_chance_is_cut_off_there():
    length = 4
    env, env_params = environments.make("Chain-v0", length=length)
    policy = softmax_linear_policy(env, env_params)
    expert = 50.0 * jax.nn.one_hot(env.advancing_action(jnp.arange(length + 1)), NUM_ACTIONS)
    start = rollout.reset(jax.random.key(0), env, env_params, policy, 2)
    for theta, is_expert in ((expert, True), (-expert, False)):
        _, transition, episodes = rollout.collect(
            jax.random.key(1), env, env_params, policy, theta, start, 2 * length
        )
        ends = np.arange(2 * length) % length == length - 1
        for n in range(2):
            np.testing.assert_array_equal(episodes.ended[:, n], ends)
            np.testing.assert_array_equal(transition.terminated[:, n], ends & is_expert)
            np.testing.assert_array_equal(transition.truncated[:, n], ends)
            np.testing.assert_array_equal(transition.reward[:, n], ends & is_expert)
        if is_expert:
            expected = np.arange(2 * length) % length
            np.testing.assert_array_equal(np.argmax(transition.obs[:, 0], -1), expected)
            np.testing.assert_array_equal(np.argmax(transition.next_obs[:, 0], -1), expected + 1)


@pytest.mark.parametrize("x64", [False, True])
def test_spaces_and_states(x64):
    with jax.enable_x64(x64):
        env, env_params = environments.make("Chain-v0")
        obs, state = env.reset(jax.random.key(0), env_params)
        next_obs, *_, info = env.step(jax.random.key(1), state, 1, env_params)
        for x in (obs, next_obs, info["final_observation"]):
            assert x.dtype == jnp.float32
            assert env.observation_space(env_params).contains(x)
        states = env.states()
        np.testing.assert_array_equal(states.position, np.arange(16))
        np.testing.assert_array_equal(states.time, np.zeros(16))
    assert env.action_space(env_params).n == env.num_actions == 3
    assert env.name == "Chain-v0"


@pytest.mark.parametrize("length", [0, 2.5, True, None])
def test_an_impossible_length_is_refused(length):
    with pytest.raises(ValueError, match="length must be a whole number ≥ 1"):
        environments.make("Chain-v0", length=length)


def test_options_of_environments_by_name():
    assert "Chain-v0" in environments.names()
    env, _ = environments.make("Catch-bsuite", rows=7)
    assert env.rows == 7
    with pytest.raises(ValueError, match="one of rows, columns, got 'rosw'; did you mean rows"):
        environments.make("Catch-bsuite", rosw=7)
    with pytest.raises(ValueError, match="env MountainCar-v0 has no options, got 'rows'"):
        environments.make("MountainCar-v0", rows=7)


def test_an_experiment_keeps_its_environments_options():
    config = ExperimentConfig(env="Chain-v0", env_options={"length": 5})
    config.check()
    assert config.make_env()[0].length == 5
    assert ExperimentConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r"env_options.length must be a whole number ≥ 0, got 2.5"):
        ExperimentConfig(env="Chain-v0", env_options={"length": 2.5}).make_env()  # type: ignore[dict-item]
