"""The policy-gradient family against exact sums: every trajectory of a small MDP, in float64."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built import built

import purejax_po as po
from purejax_po import advantages, exact, networks, surrogates
from purejax_po.algorithms import a2c as a2c_module
from purejax_po.algorithms import actor_critic, critics, weighting
from purejax_po.environments.finite_mdp import make_finite_mdp

pytestmark = pytest.mark.usefixtures("compile_quickly")

DISCOUNT, NUM_ACTIONS, WIDTH, DEPTH = 0.9, 2, 2, 3
NUM_STATES = WIDTH * DEPTH + 1
END = NUM_STATES - 1
PSI = tuple(advantages.ESTIMATORS)


class Enumerated(NamedTuple):
    """Every episode of an MDP whose episodes end within three steps, one per column."""

    mdp: exact.MDP
    policy: po.Policy
    theta: jax.Array
    transition: po.Transition
    """Leaves `[3, E]`; weights are the episode's probability, 0 after its end."""
    value: jax.Array
    """V(obs) and V(next_obs), exact, `[3, E]`; nonsense where it must not be looked at."""
    next_value: jax.Array
    gradient: jax.Array
    """∇J by the policy-gradient theorem."""


def layered_mdp(seed):
    """Three layers of two states; each leads to the next layer or to the end, where nothing is."""
    rng = np.random.default_rng(seed)
    transition = np.zeros((NUM_STATES, NUM_ACTIONS, NUM_STATES))
    for state in range(END):
        layer = state // WIDTH
        following = [WIDTH * (layer + 1) + i for i in range(WIDTH)] if layer + 1 < DEPTH else []
        successors = [*following, END]
        transition[state, :, successors] = rng.dirichlet(np.ones(len(successors)), NUM_ACTIONS).T
    transition[END, :, END] = 1.0
    reward = 1.0 + rng.normal(size=(NUM_STATES, NUM_ACTIONS))
    reward[END] = 0.0
    start = np.zeros(NUM_STATES)
    start[:WIDTH] = rng.dirichlet(np.ones(WIDTH))
    return exact.make_mdp(transition, reward, start, DISCOUNT)


def episodes(mdp, pi):
    """All episodes as lists of (state, action, successor), with their probabilities."""
    found = []

    def extend(steps, probability, state):
        if state == END:
            found.append((steps, probability))
            return
        for action in range(NUM_ACTIONS):
            for successor in np.flatnonzero(mdp.transition[state, action]):
                p = float(pi[state, action] * mdp.transition[state, action, successor])
                extend([*steps, (state, action, int(successor))], probability * p, int(successor))

    for state in range(WIDTH):
        extend([], float(mdp.start[state]), state)
    return found


@functools.cache
def enumerated(seed):
    with jax.enable_x64(True):
        rng = np.random.default_rng(100 + seed)
        mdp = layered_mdp(seed)
        policy = po.softmax_linear_policy(*make_finite_mdp(mdp))
        theta = jnp.asarray(rng.normal(size=(NUM_STATES, NUM_ACTIONS)))
        pi = jax.nn.softmax(theta)
        found = episodes(mdp, np.asarray(pi))
        shape = (DEPTH, len(found))
        index = np.array(
            [[(*e, 1) for e in steps] + [(0, 1, 1, 0)] * (DEPTH - len(steps)) for steps, _ in found]
        ).transpose(2, 1, 0)
        state, action, successor, valid = index
        probability = np.array([p for _, p in found])
        value = np.asarray(exact.state_values(mdp, pi))
        nonsense = rng.normal(size=shape)  # what follows the end, and values of the end
        obs = jnp.eye(NUM_STATES)[state]
        start = np.zeros(shape, bool)
        start[0] = True
        transition = po.Transition(
            obs=obs,
            action=jnp.asarray(action),
            reward=jnp.where(valid, np.asarray(mdp.reward)[state, action], nonsense),
            next_obs=jnp.eye(NUM_STATES)[successor],
            terminated=jnp.asarray(successor == END),
            truncated=jnp.zeros(shape, bool),
            start=jnp.asarray(start),
            behaviour=policy.unroll(theta, (), obs, None),
            weight=jnp.asarray(probability * valid),
        )
        return Enumerated(
            mdp,
            policy,
            theta,
            transition,
            jnp.where(valid, value[state], nonsense),
            jnp.where(successor == END, nonsense, value[successor]),
            exact.policy_gradient(mdp, jax.nn.log_softmax, theta),
        )


def estimate(psi, problem, value=None, gae_lambda=0.7, discount_states=True):
    """Σ over episodes of probability times the estimator: its expectation."""
    transition = problem.transition
    value = problem.value if value is None else value
    hyperparams = po.REINFORCEHyperparams(discount=DISCOUNT, gae_lambda=gae_lambda)
    evidence = critics.evidence(transition, value, problem.next_value, hyperparams)
    weights = advantages.ESTIMATORS[psi](evidence)
    if discount_states:
        weights = weighting.per_episode(psi, weights, transition.weight, DISCOUNT)
    return -jax.grad(weighting.loss, has_aux=True)(
        problem.theta, problem.policy, transition, weights
    )[0]


def test_the_enumeration_is_complete(x64):
    problem = enumerated(0)
    probability = problem.transition.weight[0]
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-14)
    transition = problem.transition
    zero = jnp.zeros_like(transition.reward)
    ends = transition.terminated, transition.truncated
    evidence = advantages.Evidence(transition.reward, zero, zero, *ends, DISCOUNT)
    total = advantages.total_return(evidence)
    pi = jax.nn.softmax(problem.theta)
    expected = exact.expected_return(problem.mdp, pi)
    np.testing.assert_allclose(probability @ total[0], expected, rtol=1e-13)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("psi", PSI)
def test_every_weight_gives_the_policy_gradient_in_expectation(psi, seed, x64):
    problem = enumerated(seed)
    assert np.abs(problem.gradient).max() > 0.01
    np.testing.assert_allclose(estimate(psi, problem), problem.gradient, atol=1e-12)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.3, 1.0])
def test_with_the_exact_critic_no_lambda_is_biased(gae_lambda, x64):
    problem = enumerated(1)
    found = estimate("advantage", problem, gae_lambda=gae_lambda)
    np.testing.assert_allclose(found, problem.gradient, atol=1e-12)


def test_any_baseline_leaves_the_expectation_alone(x64):
    """E[∇log π(a|s) b(s)] = 0, here for a b(s) that has nothing to do with the values."""
    problem = enumerated(2)
    b = np.random.default_rng(0).normal(size=NUM_STATES)
    found = estimate("baseline", problem, value=problem.transition.obs @ b)
    np.testing.assert_allclose(found, problem.gradient, atol=1e-12)


@pytest.mark.parametrize("psi", PSI)
def test_without_the_factor_only_the_whole_return_is_unbiased(psi, x64):
    """What practice computes: a mean over samples, with no γᵗ. Here E[length] undoes the mean."""
    problem = enumerated(0)
    found = estimate(psi, problem, discount_states=False) * problem.transition.weight.sum()
    unbiased = np.abs(found - problem.gradient).max() < 1e-12
    assert unbiased == (psi == "total_return")


@pytest.mark.parametrize("seed", range(3))
def test_variance_falls_from_whole_return_to_reward_to_go_to_baseline(seed, x64):
    """The trace of the exact covariance of a one-episode estimate of ∇J."""
    problem = enumerated(seed)
    probability = problem.transition.weight[0]
    columns = problem.transition._replace(
        weight=jnp.where(problem.transition.weight > 0, 1.0, 0.0), behaviour=None
    )

    def variance(psi):
        def one(transition, value, next_value):
            alone = jax.tree.map(
                lambda x: x[:, None],
                problem._replace(
                    mdp=None,
                    policy=None,
                    theta=None,
                    gradient=None,
                    transition=transition,
                    value=value,
                    next_value=next_value,
                ),
            )
            return estimate(psi, alone._replace(policy=problem.policy, theta=problem.theta))

        gradients = jax.vmap(one, in_axes=1)(columns, problem.value, problem.next_value)
        mean = jnp.einsum("e,esa->sa", probability, gradients)
        np.testing.assert_allclose(mean, problem.gradient, atol=1e-12)
        second = jnp.einsum("e,esa->", probability, jnp.square(gradients))
        return float(second - jnp.sum(jnp.square(mean)))

    assert variance("total_return") > variance("reward_to_go") > variance("baseline") > 0


# --- complete episodes ---------------------------------------------------------------------------


def rollout_of(psi, num_steps, time_limit=6, seed=0):
    """One update of REINFORCE on an MDP that is truncated at a time limit, and its trainer."""
    mdp = exact.garnet(jax.random.key(seed), 3, 2, 2, DISCOUNT)
    env, env_params = make_finite_mdp(mdp, time_limit)
    networks = po.softmax_linear_policy(env, env_params), po.linear_critic(env, env_params)
    algorithm = po.reinforce(
        *networks, po.REINFORCEOptions(psi=psi, critic_minibatch_size=num_steps)
    )
    seen = []

    def update(key, hyperparams, state, rollout):
        seen.append(rollout)
        return algorithm.update(key, hyperparams, state, rollout)

    spied = algorithm._replace(update=update)
    trainer = po.make_trainer(env, env_params, spied, num_envs=3, num_steps=num_steps)
    state = trainer.init(jax.random.key(0), algorithm.hyperparams)
    logs = []
    for _ in range(2):
        state, log = trainer.step(algorithm.hyperparams, state)
        logs.append(log)
    return state, seen, logs


def test_each_rollout_begins_anew_and_its_first_episodes_count():
    _, rollouts, logs = rollout_of("reward_to_go", num_steps=10)
    for rollout, log in zip(rollouts, logs, strict=True):
        expected = np.repeat(np.arange(10) < 6, 3).reshape(10, 3)
        np.testing.assert_array_equal(rollout.transition.weight, expected)
        assert rollout.transition.start[0].all()
        assert log.info.mean["unfinished_episodes"] == 0
        assert log.episode_return.count == 3
        assert log.episode_length.mean == 6


def test_episodes_that_do_not_end_are_left_out_and_counted():
    state, rollouts, logs = rollout_of("baseline", num_steps=5)
    np.testing.assert_array_equal(rollouts[0].transition.weight, 0.0)
    assert logs[0].info.mean["unfinished_episodes"] == 1
    assert state.diverged_at == -1
    np.testing.assert_array_equal(state.algorithm.params.policy, 0.0)


def test_bootstrapped_weights_go_on_where_the_last_rollout_ended():
    _, rollouts, logs = rollout_of("td_residual", num_steps=5)
    assert rollouts[0].transition.start[0].all()
    assert not rollouts[1].transition.start[0].any()
    np.testing.assert_array_equal(rollouts[1].transition.weight, 1.0)
    assert "unfinished_episodes" not in logs[0].info.mean


def test_first_episodes_against_a_loop():
    rng = np.random.default_rng(0)
    ended = rng.random((12, 40)) < 0.1
    transition = po.Transition(*[None] * 8, weight=jnp.ones(ended.shape))
    played = po.rollout.Episodes(jnp.asarray(ended), jnp.zeros(ended.shape), None)
    found, kept = po.rollout.first_episodes(transition, played)
    for n in range(ended.shape[1]):
        length = int(np.argmax(ended[:, n])) + 1 if ended[:, n].any() else 0
        np.testing.assert_array_equal(found.weight[:, n], np.arange(12) < length)
        np.testing.assert_array_equal(kept.ended[:, n], np.arange(12) == length - 1)


# --- PPO's surrogates inside its update ----------------------------------------------------------


def made_up_rollout(seed=0, shape=(6, 4)):
    """Random data of a tabular problem in float64, and a policy and a critic for it."""
    rng = np.random.default_rng(seed)
    mdp = layered_mdp(seed)
    env, env_params = make_finite_mdp(mdp)
    policy, critic = po.softmax_linear_policy(env, env_params), po.linear_critic(env, env_params)
    params = po.types.ActorCriticParams(
        jnp.asarray(rng.normal(size=(NUM_STATES, NUM_ACTIONS))),
        jnp.asarray(rng.normal(size=NUM_STATES)),
    )
    obs, next_obs = jnp.eye(NUM_STATES)[rng.integers(NUM_STATES, size=(2, *shape))]
    terminated, truncated, start = jnp.asarray(rng.random((3, *shape)) < 0.2)
    transition = po.Transition(
        obs=obs,
        action=jnp.asarray(rng.integers(NUM_ACTIONS, size=shape)),
        reward=jnp.asarray(rng.normal(size=shape)),
        next_obs=next_obs,
        terminated=terminated,
        truncated=truncated,
        start=start,
        behaviour=policy.unroll(params.policy, (), obs, start),
        weight=jnp.asarray((rng.random(shape) < 0.8).astype(float)),
    )
    return policy, critic, params, po.Rollout(transition, (), jnp.zeros(()))


# So large an ε makes Adam's step proportional to the gradient, and a step of one its size.
PLAIN = {"learning_rate": 1e6, "adam_eps": 1e6, "max_grad_norm": 1e9, "entropy_coef": 0.1}


@functools.cache
def compiled(make, **options):
    """A function of hyperparameters: what one update adds to the parameters, state and info."""
    policy, critic, params, rollout = made_up_rollout()
    algorithm = built(make)(policy, critic, **options)

    @jax.jit
    def update(hyperparams):
        state = algorithm.init(jax.random.key(0), hyperparams)._replace(params=params)
        state, info = algorithm.update(jax.random.key(1), hyperparams, state, rollout)
        return jax.tree.map(jnp.subtract, state.params, params), state, info

    return update


def ppo_change(surrogate, num_epochs=1, learning_rate=1e6, num_minibatches=1, **floats):
    hyperparams = po.PPOHyperparams(**{**PLAIN, "learning_rate": learning_rate, **floats})
    update = compiled(
        po.ppo,
        surrogate=surrogate,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        normalize_advantage="off",
    )
    return update(hyperparams)


def assert_close(a, b, tolerance=1e-9):
    chex.assert_trees_all_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("surrogate", list(surrogates.OBJECTIVES))
def test_the_first_full_batch_epoch_of_ppo_is_a_step_of_a2c(surrogate, x64):
    step = compiled(po.a2c, normalize_advantage=False)
    expected, _, info = step(po.A2CHyperparams(**PLAIN))
    found, _, ppo_info = ppo_change(surrogate)
    assert_close(found, expected)
    np.testing.assert_allclose(ppo_info["grad_norm"], info["grad_norm"], rtol=1e-12)
    assert info["grad_norm"] > 0.01
    # ... and that step is the negative gradient of A2C's loss.
    policy, critic, params, rollout = made_up_rollout()
    hyperparams = po.A2CHyperparams(**PLAIN)
    samples = actor_critic.make_samples(critic, params, rollout, hyperparams)
    loss = functools.partial(
        actor_critic.loss,
        hyperparams=hyperparams,
        policy=policy,
        critic=critic,
        objective=a2c_module.objective,
    )
    gradient = jax.grad(lambda p: loss(p, samples)[0])(params)
    assert_close(jax.tree.map(jnp.negative, gradient), expected, 1e-5)


def test_an_objective_that_is_not_of_each_sample_is_named():
    policy, critic, params, rollout = made_up_rollout()
    hyperparams = po.A2CHyperparams()
    samples = actor_critic.make_samples(critic, params, rollout, hyperparams)
    settings = {"hyperparams": hyperparams, "policy": policy, "critic": critic}

    def objective(distribution, samples):
        return samples.advantage, {"mine": jnp.mean(samples.advantage)}

    with pytest.raises(ValueError, match=r"one number for each sample, .*, got \[\] for mine"):
        actor_critic.loss(params, samples, objective=objective, **settings)


MANY = {"num_epochs": 5, "learning_rate": 3e5, "num_minibatches": 2}


@pytest.mark.parametrize("surrogate", ["clip", "clip_only"])
def test_without_bounds_the_clipped_objectives_are_the_unclipped_one(surrogate, x64):
    unclipped, _, _ = ppo_change("unclipped", **MANY)
    bounded, _, info = ppo_change(surrogate, clip_eps=0.01, **MANY)
    boundless, _, _ = ppo_change(surrogate, clip_eps=1e9, **MANY)
    assert info["clip_fraction"] > 0.1
    assert_close(boundless, unclipped)
    assert np.abs(bounded.policy - unclipped.policy).max() > 1e-3


def test_clip_and_clip_only_differ_where_clipping_hurts(x64):
    clip, _, _ = ppo_change("clip", clip_eps=0.01, **MANY)
    clip_only, _, _ = ppo_change("clip_only", clip_eps=0.01, **MANY)
    assert np.abs(clip.policy - clip_only.policy).max() > 1e-4


@pytest.mark.parametrize("surrogate", ["fixed_kl", "adaptive_kl"])
def test_a_penalty_of_weight_zero_is_none(surrogate, x64):
    unclipped, _, _ = ppo_change("unclipped", **MANY)
    free, state, info = ppo_change(surrogate, kl_coef=0.0, **MANY)
    penalised, _, penalised_info = ppo_change(surrogate, kl_coef=10.0, **MANY)
    assert_close(free, unclipped)
    assert state.kl_coef == 0.0
    assert penalised_info["kl"] < info["kl"]
    assert np.abs(penalised.policy - free.policy).max() > 1e-3


def test_beta_adapts_after_the_update_to_the_kl_of_the_whole_update(x64):
    """d is measured once at kl_target = 1, then set into the three ranges around the target."""
    _, _, info = ppo_change("adaptive_kl", kl_coef=0.5, **MANY)
    kl = float(info["kl_of_update"])
    policy, _, params, rollout = made_up_rollout()
    found, state, info = ppo_change("adaptive_kl", kl_coef=0.5, kl_target=kl, **MANY)
    transition = rollout.transition
    new = policy.unroll(params.policy + found.policy, (), transition.obs, transition.start)
    expected = advantages.weighted_mean(transition.behaviour.kl(new), transition.weight)
    np.testing.assert_allclose(kl, expected, rtol=1e-9)
    assert info["kl_coef"] == 0.5  # that of this update
    assert state.kl_coef == 0.5
    for target, beta in ((kl / 1.6, 1.0), (kl / 1.4, 0.5), (kl * 1.4, 0.5), (kl * 1.6, 0.25)):
        _, state, info = ppo_change("adaptive_kl", kl_coef=0.5, kl_target=target, **MANY)
        assert state.kl_coef == beta
        assert info["kl_coef"] == 0.5


def test_a_fixed_beta_stays_and_only_penalties_report_one(x64):
    _, state, info = ppo_change("fixed_kl", kl_coef=0.5, kl_target=1e-9, **MANY)
    assert state.kl_coef == info["kl_coef"] == 0.5
    for surrogate in ("clip", "clip_only", "unclipped"):
        assert "kl_coef" not in ppo_change(surrogate)[2]


@pytest.mark.parametrize("target", [0.0, -0.01, np.nan])
def test_impossible_kl_targets_are_refused(target):
    env, env_params = make_finite_mdp(exact.garnet(jax.random.key(0), 3, 2, 2, DISCOUNT))
    networks: Any = po.softmax_linear_policy(env, env_params), po.linear_critic(env, env_params)
    with pytest.raises(
        ValueError, match=r"hyperparams\.kl_target must be a finite number > 0, got"
    ):
        po.ppo(
            *networks,
            po.PPOOptions(surrogate="adaptive_kl"),
            hyperparams=po.PPOHyperparams(kl_target=target),
        )


# --- the values of successors --------------------------------------------------------------------


@pytest.mark.parametrize(("num_steps", "rate"), [(1, 0.5), (9, 0.0), (9, 0.2), (9, 0.7), (9, 1.0)])
def test_values_of_successors_are_those_of_the_true_ones(num_steps, rate):
    """However often episodes are truncated, in however many lanes; terminated ones do not count."""
    num_lanes, num_envs = 3, 4
    obs_key, end_key, cut_key = jax.random.split(jax.random.key(0), 3)
    shape = num_lanes, num_steps + 1, num_envs
    obs = jax.random.normal(obs_key, (*shape, 2))
    terminated = jax.random.bernoulli(end_key, 0.2, shape)[:, 1:]
    truncated = jax.random.bernoulli(cut_key, rate, shape)[:, 1:]
    ended = (terminated | truncated)[..., None]
    next_obs = jnp.where(ended, 10.0 + obs[:, 1:], obs[:, 1:])
    said = truncated.at[-1].set(False)  # in the last lane successors differ without a word
    transition = po.Transition(
        obs[:, :-1], *[None] * 2, next_obs, terminated, said, terminated, *[None] * 2
    )

    critic = networks.memoryless(po.Critic, lambda key: jnp.ones(2), lambda w, obs: obs @ w)
    params = jnp.array([1.0, 2.0])
    value, next_value = jax.vmap(lambda x: critics.values(critic, params, (), x))(transition)
    np.testing.assert_allclose(value, critic.unroll(params, (), obs[:, :-1], None), rtol=1e-6)
    expected = critic.unroll(params, (), next_obs, None)
    np.testing.assert_allclose(next_value[~terminated], expected[~terminated], rtol=1e-6)
