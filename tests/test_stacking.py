"""Wrappers around environments: what is seen, done and paid, with true successors and real ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment, spaces

import purejax_po as po
from purejax_po import environments
from purejax_po.environments import by_name, stacking

SMALL = {"hidden": (4,)}


class Count(environment.Environment):
    """Shows and pays its time; ends after five steps, is cut after `max_steps_in_episode`."""

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=100)

    def reset_env(self, key, params):
        state = environment.EnvState(time=jnp.int32(0))
        return self.observed(state), state

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        reward = state.time * 1.0 + 10.0 * action
        return self.observed(state), state, reward, state.time >= 5, {"discount": 1.0}

    def observed(self, state):
        return jnp.stack([state.time, -state.time]).astype(jnp.float32)

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Box(-9.0, 9.0, (2,))


class Nested(Count):
    """The same seen as a dictionary."""

    def observed(self, state):
        return {"b": jnp.stack([state.time, -state.time]), "a": state.time % 3}

    def observation_space(self, params=None):
        return spaces.Dict({"b": spaces.Box(-9.0, 9.0, (2,)), "a": spaces.Discrete(3)})


def walk(env, num_steps, action=0, **changes):
    """What steps return, leaves `[num_steps, ...]`, and the observations before them."""
    params = env.default_params.replace(**changes)

    def body(carry, key):
        found = env.step(key, carry[1], jnp.int32(action), params)
        return found[:2], (carry[0], *found)

    keys = jax.random.split(jax.random.key(1), num_steps)
    before, obs, state, *rest = jax.lax.scan(body, env.reset(jax.random.key(0), params), keys)[1]
    return before, obs, state, *rest


def trains(env):
    """Whether an update of PPO, and an evaluation, run on it."""
    params = env.default_params
    algorithm = po.ppo(*po.mlp_actor_critic(env, params, **SMALL))
    trainer = po.make_trainer(env, params, algorithm, num_envs=2, num_steps=8)
    state = trainer.init(jax.random.key(0), algorithm.hyperparams)
    state, _ = jax.jit(trainer.step)(algorithm.hyperparams, state)
    found = po.evaluate(
        jax.random.key(1), env, params, trainer.actor, state.acting_params,
        num_episodes=2, num_steps=8,
    )  # fmt: skip
    return bool(jnp.isfinite(found.episode_return).all())


@pytest.mark.parametrize(
    "names",
    [
        ["frame_stack:3"],
        ["action_repeat:2", "frame_stack:2"],
        ["time_limit:3", "sticky_actions:0.5"],
        ["action_repeat:2", "time_limit:2", "reward_clip", "reward_scale:0.5"],
        ["flatten_observation"],
    ],
)
def test_each_trains(names, compile_quickly):
    assert trains(by_name.wrap(Count(), names))


def test_frames_of_an_episode_are_stacked_and_none_of_another():
    env = stacking.frame_stack(Count(), 3)
    before, obs, *_, info = walk(env, 7)
    frames = [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(before[:, ::2], frames)
    np.testing.assert_array_equal(before[:, 1::2], -np.asarray(frames))
    np.testing.assert_array_equal(info["final_observation"][4, ::2], [3, 4, 5])
    np.testing.assert_array_equal(obs[:-1], before[1:])
    assert env.observation_space(None).shape == (6,)
    np.testing.assert_array_equal(env.observation_space(None).high, np.full(6, 9.0))


def test_a_repeated_action_stops_at_the_end_of_the_episode():
    env = stacking.action_repeat(Count(), 3)
    before, _, _, reward, terminated, _, info = walk(env, 4, action=1)
    np.testing.assert_array_equal(before[:, 0], [0, 3, 0, 3])
    np.testing.assert_array_equal(reward, [1 + 2 + 3 + 30, 4 + 5 + 20] * 2)
    np.testing.assert_array_equal(terminated, [False, True] * 2)
    np.testing.assert_array_equal(info["final_observation"][:, 0], [3, 5, 3, 5])


@pytest.mark.parametrize("inside", [[], ["action_repeat:1"]])
def test_a_time_limit_truncates(inside):
    """By the environment's parameter, and counted by the wrapper."""
    env = by_name.wrap(Count(), [*inside, "time_limit:3"])
    before, _, _, _, terminated, truncated, info = walk(env, 7)
    np.testing.assert_array_equal(before[:, 0], [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(truncated, [0, 0, 1, 0, 0, 1, 0])
    assert not terminated.any()
    np.testing.assert_array_equal(info["final_observation"][:, 0], [1, 2, 3, 1, 2, 3, 1])


@pytest.mark.parametrize("inside", [[], ["action_repeat:1"]])
def test_an_end_comes_before_a_later_limit(inside):
    env = by_name.wrap(Count(), [*inside, "time_limit:6"])
    _, _, _, _, terminated, truncated, _ = walk(env, 10)
    np.testing.assert_array_equal(np.flatnonzero(terminated), [4, 9])
    assert not truncated.any()


def test_a_limit_counts_repeated_steps_once():
    env = by_name.wrap(Count(), ["action_repeat:2", "time_limit:2"])
    before, _, _, _, _, truncated, _ = walk(env, 4)
    np.testing.assert_array_equal(before[:, 0], [0, 2, 0, 2])
    np.testing.assert_array_equal(truncated, [0, 1, 0, 1])


def test_sticky_actions_repeat_the_one_before_but_at_the_start():
    always = stacking.sticky_actions(Count(), 1.0)
    params = always.default_params
    _, state = always.reset(jax.random.key(0), params)
    actions = [1, 0, 0, 0, 0, 0, 1]
    rewards = []
    for action in actions:
        _, state, reward, *_ = always.step(jax.random.key(2), state, jnp.int32(action), params)
        rewards.append(float(reward))
    assert [reward > 9.0 for reward in rewards] == [True] * 5 + [False] * 2
    never = stacking.sticky_actions(Count(), 0.0)
    np.testing.assert_array_equal(walk(never, 3, action=1)[3], [11.0, 12.0, 13.0])


def test_rewards_are_scaled_and_clipped():
    env = by_name.wrap(Count(), ["reward_scale:-0.5", "reward_clip:2"])
    np.testing.assert_array_equal(walk(env, 5)[3], [-0.5, -1.0, -1.5, -2.0, -2.0])


def test_dictionaries_are_flattened_with_discrete_values_one_hot(compile_quickly):
    env = stacking.flatten_observation(Nested())
    before, *_, info = walk(env, 3)
    expected = [[1, 0, 0, 0, 0], [0, 1, 0, 1, -1], [0, 0, 1, 2, -2]]
    np.testing.assert_array_equal(before, expected)
    np.testing.assert_array_equal(info["final_observation"][:2], expected[1:])
    assert env.observation_space(env.default_params).shape == (5,)
    assert trains(env)


def test_a_pool_of_starts_is_drawn_inside_of_a_wrapper(compile_quickly):
    pytest.importorskip("pgx")
    env, env_params = environments.make(
        "pgx/minatar-breakout", reset_pool=2, wrappers=["frame_stack:2", "sticky_actions:0.1"]
    )
    found = env.observation_space(env_params).spaces
    assert found["observation"].shape == (10, 10, 8)
    assert found["action_mask"].shape == (3,)
    assert trains(env)
    flat = stacking.flatten_observation(env).observation_space(env_params).spaces
    assert found["action_mask"].shape == flat["action_mask"].shape
    assert flat["observation"].shape == (800,)


def test_by_name():
    env, env_params = environments.make(
        "CartPole-v1", wrappers=["action_repeat:2", "frame_stack:4", "time_limit:50"]
    )
    assert env.observation_space(env_params).shape == (16,)
    assert env.name == "CartPole-v1"
    env, env_params = environments.make("CartPole-v1", wrappers=["time_limit:50"])
    assert env_params.max_steps_in_episode == 50


def test_mistakes_are_one_line(subtests):
    for names, words in [
        (["frame_stak:4"], "did you mean frame_stack"),
        (["frame_stack"], "wrapper frame_stack needs a value, such as frame_stack:4"),
        (["frame_stack:x"], "takes a whole number, got 'frame_stack:x'"),
        (["frame_stack:0"], "frame_stack must be a whole number ≥ 1, got 0"),
        (["sticky_actions:2"], r"sticky_actions must be a number in \[0, 1\], got 2"),
        (["reward_clip:-1"], "reward_clip must be a finite number > 0, got -1"),
        (["reward_scale:0"], "reward_scale must be a finite number other than 0, got 0"),
        (["flatten_observation:2"], "takes no value"),
        ("frame_stack:4", "wrappers must be a list"),
    ]:
        with subtests.test(str(names)):
            with pytest.raises(ValueError, match=words) as told:
                environments.make("CartPole-v1", wrappers=names)
            assert "\n" not in str(told.value)


def test_what_must_not_step_twice_is_refused():
    env, _ = environments.make("gymnasium/CartPole-v1")
    with pytest.raises(ValueError, match="cannot step without effect"):
        stacking.action_repeat(env, 2)
    with pytest.raises(ValueError, match="frame_stack needs observations that are arrays"):
        stacking.frame_stack(Nested(), 2)
