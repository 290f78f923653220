"""Environments in Python: one call for each step, each with its own seed, lost ones cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejax_po as po
from purejax_po import environments
from purejax_po.environments.host import Host

SHAPE = (2,)


class Walk:
    """Observes (start, steps); ends after the action 9."""

    made = 0

    def __init__(self):
        Walk.made += 1
        self.random = None

    def reset(self, seed=None):
        self.random = np.random.default_rng(seed) if seed is not None else self.random
        self.seen = np.array([self.random.integers(1000), 0], np.float32)
        return self.seen, {}

    def step(self, action):
        self.seen[1] += 1  # into the same memory
        return self.seen, float(action), action == 9, False, {}


def words(*seeds):
    return np.array([[0, seed] for seed in seeds], np.uint32)


def advance(host, handles, actions, obs=None):
    size = len(handles)
    obs = np.zeros((size, *SHAPE), np.float32) if obs is None else obs
    return host.advance(
        words(*range(size)), handles, np.zeros(size, bool), obs, np.asarray(actions)
    )


def test_an_episode_that_ends_begins_anew_and_shows_its_true_successor():
    host = Host(Walk, SHAPE, np.float32)
    first, handles = host.begin(words(1, 2))
    obs, final, reward, terminated, truncated, handles = advance(host, handles, [3, 9])
    np.testing.assert_array_equal(reward, [3.0, 9.0])
    np.testing.assert_array_equal(terminated, [False, True])
    assert not truncated.any()
    np.testing.assert_array_equal(final, [[first[0, 0], 1], [first[1, 0], 1]])
    np.testing.assert_array_equal(obs[0], final[0])
    assert obs[1, 1] == 0
    assert obs[1, 0] != first[1, 0]


def test_environments_do_not_depend_on_their_neighbours():
    together, alone = Host(Walk, SHAPE, np.float32), Host(Walk, SHAPE, np.float32)
    found, handles = together.begin(words(4, 5, 6))
    np.testing.assert_array_equal(found[1:2], alone.begin(words(5))[0])
    _, other = alone.begin(words(5))
    for _ in range(3):
        obs, *_, handles = advance(together, handles, [9, 9, 9])
        lonely, *_, other = advance(alone, other, [9])
        np.testing.assert_array_equal(obs[1:2], lonely)


def test_one_that_is_lost_is_cut_and_begins_anew():
    host, elsewhere = Host(Walk, SHAPE, np.float32), Host(Walk, SHAPE, np.float32)
    _, handles = host.begin(words(1))
    seen, *_, handles = advance(host, handles, [0])
    obs, final, reward, terminated, truncated, new = advance(elsewhere, handles, [7], seen)
    np.testing.assert_array_equal(final, seen)
    assert (reward[0], terminated[0], truncated[0]) == (0.0, False, True)
    assert obs[0, 1] == 0
    np.testing.assert_array_equal(advance(elsewhere, new, [7])[0][0], [obs[0, 0], 1])


def test_a_first_state_may_be_stepped_from_several_times():
    """A group's episodes begin from one state, and so do policies that are compared."""
    host = Host(Walk, SHAPE, np.float32)
    first, handles = host.begin(words(1))
    obs, *_, handles = advance(host, np.repeat(handles, 3, axis=0), [0, 1, 2])
    np.testing.assert_array_equal(obs, [[first[0, 0], 1]] * 3)
    assert len(set(handles[:, 0])) == 3


def test_those_that_nobody_steps_are_taken_again():
    host = Host(Walk, SHAPE, np.float32)
    _, handles = host.begin(words(0))
    before = Walk.made
    for i in range(30):
        host.begin(words(*range(100 * i, 100 * (i + 1))))
        *_, truncated, handles = advance(host, handles, [0])
        assert not truncated.any()
    assert len(host) == 1024
    assert Walk.made - before <= 1024


def test_a_seed_is_the_same_in_any_grouping_of_lanes(compile_quickly):
    env, env_params = environments.make("gymnasium/CartPole-v1")
    algorithm = po.ppo(
        *po.mlp_actor_critic(env, env_params, hidden=(4,)), po.PPOOptions(num_minibatches=2)
    )
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=2, num_steps=16)
    train = po.make_train(trainer, num_updates=3)

    def returns(seeds):
        result = jax.jit(jax.vmap(train, in_axes=(0, None)))(
            po.seed_keys(seeds), algorithm.hyperparams
        )
        return np.asarray(result.log.episode_return.mean)

    np.testing.assert_array_equal(returns([7, 8, 9])[1:2], returns([8]))
    assert not env.deterministic


def test_the_time_limit_is_a_parameter(compile_quickly):
    env, env_params = environments.make("gymnasium/Pendulum-v1")
    assert env_params.max_steps_in_episode == 200
    env_params = env_params.replace(max_steps_in_episode=3)

    def body(carry, key):
        found = env.step(key, carry, jnp.zeros(1), env_params)
        return found[1], found[3:5]

    state = env.reset(jax.random.key(0), env_params)[1]
    terminated, truncated = jax.lax.scan(body, state, jax.random.split(jax.random.key(1), 7))[1]
    np.testing.assert_array_equal(truncated, [0, 0, 1, 0, 0, 1, 0])
    assert not terminated.any()


def test_shaping_would_step_twice():
    env, _ = environments.make("gymnasium/CartPole-v1")
    with pytest.raises(ValueError, match="steps twice"):
        po.shape_reward(env, lambda state: state.obs[0], 0.99)


def test_a_task_whose_library_is_missing_says_what_to_install(monkeypatch):
    def needs(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'imageio'")

    monkeypatch.setattr("gymnasium.make", needs)
    with pytest.raises(
        ValueError,
        match=r"'imageio'; pip .*\[gymnasium\]' \(in a checkout: pip .*\[gymnasium\]'\)$",
    ):
        environments.make("gymnasium/Hopper-v5")


def test_wrappers_and_groups_of_episodes_run_on_the_host(compile_quickly):
    env, env_params = environments.make(
        "gymnasium/CartPole-v1", wrappers=["frame_stack:2", "sticky_actions:0.1", "time_limit:6"]
    )
    policy, _ = po.mlp_actor_critic(env, env_params, hidden=(4,))
    algorithm = po.grpo(policy, po.GRPOOptions(group_size=2))
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=4, num_steps=6)
    state = trainer.init(jax.random.key(0), algorithm.hyperparams)
    _, log = jax.jit(trainer.step)(algorithm.hyperparams, state)
    assert float(log.episode_return.mean) == 6.0
