"""The environment against the tables it was made of, and its returns against the exact values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejax_po import exact, rollout
from purejax_po.environments import finite_mdp
from purejax_po.environments.finite_mdp import EnvState, make_finite_mdp
from purejax_po.networks import softmax_linear_policy

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_STATES, NUM_ACTIONS, DISCOUNT = 4, 2, 0.9
FAILURE = 1e-6  # the probability that a statistical test fails by chance


@pytest.fixture(scope="module")
def mdp():
    return exact.garnet(jax.random.key(0), NUM_STATES, NUM_ACTIONS, 3, DISCOUNT)


def hoeffding(num_samples, num_comparisons):
    """The largest error of `num_comparisons` frequencies, but for the chance of `FAILURE`."""
    return math.sqrt(math.log(2 * num_comparisons / FAILURE) / (2 * num_samples))


def cycle(num_states):
    """Action 0 moves to the next state, action 1 stays; the reward is the state's index."""
    transition = np.zeros((num_states, 2, num_states))
    for s in range(num_states):
        transition[s, 0, (s + 1) % num_states] = 1.0
        transition[s, 1, s] = 1.0
    reward = np.repeat(np.arange(num_states, dtype=float)[:, None], 2, axis=1)
    return exact.make_mdp(transition, reward, np.eye(num_states)[0], DISCOUNT)


def test_empirical_transitions_and_rewards_agree_with_the_tables(mdp):
    env, env_params = make_finite_mdp(mdp)
    num_samples = 20_000

    @jax.jit
    def step(key, index, action):
        state = EnvState(index=index, time=jnp.zeros((), jnp.int32))
        return env.step_env(key, state, action, env_params)

    for s in range(NUM_STATES):
        for a in range(NUM_ACTIONS):
            keys = jax.random.split(jax.random.key(NUM_ACTIONS * s + a), num_samples)
            obs, state, reward, terminated, _ = jax.vmap(step, (0, None, None))(
                keys, jnp.int32(s), jnp.int32(a)
            )
            frequency = np.bincount(state.index, minlength=NUM_STATES) / num_samples
            bound = hoeffding(num_samples, mdp.transition.size)
            np.testing.assert_allclose(frequency, mdp.transition[s, a], atol=bound)
            assert (frequency[mdp.transition[s, a] == 0.0] == 0.0).all()
            assert (reward == mdp.reward[s, a]).all()
            assert not terminated.any()
            np.testing.assert_array_equal(np.argmax(obs, axis=-1), state.index)


@pytest.mark.parametrize(
    ("probability", "uniform", "expected"),
    [
        ([0.0, 0.5, 0.5], 0.0, 1),
        ([0.5, 0.0, 0.5], 0.5, 2),
        ([0.5, 0.5, 0.0], 1.0 - 2.0**-23, 1),
        ([1.0], 0.5, 0),
    ],
)
def test_a_state_of_probability_zero_is_never_drawn(monkeypatch, probability, uniform, expected):
    monkeypatch.setattr(jax.random, "uniform", lambda key, dtype: jnp.asarray(uniform, dtype))
    assert finite_mdp._draw(jax.random.key(0), jnp.array(probability)) == expected


def test_empirical_starts_agree_with_the_table(mdp):
    env, env_params = make_finite_mdp(mdp)
    keys = jax.random.split(jax.random.key(1), 20_000)
    obs, state = jax.vmap(env.reset, (0, None))(keys, env_params)
    frequency = np.mean(obs, axis=0)
    np.testing.assert_allclose(frequency, mdp.start, atol=hoeffding(len(keys), NUM_STATES))
    assert (state.time == 0).all()


def test_discounted_returns_of_long_rollouts_agree_with_the_values(mdp):
    num_envs, num_steps = 4096, 150
    env, env_params = make_finite_mdp(mdp, max_steps_in_episode=num_steps)
    policy = softmax_linear_policy(env, env_params)
    theta = jax.random.normal(jax.random.key(2), (NUM_STATES, NUM_ACTIONS))

    @jax.jit
    def sample(key):
        reset_key, collect_key = jax.random.split(key)
        start = rollout.reset(reset_key, env, env_params, policy, num_envs)
        _, transition, _ = rollout.collect(
            collect_key, env, env_params, policy, theta, start, num_steps
        )
        discounts = DISCOUNT ** jnp.arange(num_steps)
        return jnp.argmax(start.obs, axis=-1), discounts @ transition.reward

    start, returns = map(np.asarray, sample(jax.random.key(3)))
    pi = jax.nn.softmax(theta)
    cut_off = DISCOUNT**num_steps * float(jnp.max(jnp.abs(mdp.reward))) / (1.0 - DISCOUNT)

    def assert_mean(sample, expected):
        bound = 5.0 * sample.std(ddof=1) / math.sqrt(len(sample)) + cut_off + 1e-4
        assert abs(sample.mean() - expected) < bound
        assert bound < 0.5  # or else agreement says nothing

    assert_mean(returns, exact.expected_return(mdp, pi))
    values = exact.state_values(mdp, pi)
    assert np.ptp(values) > 0.5
    for s in range(NUM_STATES):
        assert_mean(returns[start == s], values[s])


def test_truncation_at_the_limit_keeps_the_true_successor():
    env, env_params = make_finite_mdp(cycle(5), max_steps_in_episode=3)
    obs, state = env.reset(jax.random.key(0), env_params)
    for t in range(1, 8):
        before = int(np.argmax(obs))
        key = jax.random.key(t)
        obs, state, reward, terminated, truncated, info = env.step(key, state, 0, env_params)
        assert reward == before
        assert not terminated
        assert bool(truncated) == (t % 3 == 0)
        assert info["discount"] == 1.0
        np.testing.assert_array_equal(info["final_observation"], np.eye(5)[before + 1])
        assert int(np.argmax(obs)) == t % 3
        assert int(state.time) == t % 3


def test_rollout_holds_the_true_successor_at_a_truncation():
    env, env_params = make_finite_mdp(cycle(5), max_steps_in_episode=3)
    policy = softmax_linear_policy(env, env_params)
    always_move = jnp.tile(jnp.array([50.0, -50.0]), (5, 1))
    start = rollout.reset(jax.random.key(0), env, env_params, policy, 2)
    _, transition, episodes = rollout.collect(
        jax.random.key(1), env, env_params, policy, always_move, start, 6
    )
    expected = [0, 1, 2, 0, 1, 2]
    for n in range(2):
        np.testing.assert_array_equal(np.argmax(transition.obs[:, n], axis=-1), expected)
        np.testing.assert_array_equal(
            np.argmax(transition.next_obs[:, n], axis=-1), np.add(expected, 1)
        )
        np.testing.assert_array_equal(transition.truncated[:, n], [False, False, True] * 2)
    assert not transition.terminated.any()
    np.testing.assert_array_equal(episodes.episode_return[episodes.ended], 3.0)


def test_one_program_serves_many_mdps():
    env, env_params = make_finite_mdp(cycle(3))
    _, state = env.reset(jax.random.key(0), env_params)
    rewards = jnp.stack([env_params.reward + 1.0, env_params.reward + 2.0])
    limits = jnp.array([1, 2])

    def step(reward, limit):
        params = env_params.replace(reward=reward, max_steps_in_episode=limit)
        return env.step(jax.random.key(1), state, 0, params)

    _, _, reward, _, truncated, _ = jax.vmap(step)(rewards, limits)
    np.testing.assert_array_equal(reward, [1.0, 2.0])
    np.testing.assert_array_equal(truncated, [True, False])


@pytest.mark.parametrize("x64", [False, True])
def test_observations_are_float32_and_in_their_space(x64):
    with jax.enable_x64(x64):
        env, env_params = make_finite_mdp(cycle(3))
        obs, state = env.reset(jax.random.key(0), env_params)
        next_obs, *_, info = env.step(jax.random.key(1), state, 1, env_params)
        for x in (obs, next_obs, info["final_observation"]):
            assert x.dtype == jnp.float32
            assert env.observation_space(env_params).contains(x)
    assert env.action_space(env_params).n == env.num_actions == 2
    assert env.observation_space(env_params).shape == (3,)
    assert env.default_params.max_steps_in_episode == 100
    assert env.name == "FiniteMDP"


@pytest.mark.parametrize(
    ("field", "shape", "message"),
    [
        ("transition", (3, 2, 2), r"transition must have the shape \[3, 2, 3\], got \[3, 2, 2\]"),
        ("reward", (2, 2), r"reward must have the shape \[3, 2\], got \[2, 2\]"),
        ("start", (3, 1), r"start must have the shape \[3\], got \[3, 1\]"),
    ],
)
def test_tables_that_do_not_fit_are_refused(field, shape, message):
    broken = cycle(3)._replace(**{field: jnp.zeros(shape)})
    with pytest.raises(ValueError, match=message):
        make_finite_mdp(broken)


@pytest.mark.parametrize("limit", [0, 2.5, True])
def test_an_impossible_time_limit_is_refused(limit):
    with pytest.raises(ValueError, match="max_steps_in_episode must be a whole number ≥ 1"):
        make_finite_mdp(cycle(3), max_steps_in_episode=limit)
