"""Other libraries' environments: a smoke test each, where the extra is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejax_po as po
from purejax_po import environments, rollout

SMALL = {
    "craftax/Craftax-Classic-Symbolic-v1": {"reset_pool": 2},
    "jumanji/Minesweeper-v0": {},
    "jumanji/Snake-v1": {},
    "pgx/2048": {"reset_pool": 2},
    "pgx/minatar-breakout": {},
}


def make(name):
    pytest.importorskip(name.partition("/")[0])
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
    obs_shape = env.observation_space(env_params).shape
    assert transition.obs.shape == (30, 3, *obs_shape)
    assert transition.obs.dtype == jnp.float32
    ended = transition.terminated | transition.truncated
    assert ended.any()
    assert float(episodes.episode_length.max()) <= 11
    np.testing.assert_array_equal(transition.start[1:], ended[:-1])
    is_next = (transition.next_obs[:-1] == transition.obs[1:]).reshape(29, 3, -1).all(-1)
    assert is_next[~ended[:-1]].all()
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pgx/chess", "game of one player, got pgx/chess of 2"),
        ("pgx/ches", "did you mean chess"),
        ("jumanji/Connector-v3", "one reward, got jumanji/Connector-v3 with one for each agent"),
        ("jumanji/MultiCVRP-v0", "discrete actions, got jumanji/MultiCVRP-v0"),
        ("jumanji/Snake", "did you mean Snake-v1"),
        ("craftax/Craftax", "craftax environment must be one of"),
    ],
)
def test_what_has_no_ordinary_spaces_is_refused_in_one_line(name, words):
    pytest.importorskip(name.partition("/")[0])
    with pytest.raises(ValueError, match=words) as error:
        environments.make(name)
    assert "\n" not in str(error.value)
