"""Natural gradients of policies with memory: Fisher products through an unrolled sequence."""

import dataclasses
import functools
import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built import built
from jax.flatten_util import ravel_pytree

import purejax_po as po
from purejax_po import advantages
from purejax_po.algorithms import critics, natural, optimizers

NUM_STEPS, NUM_ENVS, DAMPING = 5, 4, 0.1

pytestmark = pytest.mark.usefixtures("compile_quickly")


@functools.cache
def problem(cell, name="MemoryChain-bsuite"):
    """A policy and a rollout of sequences that begin with a memory and reset in the middle."""
    env, env_params = po.make_env(name)
    policy, critic = po.recurrent_actor_critic(env, env_params, cell=cell, hidden=(2,))
    keys = jax.random.split(jax.random.key(0), 8)
    flat, unravel = ravel_pytree(policy.init(keys[0]))
    params = unravel(flat + jax.random.normal(keys[1], flat.shape))  # biases and heads too
    size = env.observation_space(env_params).shape
    obs = jax.random.normal(keys[2], (NUM_STEPS, NUM_ENVS, *size))
    start = jnp.zeros((NUM_STEPS, NUM_ENVS), bool).at[2, 0].set(True).at[3, 1].set(True)
    carry = jax.tree.map(
        lambda x: 0.5 * jax.random.normal(keys[3], x.shape), policy.initial_carry(NUM_ENVS)
    )
    behaviour = policy.unroll(params, carry, obs, start)
    weight = jax.random.uniform(keys[5], (NUM_STEPS, NUM_ENVS), minval=0.2)
    samples = po.Transition(
        obs,
        behaviour.sample(keys[4]),
        jax.random.normal(keys[6], weight.shape),
        obs,
        *[jnp.zeros_like(start)] * 2,
        start,
        behaviour,
        weight,
    )
    return policy, critic, params, carry, samples


def stepped(policy, params, carry, samples):
    """π over a sequence by one step after the other, as it acts: no unrolling."""
    distributions = []
    for obs, start in zip(samples.obs, samples.start, strict=True):
        carry, distribution = policy.step(params, carry, obs, start)
        distributions.append(distribution)
    return jax.tree.map(lambda *x: jnp.stack(x), *distributions)


def dense_fisher(policy, params, carry, samples):
    """Σ w Σ_a π(a|h) ∇log π ∇log πᵀ / Σ w, from the Jacobian of all log-probabilities."""
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def log_pi(x, carry, samples):
        return jax.nn.log_softmax(stepped(policy, unravel(x), carry, samples).logits)

    scores = jax.jit(jax.jacobian(log_pi))(flat, carry, samples)
    pi = jnp.exp(log_pi(flat, carry, samples))
    weight = (samples.weight / samples.weight.sum())[..., None] * pi
    return np.einsum("tna,tnai,tnaj->ij", weight, scores, scores)


def as_matrix(product, params):
    flat, unravel = ravel_pytree(params)
    rows = jax.jit(jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0]))
    return np.asarray(rows(jnp.eye(len(flat))))


def fisher(kind, fraction=1.0, cell="gru"):
    policy, _, params, carry, samples = problem(cell)
    product = natural.fisher_product(
        jax.random.key(1),
        policy,
        params,
        samples,
        kind=kind,
        fraction=fraction,
        damping=DAMPING,
        carry=carry,
    )
    return as_matrix(product, params)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("kind", ["gauss_newton", "kl_hessian"])
def test_the_product_is_the_dense_fisher_matrix_of_the_steps(kind, cell, x64):
    policy, _, params, carry, samples = problem(cell)
    expected = dense_fisher(policy, params, carry, samples)
    assert np.abs(expected).max() > 0.01
    damped = expected + DAMPING * np.eye(len(expected))
    np.testing.assert_allclose(fisher(kind, cell=cell), damped, rtol=0, atol=1e-13)


def test_the_empirical_product_is_the_mean_of_outer_products(x64):
    policy, _, params, carry, samples = problem("gru")
    flat, unravel = ravel_pytree(params)

    def log_prob(x):
        return stepped(policy, unravel(x), carry, samples).log_prob(samples.action)

    score, share = jax.jacobian(log_prob)(flat), samples.weight / samples.weight.sum()
    expected = np.einsum("tn,tni,tnj->ij", share, score, score) + DAMPING * np.eye(len(flat))
    np.testing.assert_allclose(fisher("empirical"), expected, rtol=0, atol=1e-13)


def test_a_fraction_is_of_the_environments_each_with_its_whole_sequence(x64):
    policy, _, params, carry, samples = problem("gru")
    found = fisher("gauss_newton", fraction=0.5)
    matches = 0
    for pair in itertools.combinations(range(NUM_ENVS), 2):
        alone = samples.weight * jnp.isin(jnp.arange(NUM_ENVS), jnp.array(pair))
        expected = dense_fisher(policy, params, carry, samples._replace(weight=alone))
        expected += DAMPING * np.eye(len(expected))
        matches += np.allclose(found, expected, rtol=0, atol=1e-13)
    assert matches == 1


def test_a_reset_cuts_what_memory_passes_on(x64):
    """Where every step starts an episode, the product is that of single steps without memory."""
    policy, _, params, carry, samples = problem("gru")
    always = samples._replace(start=jnp.ones_like(samples.start))
    product = natural.fisher_product(
        jax.random.key(1),
        policy,
        params,
        always,
        kind="gauss_newton",
        fraction=1.0,
        damping=DAMPING,
        carry=carry,
    )
    flat = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), always)
    empty = policy.initial_carry(NUM_STEPS * NUM_ENVS)
    expected = dense_fisher(policy, params, empty, flat)
    expected += DAMPING * np.eye(len(expected))
    np.testing.assert_allclose(as_matrix(product, params), expected, rtol=0, atol=1e-13)


# --- updates -------------------------------------------------------------------------------------

CRITIC = {"critic_epochs": 2, "critic_minibatch_size": 2 * NUM_STEPS}


def update(make, cell="gru", **options):
    """One update from the problem's parameters; the policy's mean KL is measured step by step."""
    policy, critic, params, carry, samples = problem(cell)
    algorithm = built(make)(policy, critic, **CRITIC, **options)
    critic_carry = jax.tree.map(lambda x: 0.3 * x, carry)
    rollout = po.Rollout(samples, (carry, critic_carry), jnp.float32(0))
    state = algorithm.init(jax.random.key(2), algorithm.hyperparams)
    state = state._replace(params=state.params._replace(policy=params))
    key, hyperparams = jax.random.key(3), algorithm.hyperparams
    new, info = jax.jit(algorithm.update)(key, hyperparams, state, rollout)
    moved = stepped(policy, new.params.policy, carry, samples)
    kl = advantages.weighted_mean(samples.behaviour.kl(moved), samples.weight)
    return state, new, info, float(kl)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_kl_of_an_undamped_step_is_that_of_the_region(cell, x64):
    """To third order in the step: what is left falls with √δ."""
    for max_kl in (1e-6, 1e-8):
        hyperparams = po.TRPOHyperparams(max_kl=max_kl, damping=1e-9)
        _, _, info, kl = update(po.trpo, cell, cg_iterations=60, hyperparams=hyperparams)
        assert info["kl_full_step"] == pytest.approx(max_kl, rel=100 * np.sqrt(max_kl))
        assert info["kl"] <= max_kl
        assert kl == pytest.approx(float(info["kl"]), rel=1e-9)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_a_step_of_trpo_stays_in_the_region_and_improves(fraction, x64):
    before, after, info, kl = update(
        po.trpo, fisher_fraction=fraction, hyperparams=po.TRPOHyperparams(max_kl=0.05)
    )
    assert 0 < kl <= 0.05
    assert info["improvement"] > 0
    for old, new in zip(before.params, after.params, strict=True):
        moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), old, new)
        assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize("solver", ["cg", "dense"])
def test_a_fixed_step_of_npg_solves_the_dense_system(solver, x64):
    policy, critic, params, carry, samples = problem("gru")
    before, after, _, _ = update(
        po.npg,
        solver=solver,
        step_size_rule="fixed",
        cg_iterations=60,
        normalize_advantage=False,
        hyperparams=po.NPGHyperparams(step_size=0.01, damping=DAMPING),
    )
    critic_carry = jax.tree.map(lambda x: 0.3 * x, carry)
    estimates = critics.estimate(
        critic, before.params.critic, samples, po.NPGHyperparams(), critic_carry
    )
    flat, unravel = ravel_pytree(params)

    def objective(x):
        log_prob = stepped(policy, unravel(x), carry, samples).log_prob(samples.action)
        return advantages.weighted_mean(log_prob * estimates.advantage, samples.weight)

    matrix = dense_fisher(policy, params, carry, samples) + DAMPING * np.eye(len(flat))
    expected = 0.01 * np.linalg.solve(matrix, np.asarray(jax.grad(objective)(flat)))
    found = ravel_pytree(after.params.policy)[0] - flat
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


def test_a_critic_is_fitted_to_whole_sequences_from_their_first_memory(x64):
    """One minibatch of all sequences is one step down the loss of the unrolled critic."""
    _, critic, _, carry, samples = problem("gru")
    params, optimizer = critic.init(jax.random.key(5)), optimizers.adam(1e-2)
    targets = critics.Targets(samples, samples.reward, carry)
    found, _, loss = critics.fit(
        jax.random.key(6),
        critic,
        params,
        optimizer,
        optimizer.init(params),
        targets,
        critics.CriticOptions(critic_epochs=1, critic_minibatch_size=NUM_STEPS * NUM_ENVS),
    )

    def objective(params):
        error = stepped_values(critic, params, carry, samples) - samples.reward
        return 0.5 * advantages.weighted_mean(jnp.square(error), samples.weight)

    expected, gradient = jax.value_and_grad(objective)(params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    moved = jax.tree.map(jnp.add, params, updates)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    chex.assert_trees_all_close(found, moved, atol=1e-8)


def stepped_values(critic, params, carry, samples):
    values = []
    for obs, start in zip(samples.obs, samples.start, strict=True):
        carry, value = critic.step(params, carry, obs, start)
        values.append(value)
    return jnp.stack(values)


def test_minibatches_of_the_critic_hold_whole_sequences():
    policy, critic, *_ = problem("gru")
    algorithm = po.trpo(policy, critic, po.TRPOOptions(critic_minibatch_size=4))
    rollout = jax.eval_shape(
        lambda: po.Rollout(problem("gru")[4], (problem("gru")[3],) * 2, jnp.float32(0))
    )
    state = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyperparams)
    message = (
        "critic_minibatch_size must be a multiple of num_steps = 5, since a critic with memory "
        "learns from whole sequences, got 4"
    )
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(algorithm.update, jax.random.key(0), algorithm.hyperparams, state, rollout)
    network = po.NetworkConfig(memory="lstm")
    for config in (po.TRPOConfig, po.NPGConfig, po.REINFORCEConfig):
        with pytest.raises(ValueError, match=re.escape("must be a multiple of num_steps = 16")):
            config(network=network, num_envs=2, num_steps=16, critic_minibatch_size=8).check()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("make", [po.trpo, po.reinforce])
def test_only_one_of_the_networks_may_remember(make, which):
    """The other one is a network of single samples; both learn."""
    env, env_params = po.make_env("MemoryChain-bsuite")
    env_params = env_params.replace(memory_length=2)
    networks = list(po.mlp_actor_critic(env, env_params, hidden=(3,)))
    networks[which] = po.lstm_actor_critic(env, env_params, hidden=(3,))[which]
    algorithm = built(make)(*networks, critic_epochs=1, critic_minibatch_size=8)
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=4, num_steps=8)
    before = jax.jit(trainer.init)(jax.random.key(0), algorithm.hyperparams)
    after, _ = jax.jit(trainer.step)(algorithm.hyperparams, before)
    moved = jax.tree.map(
        lambda x, y: np.abs(x - y).max(), before.algorithm.params, after.algorithm.params
    )
    assert all(np.isfinite(x) for x in jax.tree.leaves(moved))
    assert all(max(jax.tree.leaves(part)) > 0 for part in moved)


# --- learning ------------------------------------------------------------------------------------


def memory_chain(algorithm, **changes):
    """Show a bit, wait for ten steps, ask for it: the return is 1 or -1, by chance 0 on average."""
    config = po.ExperimentConfig(
        algorithm=algorithm,
        env="MemoryChain-bsuite",
        env_params={"memory_length": 10},
        num_seeds=16,
        total_steps=400_000,
    )
    return dataclasses.replace(config, **changes)


SHAPE = {"num_envs": 16, "num_steps": 32}
GRU, LSTM = (po.NetworkConfig(memory=memory, hidden=(32,)) for memory in ("gru", "lstm"))
LEARNERS = {
    "trpo-gru": (
        po.TRPOConfig(
            network=GRU, critic_epochs=5, hyperparams=po.TRPOHyperparams(max_kl=0.02), **SHAPE
        ),
        0.9,
    ),
    "ppo-lstm": (po.PPOConfig(network=LSTM, **SHAPE), 0.98),
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LEARNERS)
def test_memory_learns_the_memory_chain(name):
    algorithm, least = LEARNERS[name]
    final = po.summarize(po.run(memory_chain(algorithm), progress=False))
    assert final["final_return"]["iqm"] >= least
