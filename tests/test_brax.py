"""Brax's environments: the same physics as Brax's own, ends told apart, true successors, resets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejax_po as po
from purejax_po import cli, environments, rollout
from purejax_po._xla import elimination
from purejax_po.environments import adapters

PENDULUM = "brax/inverted_pendulum"


@pytest.fixture(scope="module", autouse=True)
def brax(compile_quickly):
    return pytest.importorskip("brax")


@pytest.fixture(scope="module")
def pendulum():
    return environments.make(PENDULUM)


def random_policy(env, env_params):
    return po.mlp_actor_critic(env, env_params, hidden=(4,))[0]


def collect(env, env_params, num_envs, num_steps, seed=0):
    """A rollout of a random policy from a reset: state, transition."""
    policy = random_policy(env, env_params)

    def run(key):
        init_key, reset_key, key = jax.random.split(key, 3)
        state = rollout.reset(reset_key, env, env_params, policy, num_envs)
        params = policy.init(init_key)
        return rollout.collect(key, env, env_params, policy, params, state, num_steps)[:2]

    return run, jax.jit(run)(jax.random.key(seed))


def test_brax_itself_stays_what_it_is(pendulum):
    """The adapter inverts by elimination; a user's own code has Brax's inverse by LAPACK."""
    env, env_params = pendulum
    assert "cholesky" in str(jax.make_jaxpr(env.brax_env.reset)(jax.random.key(0)))
    ours = str(jax.make_jaxpr(lambda key: env.reset(key, env_params))(jax.random.key(0)))
    assert "cholesky" not in ours


def test_the_physics_are_those_of_brax(pendulum):
    """The carried state is a part of Brax's, and that part is enough."""
    env, env_params = pendulum
    key, actions = jax.random.key(1), 0.02 * jax.random.normal(jax.random.key(2), (20, 1))
    obs, state = env.reset(key, env_params)
    theirs = jax.jit(env.brax_env.reset)(key)
    their_step = jax.jit(env.brax_env.step)
    np.testing.assert_allclose(obs, theirs.obs, rtol=1e-6)
    size = sum(x.size for x in jax.tree.leaves(state.inner))
    assert size < 0.7 * sum(x.size for x in jax.tree.leaves(theirs))
    for action in actions:
        obs, state, reward, terminated, truncated, info = env.step(key, state, action, env_params)
        theirs = their_step(theirs, action)
        np.testing.assert_allclose(info["final_observation"], theirs.obs, rtol=1e-4, atol=1e-6)
        assert reward == theirs.reward
        assert terminated == theirs.done
        assert not truncated


def test_ends_are_told_apart_and_the_successor_is_the_true_one(pendulum):
    env, env_params = pendulum
    env_params = env_params.replace(max_steps_in_episode=7)
    _, (_, transition) = collect(env, env_params, num_envs=8, num_steps=40)
    ended = transition.terminated | transition.truncated
    assert transition.terminated.any()
    assert transition.truncated.any()
    successor_is_next = (transition.next_obs[:-1] == transition.obs[1:]).all(-1)
    np.testing.assert_array_equal(successor_is_next, ~ended[:-1])
    np.testing.assert_array_equal(transition.start[1:], ended[:-1])
    angle = transition.next_obs[..., 1]
    np.testing.assert_array_equal(transition.terminated, jnp.abs(angle) > 0.2)
    starts = np.asarray(transition.obs[transition.start])
    assert (np.abs(starts) <= 0.01 + 1e-6).all()
    assert len(np.unique(starts, axis=0)) == len(starts)


def test_a_pool_of_starts_is_drawn_anew_for_every_rollout():
    env, env_params = environments.make(PENDULUM, reset_pool=3)
    env_params = env_params.replace(max_steps_in_episode=2)
    policy = random_policy(env, env_params)
    params = policy.init(jax.random.key(0))
    state = rollout.reset(jax.random.key(1), env, env_params, policy, 2)
    step = jax.jit(
        lambda key, state: rollout.collect(key, env, env_params, policy, params, state, 41)
    )
    seen = []
    for seed in range(2):
        state, transition, _ = step(jax.random.key(seed), state)
        for i in range(2):
            starts = transition.obs[1:, i][transition.start[1:, i]]
            seen.append({tuple(row) for row in np.asarray(starts).tolist()})
    assert [len(starts) for starts in seen] == [3, 3, 3, 3]
    assert len(set.union(*seen)) == 12


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_resets_where_ended_are_those_of_a_select_at_any_depth(batch):
    def reset(key, params):
        return {"x": jax.random.normal(key, (2,)), "time": params}

    size = int(np.prod(batch, dtype=int))
    keys = jax.random.split(jax.random.key(0), size).reshape(batch)
    state = {"x": jnp.ones((*batch, 2)), "time": jnp.full(batch, 5)}
    one, expected = adapters.unless_ended(reset), reset
    for _ in batch:
        one = jax.vmap(one, in_axes=(0, 0, None, 0))
        expected = jax.vmap(expected, in_axes=(0, None))
    for ended in (jnp.zeros(batch, bool), jnp.arange(size).reshape(batch) % 2 == 0):
        found = jax.jit(one)(ended, keys, 7, state)
        wanted = jax.tree.map(
            lambda new, old, ended=ended: jnp.where(
                ended.reshape(batch + (1,) * (old.ndim - ended.ndim)), new, old
            ),
            {**expected(keys, 7), "time": jnp.full(batch, 7)},
            state,
        )
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_resets_are_left_out_of_steps_in_which_nothing_ends():
    """Under vmap over lanes and environments the conditional is still one."""
    env, env_params = environments.make("brax/fast")
    policy = random_policy(env, env_params)
    state = rollout.reset(jax.random.key(0), env, env_params, policy, 2)
    keys = jax.random.split(jax.random.key(1), (3, 2))
    states = jax.tree.map(lambda x: jnp.stack([x] * 3), state.env_state)
    actions = jnp.zeros((3, 2, 1))
    step = jax.vmap(jax.vmap(env.step, (0, 0, 0, None)), (0, 0, 0, None))
    assert "cond[" in str(jax.make_jaxpr(step)(keys, states, actions, env_params))


def test_no_lapack_call_is_left(pendulum):
    """Such calls have hung on a CPU; the mass matrix's inverse is made by elimination."""
    env, env_params = pendulum
    found = str(jax.make_jaxpr(env.reset)(jax.random.key(0), env_params))
    assert not any(name in found for name in ("cholesky", "triangular_solve", "lu[", "lapack"))
    root = np.random.default_rng(0).normal(size=(9, 9)).astype(np.float32)
    matrix = root @ root.T + np.eye(9, dtype=np.float32)
    inverse = elimination.solve(jnp.asarray(matrix), jnp.eye(9))
    np.testing.assert_allclose(inverse @ matrix, np.eye(9), atol=1e-4)


def test_swimmer_works_on_this_jax():
    env, env_params = environments.make("brax/swimmer")
    obs, state = jax.eval_shape(env.reset, jax.random.key(0), env_params)
    step = jax.eval_shape(env.step, jax.random.key(0), state, jnp.zeros(2), env_params)
    assert step[0].shape == obs.shape == env.observation_space().shape == (8,)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("brax/hoper", ["'hoper'", "did you mean hopper"]),
        ("brax/hopper:sprin", ["backend of brax/hopper", "'sprin'", "did you mean spring"]),
        ("brax/swimmer:spring", ["brax/swimmer", "Unsupported backend: spring"]),
        ("brax/", ["known environment", "'brax/'"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(name, words, capsys):
    assert cli.main(["train", "ppo", "--env", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="reset_pool must be a whole number ≥ 0, got -1"):
        environments.make("brax/fast", reset_pool=-1)
    with pytest.raises(ValueError, match=r"option of brax/fast .* did you mean reset_pool"):
        environments.make("brax/fast", reset_pol=1)


def test_a_missing_extra_names_the_command_that_installs_it(subtests, monkeypatch, capsys):
    for library in sorted(environments.ADAPTED):
        with subtests.test(library):
            module = f"purejax_po.environments.{library}"
            monkeypatch.setitem(__import__("sys").modules, module, None)
            name = f"{library}/{environments.ADAPTED[library][0]}"
            assert cli.main(["train", "ppo", "--env", name]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert f"pip install 'purejax-po[{library}]'" in line


def test_training_and_rendering(tmp_path, capsys):
    out = str(tmp_path / "run")
    flags = [
        "--seeds",
        "2",
        "--num-envs",
        "2",
        "--num-steps",
        "16",
        "--network.hidden",
        "8",
        "--total-steps",
        "640",
    ]
    flags += ["--env-params", "max_steps_in_episode", "5", "--normalize-observations"]
    assert cli.main(["train", "ppo", "--env", PENDULUM, *flags, "--out", out]) == 0
    assert po.load_results(out)["episode_length"].max() <= 5
    assert cli.main(["render", out, "--seed", "1"]) == 0
    page = (tmp_path / "run" / "seed-1.html").read_text()
    assert "<html" in page
    capsys.readouterr()
    assert cli.main(["render", out, "--out", str(tmp_path / "a.gif")]) == 2
    assert "path must end in .html" in capsys.readouterr().err
