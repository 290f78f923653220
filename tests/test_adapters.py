"""Other libraries' environments: a smoke test each, where the extra is installed."""

import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejax_po as po
from purejax_po import environments, observations, rollout
from purejax_po.environments import catalogue

SMALL = {
    "craftax/Craftax-Classic-Symbolic-v1": {"reset_pool": 2},
    "gymnasium/CartPole-v1": {},
    "gymnasium/Pendulum-v1": {},
    "jumanji/Minesweeper-v0": {},
    "jumanji/Snake-v1": {},
    "navix/Navix-DoorKey-5x5-v0": {"reset_pool": 2},
    "navix/Navix-Empty-8x8-v0": {},
    "pgx/2048": {"reset_pool": 2},
    "pgx/minatar-breakout": {},
    "playground/CartpoleBalance": {},
    "xminigrid/MiniGrid-Empty-8x8": {},
    "xminigrid/XLand-MiniGrid-R1-9x9": {"reset_pool": 2},
}


def skip_without(library):
    pytest.importorskip(catalogue.IMPORTED_AS.get(library, library))


def make(name):
    skip_without(name.partition("/")[0])
    return environments.make(name, **SMALL[name])


@pytest.mark.parametrize("name", sorted(SMALL))
def test_episodes_end_and_begin_anew(name, compile_quickly):
    env, env_params = make(name)
    assert env.name == name
    env_params = env_params.replace(max_steps_in_episode=11)
    policy, _ = po.mlp_actor_critic(env, env_params, hidden=(4,))

    @jax.jit
    def run(key):
        init_key, reset_key, key = jax.random.split(key, 3)
        state = rollout.reset(reset_key, env, env_params, policy, 3)
        params = policy.init(init_key)
        return rollout.collect(key, env, env_params, policy, params, state, 30)

    _, transition, episodes = run(jax.random.key(0))
    parts = observations.fields(env.observation_space(env_params))
    for field, space in parts.items() or [("", env.observation_space(env_params))]:
        obs = transition.obs[field] if field else transition.obs
        assert obs.shape == (30, 3, *space.shape)
        assert obs.dtype == (bool if field == "action_mask" else jnp.float32)
    if name.startswith(("jumanji/", "pgx/")):
        assert "action_mask" in parts
    ended = transition.terminated | transition.truncated
    assert ended.any()
    assert float(episodes.episode_length.max()) <= 11
    np.testing.assert_array_equal(transition.start[1:], ended[:-1])
    differs = observations.differ_in_time(transition.next_obs, transition.obs)
    assert not differs[~ended[:-1]].any()
    assert jax.tree.all(jax.tree.map(lambda x: jnp.isfinite(x).all(), transition.reward))


def test_evaluation_keeps_the_library_s_keys_of_one_kind(compile_quickly):
    env, env_params = make("pgx/minatar-breakout")
    algorithm = po.a2c(*po.mlp_actor_critic(env, env_params, hidden=(4,)))
    params = algorithm.init(jax.random.key(0), algorithm.hyperparams).params
    found = po.evaluate(
        jax.random.key(1),
        env,
        env_params,
        algorithm.actor,
        params,
        num_episodes=2,
        num_steps=4,
    )
    assert found.episode_return.shape == (2,)


def test_what_has_no_ordinary_spaces_is_refused_in_one_line(subtests):
    for name, words in [
        ("pgx/chess", "game of one player, got pgx/chess of 2"),
        ("pgx/ches", "did you mean chess"),
        ("jumanji/Connector-v3", "one reward, got jumanji/Connector-v3 with one for each agent"),
        ("jumanji/MultiCVRP-v0", "discrete actions, got jumanji/MultiCVRP-v0"),
        ("jumanji/Snake", "did you mean Snake-v1"),
        ("craftax/Craftax", "craftax environment must be one of"),
        ("gymnasium/Cartpole-v1", "did you mean gymnasium/CartPole-v1"),
        ("navix/Navix-Empty8x8", "did you mean navix/Navix-Empty-8x8-v0"),
        ("playground/cartpolebalance", "did you mean playground/CartpoleBalance"),
        ("xminigrid/Minigrid-Empty", "did you mean xminigrid/MiniGrid-Empty-"),
    ]:
        with subtests.test(name):
            skip_without(name.partition("/")[0])
            with pytest.raises(ValueError, match=words) as error:
                environments.make(name)
            assert "\n" not in str(error.value)


def test_wrong_options_are_one_line(subtests):
    for name, options, words in [
        ("navix/Navix-Empty-8x8-v0", {"view": "symbolc"}, "did you mean symbolic"),
        ("navix/Navix-Empty-8x8-v0", {"veiw": "rgb"}, "option of navix/.* did you mean view"),
        ("playground/CartpoleBalance", {"impl": "wrap"}, "did you mean warp"),
        ("xminigrid/MiniGrid-Empty-8x8", {"ruleset": 1}, "takes no ruleset; XLand tasks do"),
    ]:
        with subtests.test(f"{name} {options}"):
            skip_without(name.partition("/")[0])
            with pytest.raises(ValueError, match=words) as error:
                environments.make(name, **options)
            assert "\n" not in str(error.value)


def test_robots_that_cannot_be_downloaded_say_where_they_belong(monkeypatch):
    skip_without("playground")
    from purejax_po.environments import playground

    def offline(*args, **kwargs):
        raise subprocess.CalledProcessError(128, "git clone")

    monkeypatch.setattr(playground.registry, "load", offline)
    with pytest.raises(ValueError, match=r"git clone https://\S+ \S+mujoco_menagerie$") as error:
        environments.make("playground/Go1JoystickFlatTerrain")
    assert "\n" not in str(error.value)


def test_the_reward_of_a_goal_falls_with_the_time_that_it_took():
    env, env_params = make("xminigrid/MiniGrid-Empty-8x8")
    _, state = env.reset(jax.random.key(0), env_params)
    rewards = []
    # To the corner opposite: five squares ahead, turn right, five squares ahead.
    for action in [0] * 5 + [1] + [0] * 5:
        found = env.step(jax.random.key(1), state, jnp.int32(action), env_params)
        _, state, reward, terminated, truncated, _ = found
        rewards.append(float(reward))
    assert bool(terminated)
    assert not bool(truncated)
    np.testing.assert_allclose(rewards, [0.0] * 10 + [1.0 - 0.9 * 11 / 256], rtol=1e-6)


def test_an_end_at_the_wrong_object_pays_nothing():
    skip_without("xminigrid")
    env, env_params = environments.make("xminigrid/MiniGrid-MemoryS8")
    actions = jax.random.choice(jax.random.key(9), jnp.array([0, 0, 0, 1, 2]), (32, 100))

    @jax.jit
    @jax.vmap
    def walk(key, actions):
        def step(state, action):
            _, state, reward, terminated, _, _ = env.step(key, state, action, env_params)
            return state, (reward, terminated)

        return jax.lax.scan(step, env.reset(key, env_params)[1], actions)[1]

    rewards, ends = map(np.asarray, walk(jax.random.split(jax.random.key(1), 32), actions))
    paid = (rewards > 0)[ends]
    assert 0 < paid.sum() < len(paid)
    assert not rewards[~ends].any()


def test_a_navix_s_symbols_are_those_of_the_library():
    env, env_params = make("navix/Navix-DoorKey-5x5-v0")
    key = jax.random.key(3)
    obs, state = env.reset(key, env_params)
    timestep = env.game.reset(jax.random.key_data(jax.random.split(key)[0]))
    for action in (2, 1, 2, 3, 0, 5, 2):
        np.testing.assert_array_equal(obs, timestep.observation)
        obs, state, *_ = env.step(key, state, jnp.int32(action), env_params)
        timestep = env.game._step(timestep, jnp.int32(action))
