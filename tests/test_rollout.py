"""Collecting data, the training loop around it, and evaluation, with policies that never learn."""

from typing import Any, NamedTuple

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment, spaces
from gymnax.environments.classic_control.cartpole import EnvState as CartPoleState

from purejax_po import metrics, rollout
from purejax_po.actor import acting
from purejax_po.distributions import DiagonalGaussian, TanhGaussian
from purejax_po.evaluation import evaluate
from purejax_po.networks import memoryless, softmax_linear_policy
from purejax_po.testing import probes
from purejax_po.training import make_train, make_trainer, seed_keys, window_lengths
from purejax_po.types import Algorithm, Policy

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_ENVS, NUM_STEPS, NUM_ROLLOUTS = 3, 40, 2
ENV, ENV_PARAMS = gymnax.make("CartPole-v1")
POLICY = softmax_linear_policy(ENV, ENV_PARAMS)
UNIFORM = jnp.zeros((4, 2))
LIMITED = ENV_PARAMS.replace(max_steps_in_episode=5)  # too short to fall
BOTH = ENV_PARAMS.replace(max_steps_in_episode=1, theta_threshold_radians=1e-6)


class Played(NamedTuple):
    """Rollouts in succession, leaves `[T, N, ...]` over all of them, and the last state."""

    transition: Any
    episodes: Any
    last: Any


@jax.jit
@chex.assert_max_traces(n=1)  # whatever the environment's parameters
def play(env_params, key):
    """Roll the uniform policy out twice in succession."""
    state = rollout.reset(key, ENV, env_params, POLICY, NUM_ENVS)

    def again(state, key):
        state, *data = rollout.collect(key, ENV, env_params, POLICY, UNIFORM, state, NUM_STEPS)
        return state, data

    last, data = jax.lax.scan(again, state, jax.random.split(key, NUM_ROLLOUTS))
    return Played(*jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data), last)


@pytest.fixture(scope="module")
def natural():
    return jax.tree.map(np.asarray, play(ENV_PARAMS, jax.random.key(0)))


@pytest.fixture(scope="module")
def limited():
    return jax.tree.map(np.asarray, play(LIMITED, jax.random.key(0)))


@pytest.fixture(scope="module")
def both():
    return jax.tree.map(np.asarray, play(BOTH, jax.random.key(0)))


# --- transitions ---------------------------------------------------------------------------------


def successor(obs, action):
    """The dynamics alone, no reset: a CartPole's state is what is observed."""
    x, x_dot, theta, theta_dot = obs
    state = CartPoleState(x=x, x_dot=x_dot, theta=theta, theta_dot=theta_dot, time=0)
    return ENV.step_env(jax.random.key(0), state, action, ENV_PARAMS)[0]


@pytest.mark.parametrize("name", ["natural", "limited", "both"])
def test_next_obs_is_the_true_successor_even_where_the_episode_ends(name, request):
    transition = request.getfixturevalue(name).transition
    expected = jax.jit(jax.vmap(jax.vmap(successor)))(transition.obs, transition.action)
    np.testing.assert_allclose(transition.next_obs, expected, rtol=1e-6, atol=1e-7)
    ended = np.asarray(transition.terminated | transition.truncated)[:-1]
    assert ended.any()
    following = transition.obs[1:]
    np.testing.assert_array_equal(following[~ended], transition.next_obs[:-1][~ended])
    # After an end the next observation is a fresh start, near the origin and not the successor.
    assert (abs(following[ended]) <= 0.05).all()
    assert (abs(following[ended] - transition.next_obs[:-1][ended]).max(-1) > 1e-3).all()


def test_a_time_limit_truncates_and_does_not_terminate(limited):
    steps = np.arange(1, NUM_ROLLOUTS * NUM_STEPS + 1)
    expected = np.tile((steps % 5 == 0)[:, None], NUM_ENVS)
    np.testing.assert_array_equal(limited.transition.truncated, expected)
    assert not limited.transition.terminated.any()


def test_a_fall_terminates_and_does_not_truncate(natural):
    transition = natural.transition
    angle, position = abs(transition.next_obs[..., 2]), abs(transition.next_obs[..., 0])
    fallen = (angle > ENV_PARAMS.theta_threshold_radians) | (position > ENV_PARAMS.x_threshold)
    np.testing.assert_array_equal(transition.terminated, fallen)
    assert fallen.any()
    assert not transition.truncated.any()


def test_both_flags_may_be_set_at_once(both):
    assert both.transition.terminated.all()
    assert both.transition.truncated.all()


@pytest.mark.parametrize("name", ["natural", "limited", "both"])
def test_start_follows_every_end_across_rollouts_too(name, request):
    played = request.getfixturevalue(name)
    transition = played.transition
    ended = np.asarray(transition.terminated | transition.truncated)
    assert transition.start[0].all()
    np.testing.assert_array_equal(transition.start[1:], ended[:-1])
    np.testing.assert_array_equal(played.last.start, ended[-1])


def test_transitions_hold_what_was_done(natural):
    transition = natural.transition
    shape = (NUM_ROLLOUTS * NUM_STEPS, NUM_ENVS)
    assert all(x.shape[:2] == shape for x in jax.tree.leaves(transition))
    np.testing.assert_array_equal(transition.behaviour.logits, np.zeros((*shape, 2)))
    np.testing.assert_array_equal(transition.weight, 1.0)
    assert set(np.unique(transition.action)) == {0, 1}
    # Environments and rollouts differ from one another.
    assert (transition.action[:, 0] != transition.action[:, 1]).any()
    assert (transition.action[:NUM_STEPS] != transition.action[NUM_STEPS:]).any()


@pytest.mark.parametrize("name", ["natural", "limited", "both"])
def test_episode_statistics_against_a_loop(name, request):
    played = request.getfixturevalue(name)
    transition, episodes = played.transition, played.episodes
    ended = np.asarray(transition.terminated | transition.truncated)
    reward = np.asarray(transition.reward)
    np.testing.assert_array_equal(episodes.ended, ended)
    for n in range(NUM_ENVS):
        total, length = 0.0, 0
        for t in range(len(reward)):
            total, length = total + reward[t, n], length + 1
            if ended[t, n]:
                assert episodes.episode_return[t, n] == total
                assert episodes.episode_length[t, n] == length
                total, length = 0.0, 0
        assert played.last.episode_return[n] == total
        assert played.last.episode_length[n] == length


def test_the_same_key_plays_the_same_and_another_does_not(natural):
    again, other = play(ENV_PARAMS, jax.random.key(0)), play(ENV_PARAMS, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, again, natural)
    assert (other.transition.obs[0] != natural.transition.obs[0]).all()
    assert (other.transition.action != natural.transition.action).any()


# --- actions and spaces --------------------------------------------------------------------------


class Echo(environment.Environment):
    """The observation is the action that the environment received."""

    def reset_env(self, key, params):
        return jnp.zeros(2), environment.EnvState(time=jnp.int32(0))

    def step_env(self, key, state, action, params):
        state = environment.EnvState(time=state.time + 1)
        return action, state, jnp.sum(action), jnp.bool_(False), {}

    def action_space(self, params):
        return spaces.Box(jnp.array([-1.0, -0.5]), jnp.array([1.0, 0.5]), (2,))

    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (2,))


def test_the_environment_receives_actions_within_the_box():
    def apply(params, obs):
        return DiagonalGaussian(jnp.zeros_like(obs), jnp.broadcast_to(params, obs.shape))

    env, log_std = Echo(), jnp.zeros(2)
    policy = memoryless(Policy, lambda key: log_std, apply)
    key, env_params = jax.random.key(0), environment.EnvParams(max_steps_in_episode=100)

    @jax.jit
    def run(key):
        state = rollout.reset(key, env, env_params, policy, 4)
        return rollout.collect(key, env, env_params, policy, log_std, state, 50)[1]

    transition = run(key)
    received, drawn = np.asarray(transition.next_obs), np.asarray(transition.action)
    np.testing.assert_array_equal(received, np.clip(drawn, [-1.0, -0.5], [1.0, 0.5]))
    np.testing.assert_allclose(transition.reward, received.sum(-1), rtol=1e-6)
    # The batch keeps the action whose probability is known: some lie outside, on every side.
    assert (drawn.min((0, 1)) < [-1.0, -0.5]).all()
    assert (drawn.max((0, 1)) > [1.0, 0.5]).all()
    assert np.isfinite(transition.behaviour.log_prob(transition.action)).all()


@pytest.mark.parametrize("log_std", [-1.0, 3.0])
def test_a_squashed_policy_fills_the_box_and_never_leaves_it(log_std):
    """Each coordinate to its own bounds; the batch keeps the action before the tanh."""
    low, high = np.array([-1.0, 0.1], np.float32), np.array([3.0, 0.3], np.float32)
    env, env_params = Echo(), environment.EnvParams(max_steps_in_episode=100)
    box = spaces.Box(jnp.asarray(low), jnp.asarray(high), (2,))
    env.action_space = lambda params: box

    def apply(params, obs):
        shape = (*obs.shape[:-1], 2)
        return TanhGaussian(jnp.zeros(shape), jnp.full(shape, log_std))

    policy = memoryless(Policy, lambda key: (), apply)

    @jax.jit
    def run(key):
        state = rollout.reset(key, env, env_params, policy, 4)
        transition = rollout.collect(key, env, env_params, policy, (), state, 200)[1]
        evaluation = evaluate(key, env, env_params, policy, (), num_episodes=2, num_steps=3)
        return transition, evaluation

    transition, evaluation = run(jax.random.key(0))
    received, drawn = np.asarray(transition.next_obs), np.asarray(transition.action)
    assert (received >= low).all()
    assert (received <= high).all()
    expected = low + (high - low) * 0.5 * (1.0 + np.tanh(drawn))
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)
    width = (received.max((0, 1)) - received.min((0, 1))) / (high - low)
    assert (width > (0.9 if log_std > 0 else 0.4)).all()
    assert (abs(drawn).max((0, 1)) > 1.0).all()
    assert isinstance(transition.behaviour, TanhGaussian)
    # Greedy: the mean 0, in the middle of the bounds (1 and 0.2), three times.
    np.testing.assert_allclose(evaluation.episode_return, 3.6, rtol=1e-6)


def test_to_space_splits_tuples_and_leaves_discrete_actions_alone():
    action = jnp.array([[0, 1, 2], [3, 4, 5]])
    several = spaces.Tuple([spaces.Discrete(6)] * 3)
    parts = rollout.to_space(several, action, None)
    assert isinstance(parts, tuple)
    np.testing.assert_array_equal(np.stack(parts), action.T)
    same = rollout.to_space(spaces.Discrete(6), action[0], None)
    np.testing.assert_array_equal(same, action[0])


# --- training ------------------------------------------------------------------------------------


class NoState(NamedTuple):
    params: Any


def init_nothing(key, hyperparams):
    return NoState(POLICY.init(key))


def learn_nothing(key, hyperparams, state, batch):
    return state, {"progress": batch.progress, "reward": jnp.mean(batch.transition.reward)}


NUM_UPDATES = 5
ALGORITHM = Algorithm(acting(POLICY), (), init_nothing, learn_nothing)
TRAINER = make_trainer(ENV, LIMITED, ALGORITHM, num_envs=NUM_ENVS, num_steps=6)


@pytest.fixture(scope="module")
def logs_step_by_step():
    """The log of every single update, in a list, and the last state."""
    state = jax.jit(TRAINER.init)(jax.random.key(3), (), LIMITED, NUM_UPDATES)
    step, logs = jax.jit(TRAINER.step), []
    for _ in range(NUM_UPDATES):
        state, log = step((), state, LIMITED)
        logs.append(log)
    return logs, state


@pytest.fixture(scope="module")
def result():
    train = make_train(TRAINER, num_updates=NUM_UPDATES, log_every=2)
    return jax.jit(train)(jax.random.key(3), (), LIMITED)


def test_the_log_has_one_entry_per_window_and_the_last_is_shorter(result):
    np.testing.assert_array_equal(result.log.info.count, [2, 2, 1])
    # Updates run at progress 0, .2, .4, .6, .8.
    np.testing.assert_allclose(result.log.info.mean["progress"], [0.1, 0.5, 0.8], rtol=1e-6)
    np.testing.assert_allclose(result.log.info.m2["progress"], [0.02, 0.02, 0.0], atol=1e-6)
    np.testing.assert_array_equal(result.log.info.mean["reward"], 1.0)


def test_windows_hold_the_merged_moments_of_their_updates(result, logs_step_by_step):
    logs, _ = logs_step_by_step
    for w, updates in enumerate(([0, 1], [2, 3], [4])):
        expected = logs[updates[0]]
        for update in updates[1:]:
            expected = metrics.merge_logs(expected, logs[update])
        window = jax.tree.map(lambda x, w=w: x[w], result.log)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), window, expected)


def test_episode_counts_sum_to_the_episodes_that_ended(result):
    # 30 steps of 5-step episodes in each of 3 environments.
    assert result.log.episode_return.count.sum() == 18
    assert result.log.episode_length.count.sum() == 18
    np.testing.assert_allclose(result.log.episode_length.mean, 5.0)
    np.testing.assert_allclose(result.log.episode_return.mean, 5.0)


def test_train_ends_where_single_steps_end(result, logs_step_by_step):
    _, state = logs_step_by_step
    assert result.state.num_done == NUM_UPDATES
    assert result.state.diverged_at == -1
    assert (jax.random.key_data(result.state.key) == jax.random.key_data(state.key)).all()
    np.testing.assert_allclose(result.state.rollout.obs, state.rollout.obs, rtol=1e-5, atol=1e-7)


def test_window_lengths(subtests):
    for num_updates, log_every, expected in [
        (5, 2, [2, 2, 1]),
        (4, 2, [2, 2]),
        (3, 5, [3]),
        (3, 1, [1, 1, 1]),
        (1, 1, [1]),
    ]:
        with subtests.test(f"{num_updates} {log_every}"):
            np.testing.assert_array_equal(window_lengths(num_updates, log_every), expected)


def test_a_seed_names_its_key_whatever_its_neighbours():
    data = jax.random.key_data
    np.testing.assert_array_equal(data(seed_keys([3, 1])), data(seed_keys(5))[jnp.array([3, 1])])
    assert len({tuple(x) for x in np.asarray(data(seed_keys(100)))}) == 100


def test_wrong_counts_are_named(subtests):
    for name in ["num_envs", "num_steps", "num_updates", "log_every"]:
        with subtests.test(name):

            def make(num_envs=1, num_steps=1, num_updates=1, log_every=1):
                trainer = make_trainer(
                    ENV, ENV_PARAMS, ALGORITHM, num_envs=num_envs, num_steps=num_steps
                )
                make_train(trainer, num_updates=num_updates, log_every=log_every)

            for wrong in (0, -1, 1.5, True, "4", None):
                with pytest.raises(ValueError, match=f"{name} must be a whole number ≥ 1, got"):
                    make(**{name: wrong})


# --- evaluation ----------------------------------------------------------------------------------


@struct.dataclass
class LotteryState(environment.EnvState):
    level: jax.Array


class Lottery(environment.Environment):
    """Rewards are a level drawn at the start plus noise; they end after three steps."""

    def reset_env(self, key, params):
        return jnp.ones(1), LotteryState(time=jnp.int32(0), level=jax.random.normal(key))

    def step_env(self, key, state, action, params):
        state = LotteryState(time=state.time + 1, level=state.level)
        reward = state.level + jax.random.normal(key)
        return jnp.ones(1), state, reward, state.time >= 3, {}

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (1,))


PREFERENCES = jnp.array([[[0.0, 0.0]], [[0.0, 5.0]], [[9.0, 0.0]]])  # three policies, [3, 1, 2]


def evaluate_all(env, env_params, **options):
    """Evaluate the three policies by one key, leaves `[3, num_episodes]`."""
    policy = softmax_linear_policy(env, env_params)

    @jax.jit
    def run(key, env_params, preferences):
        def one(theta):
            return evaluate(key, env, env_params, policy, theta, **options)

        return jax.vmap(one)(preferences)

    return run


@pytest.mark.parametrize("greedy", [True, False])
def test_every_policy_meets_the_same_episodes(greedy):
    env_params = environment.EnvParams(max_steps_in_episode=100)
    run = evaluate_all(Lottery(), env_params, num_episodes=6, num_steps=5, greedy=greedy)
    first = run(jax.random.key(0), env_params, PREFERENCES)
    np.testing.assert_array_equal(first.episode_return[1], first.episode_return[0])
    np.testing.assert_array_equal(first.episode_return[2], first.episode_return[0])
    assert len(np.unique(first.episode_return[0])) == 6
    other = run(jax.random.key(1), env_params, PREFERENCES)
    assert (first.episode_return != other.episode_return).all()
    np.testing.assert_array_equal(first.episode_length, 3)  # the two steps after it are masked
    assert first.finished.all()


def test_what_follows_the_end_is_masked():
    run = evaluate_all(probes.Probe(), probes.VALUE, num_episodes=4, num_steps=7)
    evaluation = run(jax.random.key(0), probes.VALUE, PREFERENCES)
    np.testing.assert_array_equal(evaluation.episode_return, 1.0)
    np.testing.assert_array_equal(evaluation.episode_length, 1.0)
    assert evaluation.finished.all()


def test_evaluation_tells_finished_from_unfinished_under_traced_limits():
    policy = softmax_linear_policy(ENV, ENV_PARAMS)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(env_params):
        key = jax.random.key(0)
        return evaluate(key, ENV, env_params, policy, UNIFORM, num_episodes=4, num_steps=8)

    for limit, length, finished in ((5, 5, True), (8, 8, True), (9, 8, False)):
        evaluation = run(ENV_PARAMS.replace(max_steps_in_episode=limit))
        np.testing.assert_array_equal(evaluation.episode_length, length)
        np.testing.assert_array_equal(evaluation.episode_return, length)
        np.testing.assert_array_equal(evaluation.finished, finished)


def test_greedy_takes_the_mode_and_sampling_does_not():
    env, env_params, theta = probes.Probe(), probes.POLICY, jnp.array([[0.0, 0.2]])
    policy = softmax_linear_policy(env, env_params)

    @jax.jit
    def returns(key):
        modes, samples = (
            evaluate(
                key, env, env_params, policy, theta, num_episodes=200, num_steps=1, greedy=greedy
            )
            for greedy in (True, False)
        )
        return modes.episode_return, samples.episode_return

    modes, samples = returns(jax.random.key(0))
    # The observation ±1 times 0.2 leans to the right action in both states, but only leans.
    np.testing.assert_array_equal(modes, 1.0)
    assert set(np.unique(samples)) == {-1.0, 1.0}


def test_evaluation_names_wrong_counts():
    for name in ("num_episodes", "num_steps"):
        sizes = {"num_episodes": 1, "num_steps": 1, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be a whole number ≥ 1, got 0"):
            evaluate(jax.random.key(0), ENV, ENV_PARAMS, POLICY, UNIFORM, **sizes)
