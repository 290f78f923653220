"""Policies and critics with memory: stepping, unrolling, forgetting, and learning with them."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from built import built

import purejax_po as po
from purejax_po.algorithms import actor_critic, critics, units

pytestmark = pytest.mark.usefixtures("compile_quickly", "no_pictures")

NUM_ENVS, NUM_STEPS = 4, 12


def make_networks(name="MemoryChain-bsuite", **env_params):
    env, defaults = po.make_env(name)
    env_params = defaults.replace(**env_params)
    return env, env_params, po.gru_actor_critic(env, env_params, hidden=(5, 6))


@functools.cache
def networks(name):
    env, env_params, (policy, critic) = make_networks(name)
    size = env.observation_space(env_params).shape
    obs = jax.random.normal(jax.random.key(0), (NUM_STEPS, NUM_ENVS, *size))
    start = jax.random.bernoulli(jax.random.key(1), 0.2, (NUM_STEPS, NUM_ENVS))
    carry = jax.random.normal(jax.random.key(2), (NUM_ENVS, 6))
    return (
        (policy, policy.init(jax.random.key(3))),
        (critic, critic.init(jax.random.key(4))),
        (
            carry,
            obs,
            start,
        ),
    )


def close(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["MemoryChain-bsuite", "Pendulum-v1"])
@pytest.mark.parametrize("which", [0, 1])
def test_steps_one_by_one_equal_the_unrolled_sequence(name, which):
    *pair, (carry, obs, start) = networks(name)
    network, params = pair[which]
    outputs, memory, step = [], carry, jax.jit(network.step)
    for t in range(NUM_STEPS):
        memory, output = step(params, memory, obs[t], start[t])
        outputs.append(output)
    unrolled = jax.jit(network.unroll)(params, carry, obs, start)
    close(jax.tree.map(lambda *x: jnp.stack(x), *outputs), unrolled)


@pytest.mark.parametrize("which", [0, 1])
def test_memory_is_empty_where_an_episode_starts(which):
    *pair, (carry, obs, start) = networks("MemoryChain-bsuite")
    network, params = pair[which]
    unroll = jax.jit(network.unroll)
    outputs, others = unroll(params, carry, obs, start), unroll(params, carry + 1.0, obs, start)
    begun = np.cumsum(start, axis=0) > 0
    for x, y in zip(jax.tree.leaves(outputs), jax.tree.leaves(others), strict=True):
        np.testing.assert_array_equal(x[begun], y[begun])
        assert (x[~begun] != y[~begun]).all()
    t, n = np.argwhere(np.asarray(start) & (np.arange(NUM_STEPS) > 2)[:, None])[0]
    empty = network.initial_carry(NUM_ENVS)
    _, alone = network.step(params, empty, obs[t], jnp.zeros(NUM_ENVS, bool))
    close(jax.tree.map(lambda x: x[n], alone), jax.tree.map(lambda x: x[t, n], outputs))


def test_initialising_needs_no_decomposition():
    """A batched one can deadlock on a CPU."""
    for network, _ in networks("MemoryChain-bsuite")[:2]:
        program = str(jax.make_jaxpr(network.init)(jax.random.key(0)))
        assert not re.search(r"\b(qr|geqrf|householder_product)\b", program)


def test_values_of_successors_remember_what_came_before_them():
    """At every step, a truncation among them: the critic is run over the episode so far."""
    _, (critic, params), (carry, obs, start) = networks("MemoryChain-bsuite")
    next_obs = jax.random.normal(jax.random.key(5), obs.shape)
    transition = po.Transition(obs, *[None] * 2, next_obs, *[None] * 2, start, *[None] * 2)
    value, next_value = jax.jit(lambda x: critics.values(critic, params, carry, x))(transition)
    unroll = jax.jit(critic.unroll)
    close(value, unroll(params, carry, obs, start))
    # The episode so far, then the successor; what comes after it is not looked at.
    one_more = jnp.concatenate([obs, obs[:1]]), jnp.concatenate([start, start[:1]])
    for t in range(NUM_STEPS):
        so_far = one_more[0].at[t + 1].set(next_obs[t])
        starts = one_more[1].at[t + 1].set(False)
        close(next_value[t], unroll(params, carry, so_far, starts)[t + 1])


# --- in algorithms -------------------------------------------------------------------------------


@functools.cache
def compiled(make, **options):
    """Networks, and two functions: the first state, and an update with what it got and gave."""
    env, env_params, pair = make_networks(memory_length=3)
    algorithm = built(make)(*pair, **options)
    seen = []

    def update(key, hyperparams, state, rollout):
        new = algorithm.update(key, hyperparams, state, rollout)
        seen.append((state, rollout, *new))
        return new

    spied = algorithm._replace(update=update)
    trainer = po.make_trainer(env, env_params, spied, num_envs=NUM_ENVS, num_steps=NUM_STEPS - 1)

    @jax.jit
    def step(hyperparams, state):
        seen.clear()
        state, _ = trainer.step(hyperparams, state)
        return state, seen[0]

    return pair, jax.jit(trainer.init), step


def rollouts(make, hyperparams, number=2, **options):
    """So many updates on chains of four steps: each one's state, rollout, new state and info."""
    pair, init, step = compiled(make, **options)
    state, found = init(jax.random.key(0), hyperparams), []
    for _ in range(number):
        state, one = step(hyperparams, state)
        found.append(one)
    return pair, found


def test_a_rollout_and_its_first_carry_replay_to_what_acted():
    (policy, _), updates = rollouts(po.a2c, po.A2CHyperparams(), normalize_advantage=False)
    unroll = jax.jit(policy.unroll)
    for i, (state, rollout, _, _) in enumerate(updates):
        transition, carry = rollout.transition, rollout.carry
        replayed = unroll(state.params.policy, carry[0], transition.obs, transition.start)
        close(replayed, transition.behaviour)
        # Eleven steps are not whole chains of four: the second rollout begins with a memory.
        assert (np.abs(carry[1]).sum() > 0) == (i > 0)
        assert bool(transition.start[0].all()) == (i == 0)


# So large an ε makes Adam's step the gradient.
PLAIN = {"learning_rate": 1e6, "adam_eps": 1e6, "max_grad_norm": 1e9}


def test_the_first_full_batch_epoch_of_ppo_is_a_step_of_a2c():
    _, (a2c,) = rollouts(po.a2c, po.A2CHyperparams(**PLAIN), 1, normalize_advantage=False)
    _, (ppo,) = rollouts(
        po.ppo,
        po.PPOHyperparams(**PLAIN),
        1,
        num_epochs=1,
        num_minibatches=1,
        normalize_advantage="off",
    )
    (before, _, expected, info), (_, _, found, _) = a2c, ppo
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-4, atol=1e-6)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), before.params, expected.params)
    assert min(jax.tree.leaves(moved)) > 3e-6
    assert info["grad_norm"] > 0.01


def test_minibatches_are_whole_environments_with_their_memory():
    hyperparams = po.PPOHyperparams()
    (_, critic), updates = rollouts(po.ppo, hyperparams, num_minibatches=NUM_ENVS)
    state, rollout, found, _ = updates[1]
    samples = actor_critic.make_samples(critic, state.params, rollout, hyperparams)
    sequences = units.of_rollout(samples, memoryless=False)
    sequence = jax.tree.map(lambda x: x[1:2], sequences)
    batch = units.in_time(sequence, memoryless=False)
    chex.assert_trees_all_equal(
        batch.transition, jax.tree.map(lambda x: x[:, 1:2], rollout.transition)
    )
    chex.assert_trees_all_equal(batch.carry, jax.tree.map(lambda x: x[1:2], rollout.carry))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_a_gru_needs_a_width():
    env, env_params = po.make_env("CartPole-v1")
    with pytest.raises(ValueError, match="hidden must name the width of the GRU"):
        po.gru_actor_critic(env, env_params, hidden=())


# --- in experiments ------------------------------------------------------------------------------


def memory_chain(algorithm, memory, **changes):
    """Show a bit, wait for ten steps, ask for it: the return is 1 or -1, by chance 0 on average."""
    config = po.ExperimentConfig(
        algorithm=algorithm(network=po.NetworkConfig(memory=memory)),
        env="MemoryChain-bsuite",
        env_params={"memory_length": 10},
    )
    return dataclasses.replace(config, **changes)


def test_a_run_with_memory_can_be_evaluated_and_its_policy_used(tmp_path):
    network = po.NetworkConfig(hidden=(8,), memory="gru")
    algorithm = dataclasses.replace(tiny.ALGORITHMS["ppo"], network=network)
    config = memory_chain(po.PPOConfig, "gru")
    config = dataclasses.replace(config, algorithm=algorithm, num_seeds=2, total_steps=320)
    po.run(config, tmp_path / "run", progress=False)
    evaluation = po.evaluate_run(tmp_path / "run", num_episodes=4)
    np.testing.assert_array_equal(evaluation["episode_length"], 11)
    np.testing.assert_array_equal(np.abs(evaluation["episode_return"]), 1)
    act = po.load_policy(tmp_path / "run", seed=1)
    obs = jnp.array([1.0, 0.0, 1.0])
    action, memory = act(obs)
    assert action.shape == ()
    assert int(action) in (0, 1)
    _, later = act(obs, memory)
    assert np.abs(later[0] - memory[0]).max() > 0
    close(act(obs)[1], memory)


def test_sequences_have_to_split_into_minibatches():
    config = memory_chain(po.PPOConfig, "gru")
    algorithm = dataclasses.replace(config.algorithm, num_minibatches=3)
    with pytest.raises(
        ValueError,
        match="num_minibatches must divide the batch of 4 environments' sequences, got 3",
    ):
        algorithm.check()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_is_needed_and_enough_on_the_memory_chain():
    changes = {"num_seeds": 16, "total_steps": 200_000}
    final = {
        memory: po.summarize(po.run(memory_chain(po.PPOConfig, memory, **changes), progress=False))
        for memory in ("gru", "none")
    }
    assert final["gru"]["final_return"]["iqm"] >= 0.9
    assert abs(final["none"]["final_return"]["mean"]) < 0.1
