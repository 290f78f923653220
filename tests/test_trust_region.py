"""NPG and TRPO: exact identities on a finite MDP, bad data, the trust region kept, and learning."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built import built
from gymnax.environments import spaces
from jax.flatten_util import ravel_pytree

import purejax_po as po
from purejax_po import exact, minibatch
from purejax_po._xla import shuffle
from purejax_po.algorithms import natural
from purejax_po.distributions import Categorical
from purejax_po.environments.finite_mdp import make_finite_mdp

pytestmark = pytest.mark.usefixtures("compile_quickly")

FISHERS = ("gauss_newton", "kl_hessian", "empirical")
NUM_STATES, NUM_ACTIONS, NUM_FEATURES, DISCOUNT = 4, 3, 5, 0.9

# Exact: a rollout that holds every state and action once, weighted by its probability.


class Enumerated(NamedTuple):
    """An MDP, a policy in it, and the rollout that enumerates its state-action pairs."""

    mdp: exact.MDP
    policy: po.Policy
    theta: jax.Array
    log_policy: Any
    rollout: po.Rollout


def enumerated(seed: int, kind: str) -> Enumerated:
    """Weights are d(s)π(a|s); with values of zero the advantages are A(s, a)."""
    keys = jax.random.split(jax.random.key(seed), 3)
    mdp = exact.garnet(keys[0], NUM_STATES, NUM_ACTIONS, 2, DISCOUNT)
    env, env_params = make_finite_mdp(mdp)
    table = jax.random.normal(keys[1], (NUM_STATES, NUM_ACTIONS, NUM_FEATURES))
    if kind == "tabular":
        policy = po.softmax_linear_policy(env, env_params)
        theta = jax.random.normal(keys[2], (NUM_STATES, NUM_ACTIONS))
    else:
        policy = po.softmax_linear_policy(
            env, env_params, lambda obs: jnp.einsum("...s,saf->...af", obs, table)
        )
        theta = 0.5 * jax.random.normal(keys[2], (NUM_FEATURES,))
    every_state = jnp.eye(NUM_STATES)

    def log_policy(theta):
        return jax.nn.log_softmax(policy.unroll(theta, (), every_state, None).logits)

    pi = jnp.exp(log_policy(theta))
    state, action = (x.reshape(1, -1) for x in np.indices((NUM_STATES, NUM_ACTIONS)))
    weight = (exact.occupancy(mdp, pi)[:, None] * pi)[state, action]
    obs, sure = every_state[state], jnp.ones(state.shape, bool)
    transition = po.Transition(
        obs=obs,
        action=jnp.asarray(action),
        reward=exact.advantages(mdp, pi)[state, action],
        next_obs=obs,
        terminated=sure,
        truncated=~sure,
        start=sure,
        behaviour=policy.unroll(theta, (), obs, sure),
        weight=weight,
    )
    return Enumerated(mdp, policy, theta, log_policy, po.Rollout(transition, (), jnp.float32(0)))


def exact_update(problem: Enumerated, make: Any, hyperparams: Any, **options: Any) -> Any:
    """Update on the enumerated rollout with a critic that is zero: (θ_new, info)."""
    env, env_params = make_finite_mdp(problem.mdp)
    algorithm = built(make)(
        problem.policy,
        po.linear_critic(env, env_params),
        normalize_advantage=False,
        critic_epochs=1,
        critic_minibatch_size=NUM_STATES * NUM_ACTIONS,
        **options,
    )

    @jax.jit
    def update(hyperparams, theta, rollout):
        state = algorithm.init(jax.random.key(0), hyperparams)
        state = state._replace(params=state.params._replace(policy=theta))
        state, info = algorithm.update(jax.random.key(1), hyperparams, state, rollout)
        return state.params.policy, info

    return [update(x, problem.theta, problem.rollout) for x in hyperparams]


@pytest.mark.parametrize("fisher", FISHERS)
def test_undamped_trpo_step_has_the_length_of_the_region(fisher, x64):
    # gᵀΔ = √(2δ gᵀF⁻¹g) and ½ΔᵀFΔ = δ, both for the full step.
    problem = enumerated(0, "features")
    oracle = problem.mdp, problem.log_policy, problem.theta
    gradient = (1.0 - DISCOUNT) * exact.policy_gradient(*oracle)
    matrix = exact.fisher_matrix(*oracle)
    deltas = (0.1, 1e-2, 1e-4)
    updates = exact_update(
        problem,
        po.trpo,
        [po.TRPOHyperparams(max_kl=x, damping=1e-14, cg_tolerance=1e-13) for x in deltas],
        fisher=fisher,
    )
    for delta, (theta, info) in zip(deltas, updates, strict=True):
        step, fraction = np.asarray(theta - problem.theta), info["step_fraction"]
        assert fraction > 0.0
        length = np.sqrt(2.0 * delta * gradient @ np.linalg.solve(matrix, gradient))
        np.testing.assert_allclose(gradient @ step, fraction * length, rtol=1e-7)
        np.testing.assert_allclose(0.5 * step @ matrix @ step, fraction**2 * delta, rtol=1e-7)
        np.testing.assert_allclose(info["expected_improvement"], gradient @ step, rtol=1e-7)
        np.testing.assert_allclose(info["kl_full_step"], delta, rtol=3.0 * np.sqrt(delta))
        assert info["kl"] <= delta
        assert info["improvement"] > 0.0
        assert info["cg_iterations"] <= 15


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("solver", ["cg", "dense"])
def test_fixed_npg_step_is_the_closed_form_in_policy_space(solver, fisher, x64):
    # g = (1−γ)∇J, so that a step η here is the closed form's step η(1−γ): π⁺ ∝ π·exp(ηA).
    problem = enumerated(1, "tabular")
    etas = (0.1, 1.0, 10.0)
    updates = exact_update(
        problem,
        po.npg,
        [po.NPGHyperparams(step_size=x, damping=1e-10, cg_tolerance=1e-12) for x in etas],
        step_size_rule="fixed",
        solver=solver,
        fisher=fisher,
        cg_iterations=30,
    )
    pi = jnp.exp(problem.log_policy(problem.theta))
    for eta, (theta, info) in zip(etas, updates, strict=True):
        expected = exact.natural_policy_gradient_step(problem.mdp, pi, eta * (1.0 - DISCOUNT))
        np.testing.assert_allclose(jnp.exp(problem.log_policy(theta)), expected, atol=1e-6)
        assert info["step_fraction"] == 1.0


def test_normalised_npg_step_has_quadratic_kl_delta(x64):
    problem = enumerated(2, "features")
    matrix = exact.fisher_matrix(problem.mdp, problem.log_policy, problem.theta)
    hyperparams = [po.NPGHyperparams(max_kl=x, damping=1e-13) for x in (0.1, 1e-3)]
    for hyper, (theta, _) in zip(
        hyperparams, exact_update(problem, po.npg, hyperparams), strict=True
    ):
        step = np.asarray(theta - problem.theta)
        np.testing.assert_allclose(0.5 * step @ matrix @ step, hyper.max_kl, rtol=1e-7)


def test_surrogate_is_the_exact_one_and_its_kl_points_from_old_to_new(x64):
    problem = enumerated(3, "features")
    mdp, policy, theta, log_policy, rollout = problem
    samples = minibatch.flatten_time(rollout.transition)
    new = theta + 0.5
    pi, pi_new = jnp.exp(log_policy(theta)), jnp.exp(log_policy(new))
    value, info = natural.surrogate(policy, new, samples, samples.reward)
    gain = exact.surrogate(mdp, pi, pi_new) - exact.expected_return(mdp, pi)
    np.testing.assert_allclose(value, (1.0 - DISCOUNT) * gain, rtol=1e-11)
    d = exact.occupancy(mdp, pi)
    np.testing.assert_allclose(
        info["kl"], d @ jnp.sum(pi * jnp.log(pi / pi_new), axis=-1), rtol=1e-11
    )
    np.testing.assert_allclose(
        info["entropy"], -d @ jnp.sum(pi_new * jnp.log(pi_new), axis=-1), rtol=1e-11
    )


@pytest.mark.parametrize("kind", ["tabular", "features"])
def test_expected_gradient_estimate_is_the_policy_gradient(kind, x64):
    mdp, policy, theta, log_policy, rollout = enumerated(4, kind)
    samples = minibatch.flatten_time(rollout.transition)

    def gradient(samples):
        return jax.grad(lambda x: natural.surrogate(policy, x, samples, samples.reward)[0])(theta)

    expected = (1.0 - DISCOUNT) * exact.policy_gradient(mdp, log_policy, theta)
    np.testing.assert_allclose(jax.jit(gradient)(samples), expected, atol=1e-14)

    # One sample at a time is the estimator A(s, a)∇log π(a|s); its expectation is the same.
    @jax.jit
    def estimates(samples):
        alone = samples._replace(weight=jnp.ones_like(samples.weight))
        return jax.vmap(lambda x: gradient(jax.tree.map(lambda leaf: leaf[None], x)))(alone)

    mean = jnp.einsum("b,b...->...", samples.weight, estimates(samples))
    np.testing.assert_allclose(mean, expected, atol=1e-14)


# Single updates on made-up data.

SPACES = {
    "categorical": spaces.Discrete(3),
    "one_action": spaces.Discrete(1),
    "multi_discrete": spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
    "gaussian": spaces.Box(-1.0, 1.0, (2,)),
}
ALGORITHMS = {
    "trpo": built(po.trpo),
    "npg": built(po.npg),
    "npg_dense_fixed": functools.partial(built(po.npg), solver="dense", step_size_rule="fixed"),
}
algorithms = pytest.mark.parametrize("name", list(ALGORITHMS))


class Sizes(NamedTuple):
    """A stand-in for an environment: its spaces are all that a network asks for."""

    action: Any
    num_obs: int = 3

    def action_space(self, env_params):
        return self.action

    def observation_space(self, env_params):
        return spaces.Box(-jnp.inf, jnp.inf, (self.num_obs,))


class Setup(NamedTuple):
    """An algorithm with its compiled update, a state and a rollout that it can learn from."""

    algorithm: po.Algorithm
    update: Any
    state: Any
    rollout: po.Rollout


@functools.cache
def setup(name: str, space: str, num_steps: int = 8, num_envs: int = 4, **options: Any) -> Setup:
    sizes = Sizes(SPACES[space])
    policy, critic = po.mlp_actor_critic(sizes, None, hidden=(4,))
    batch = num_steps * num_envs
    algorithm = ALGORITHMS[name](
        policy, critic, critic_minibatch_size=max(1, batch // 2), critic_epochs=2, **options
    )

    @jax.jit
    def begin(key):
        state = algorithm.init(key, algorithm.hyperparams)
        shape = num_steps, num_envs, sizes.num_obs
        return state, make_rollout(policy, state.params.policy, shape, key)

    return Setup(algorithm, jax.jit(algorithm.update), *begin(jax.random.key(0)))


def make_rollout(policy: po.Policy, params: Any, shape: tuple[int, ...], key: Any) -> po.Rollout:
    keys = jax.random.split(key, 5)
    obs = jax.random.normal(keys[0], shape)
    start = jnp.zeros(shape[:-1], bool)
    behaviour = policy.unroll(params, (), obs, start)
    transition = po.Transition(
        obs=obs,
        action=behaviour.sample(keys[1]),
        reward=jax.random.normal(keys[2], shape[:-1]),
        next_obs=jax.random.normal(keys[3], shape),
        terminated=jax.random.bernoulli(keys[4], 0.1, shape[:-1]),
        truncated=start,
        start=start,
        behaviour=behaviour,
        weight=jnp.ones(shape[:-1]),
    )
    return po.Rollout(transition, (), jnp.float32(0))


def run_update(setup: Setup, state: Any = None, **changes: Any) -> tuple[Any, Any]:
    """Update with some leaves of the transition replaced."""
    rollout = setup.rollout._replace(transition=setup.rollout.transition._replace(**changes))
    state = setup.state if state is None else state
    return setup.update(jax.random.key(2), setup.algorithm.hyperparams, state, rollout)


def identical(a: Any, b: Any) -> bool:
    """Equal to the bit, signs of zeros and NaNs included."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)


def finite(tree: Any) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "space"), [*((name, "categorical") for name in ALGORITHMS), ("trpo", "multi_discrete")]
)
def test_an_update_moves_policy_and_critic(name, space):
    base = setup(name, space)
    state, info = run_update(base)
    assert not identical(state.params.policy, base.state.params.policy)
    assert not identical(state.params.critic, base.state.params.critic)
    assert finite((state, info))
    assert info["improvement"] > 0.0
    assert info["step_fraction"] > 0.0


@algorithms
def test_zero_advantages_leave_the_policy_as_it_is(name):
    base = setup(name, "categorical")
    silent = jax.tree.map(jnp.zeros_like, base.state.params.critic)
    before = base.state._replace(params=base.state.params._replace(critic=silent))
    state, info = run_update(base, before, reward=jnp.zeros_like(base.rollout.transition.reward))
    assert identical(state.params.policy, before.params.policy)
    assert identical(state.params.critic, before.params.critic)
    assert finite((state, info))
    assert info["cg_residual"] == 0.0
    # TRPO wants the surrogate to gain; NPG takes its zero step.
    assert info["step_fraction"] == (0.0 if name == "trpo" else 1.0)


def test_a_rejected_line_search_leaves_the_policy_as_it_is():
    # The data come from a distant policy: no candidate's KL is within the region.
    base = setup("trpo", "categorical")
    behaviour = base.rollout.transition.behaviour
    distant = Categorical(behaviour.logits + jnp.array([3.0, 0.0, -3.0]))
    state, info = run_update(base, behaviour=distant)
    assert identical(state.params.policy, base.state.params.policy)
    assert not identical(state.params.critic, base.state.params.critic)
    assert info["step_fraction"] == 0.0
    assert info["expected_improvement"] == 0.0
    assert info["cg_iterations"] > 0  # there was a direction to go
    assert finite((state, info))


@algorithms
def test_data_that_are_not_finite_change_nothing(subtests, name):
    for field in ["reward", "obs", "next_obs"]:
        for value in [np.nan, np.inf, -np.inf]:
            with subtests.test(f"{value} {field}"):
                base = setup(name, "categorical")
                leaf = getattr(base.rollout.transition, field)
                state, _ = run_update(
                    base, **{field: leaf.at[(3, 1) + (0,) * (leaf.ndim - 2)].set(value)}
                )
                if field == "next_obs" and np.isinf(value):  # tanh makes it finite
                    assert finite(state)
                else:
                    assert identical(state, base.state)


@algorithms
def test_a_broken_critic_does_not_reach_the_policy(subtests, name):
    for value in [np.nan, np.inf]:
        with subtests.test(str(value)):
            base = setup(name, "categorical")
            broken = jax.tree.map(lambda x, v=value: jnp.full_like(x, v), base.state.params.critic)
            before = base.state._replace(params=base.state.params._replace(critic=broken))
            state, _ = run_update(base, before)
            assert identical(state, before)


@algorithms
def test_huge_rewards_leave_everything_finite(subtests, name):
    for scale in [1e18, 1e25, 1e38]:
        with subtests.test(str(scale)):
            base = setup(name, "categorical")
            state, _ = run_update(base, reward=scale * base.rollout.transition.reward)
            assert finite(state.params)
            # Where only Adam's second moment overflows, its step is zero, the parameters finite.
            assert finite(state.critic_optimizer)


@pytest.mark.parametrize("name", ["trpo", "npg_dense_fixed"])
def test_a_single_action_leaves_the_policy_as_it_is(name):
    base = setup(name, "one_action")
    state, info = run_update(base)
    assert identical(state.params.policy, base.state.params.policy)
    assert not identical(state.params.critic, base.state.params.critic)
    assert finite((state, info))


@pytest.mark.parametrize(("name", "normalize"), [("trpo", True), ("npg", False)])
def test_a_single_sample(name, normalize):
    base = setup(name, "categorical", 1, 1, normalize_advantage=normalize)
    state, info = run_update(base)
    assert finite((state, info))
    # Normalised, the advantage of the only sample is zero.
    assert identical(state.params.policy, base.state.params.policy) == normalize


@functools.cache
def singular(name: str) -> Setup:
    """π(a|s) ∝ exp((θ₁ + θ₂)s_a + 3θ₃): two equal features, and one that no action changes."""
    sizes = Sizes(SPACES["categorical"])

    def features(obs):
        return jnp.stack([obs, obs, jnp.full_like(obs, 3.0)], axis=-1)

    policy = po.softmax_linear_policy(sizes, None, features)
    critic = po.linear_critic(sizes, None)
    algorithm = ALGORITHMS[name](policy, critic, critic_minibatch_size=32, critic_epochs=1)
    state = algorithm.init(jax.random.key(0), algorithm.hyperparams)
    rollout = jax.jit(make_rollout, static_argnums=(0, 2))(
        policy, state.params.policy, (8, 4, 3), jax.random.key(0)
    )
    return Setup(algorithm, jax.jit(algorithm.update), state, rollout)


@algorithms
def test_a_singular_fisher_matrix(subtests, name):
    for damping in [1e-30, 1e-6]:
        with subtests.test(str(damping)):
            base = singular(name)
            hyperparams = base.algorithm.hyperparams.replace(damping=damping)
            state, info = base.update(jax.random.key(2), hyperparams, base.state, base.rollout)
            assert finite(state)
            if name == "npg_dense_fixed" and info["step_fraction"] == 0.0:
                # Elimination may fail in single precision, and must then move nothing.
                assert identical(state.params.policy, base.state.params.policy)
            else:
                assert info["step_fraction"] > 0.0
                assert info["improvement"] > 0.0
                np.testing.assert_allclose(
                    state.params.policy[0], state.params.policy[1], atol=1e-4
                )
            if name == "trpo":
                assert info["kl"] <= 0.01


@algorithms
def test_features_that_no_action_changes_leave_the_probabilities_as_they_are(name):
    # The Fisher matrix is zero and the gradient zero up to rounding; NPG may scale that up.
    base = singular(name)
    alike = jnp.ones_like(base.rollout.transition.obs)
    state, info = run_update(base, obs=alike, next_obs=2.0 * alike)
    assert finite((state, info))
    np.testing.assert_allclose(info["kl"], 0.0, atol=1e-12)
    np.testing.assert_allclose(info["entropy"], np.log(3.0), rtol=1e-6)


def test_a_broken_lane_of_npg_does_not_touch_its_neighbours():
    base = setup("npg", "categorical")
    update = jax.jit(jax.vmap(base.algorithm.update, in_axes=(0, None, 0, None)))
    keys, broken = jax.random.split(jax.random.key(3), 4), 2
    states = jax.tree.map(lambda x: jnp.tile(x, (4,) + (1,) * x.ndim), base.state)
    params = jax.tree.map(lambda x: x.at[broken].set(jnp.nan), states.params)
    hyperparams = base.algorithm.hyperparams
    healthy = update(keys, hyperparams, states, base.rollout)
    poisoned = update(keys, hyperparams, states._replace(params=params), base.rollout)
    others = np.array([0, 1, 3])
    assert identical(*(jax.tree.map(lambda x: x[others], tree) for tree in (poisoned, healthy)))
    assert finite(healthy)
    assert not finite(poisoned)


@pytest.mark.parametrize("kind", FISHERS)
def test_a_subsampled_product_is_one_linear_map(kind):
    base = setup("trpo", "categorical")
    params = base.state.params.policy
    policy, _ = po.mlp_actor_critic(Sizes(SPACES["categorical"]), None, hidden=(4,))
    samples = minibatch.flatten_time(base.rollout.transition)

    @jax.jit
    def apply(key, vectors):
        product = natural.fisher_product(
            key, policy, params, samples, kind=kind, fraction=0.25, damping=0.1
        )
        subset = shuffle.permutation(key, 32)[:8]
        of_subset = natural.fisher_product(
            key,
            policy,
            params,
            jax.tree.map(lambda x: x[subset], samples),
            kind=kind,
            fraction=1.0,
            damping=0.1,
        )
        return [ravel_pytree(x)[0] for v in vectors for x in (product(v), of_subset(v))]

    flat, unravel = ravel_pytree(params)
    u, v = jax.random.normal(jax.random.key(0), (2, flat.size))
    vectors = [unravel(x) for x in (u, v, 2.0 * u + v)]
    pairs = apply(jax.random.key(1), vectors)
    for whole, of_subset in zip(pairs[::2], pairs[1::2], strict=True):
        np.testing.assert_allclose(whole, of_subset, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(2.0 * pairs[0] + pairs[2], pairs[4], rtol=1e-4, atol=1e-5)
    other = apply(jax.random.key(2), vectors)
    assert not np.allclose(other[0], pairs[0], rtol=1e-3)


# Training.

NUM_LANES, NUM_UPDATES = 64, 20


class Bandit:
    """Two actions at once: one reward for the first being 1, one for the second being 2."""

    def action_space(self, env_params):
        return SPACES["multi_discrete"]

    def observation_space(self, env_params):
        return spaces.Box(0.0, 1.0, (1,))

    def reset(self, key, env_params):
        return jnp.ones(1), jnp.int32(0)

    def step(self, key, state, action, env_params):
        first, second = action
        reward = (first == 1).astype(jnp.float32) + (second == 2)
        ended = jnp.bool_(True)
        return jnp.ones(1), state, reward, ended, ~ended, {"final_observation": jnp.ones(1)}


def make_env(name: str) -> tuple[Any, Any]:
    return (Bandit(), None) if name == "Bandit" else po.make_env(name)


@functools.cache
def lanes() -> tuple[Any, Any, Any]:
    """TRPO's compiled step over 64 lanes, hyperparameters (a δ per lane) and initial states."""
    env, env_params = po.make_env("CartPole-v1")
    algorithm = po.trpo(
        *po.mlp_actor_critic(env, env_params, hidden=(8,)),
        po.TRPOOptions(critic_epochs=1, critic_minibatch_size=32),
    )
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=4, num_steps=32)
    tiled = jax.tree.map(lambda x: jnp.full(NUM_LANES, x), algorithm.hyperparams)
    hyperparams = tiled.replace(max_kl=jnp.logspace(-4, 0, NUM_LANES))
    states = jax.jit(jax.vmap(trainer.init))(po.seed_keys(NUM_LANES), hyperparams)
    return jax.jit(jax.vmap(trainer.step)), hyperparams, states


def rows(tree: Any) -> np.ndarray:
    """One row of bytes per lane."""
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
    return np.concatenate([x.reshape(len(x), -1).view(np.uint8) for x in leaves], axis=1)


def test_every_trpo_step_stays_in_the_region():
    step, hyperparams, states = lanes()
    logs = []
    for _ in range(NUM_UPDATES):
        before = rows(states.algorithm.params.policy)
        states, log = step(hyperparams, states)
        moved = np.any(rows(states.algorithm.params.policy) != before, axis=1)
        # Rejected means that not a bit has changed.
        np.testing.assert_array_equal(moved, log.info.mean["step_fraction"] > 0.0)
        logs.append(log.info.mean)
    info = {k: np.stack([log[k] for log in logs]) for k in logs[0]}
    assert (np.asarray(states.diverged_at) == -1).all()
    assert finite(info)
    accepted = info["step_fraction"] > 0.0
    assert (info["kl"] <= np.asarray(hyperparams.max_kl)).all()
    assert (info["improvement"][accepted] > 0.0).all()
    assert (info["kl"][~accepted] == 0.0).all()
    fractions = np.append(0.8 ** np.arange(10), 0.0)
    distance = np.abs(info["step_fraction"][..., None] - fractions).min(axis=-1)
    assert distance.max() < 1e-6
    # Nearly all steps are accepted, and most of them use the region.
    assert accepted.mean() > 0.9
    assert np.median((info["kl"] / hyperparams.max_kl)[accepted]) > 0.3
    # A full step outside the region was not taken.
    outside = info["kl_full_step"] > np.asarray(hyperparams.max_kl)
    assert outside.any()
    assert (info["step_fraction"][outside] < 1.0).all()


def test_a_broken_lane_does_not_touch_its_neighbours():
    step, hyperparams, states = lanes()
    broken = 2
    params = jax.tree.map(lambda x: x.at[broken].set(jnp.nan), states.algorithm.params)
    poisoned = states._replace(algorithm=states.algorithm._replace(params=params))
    for _ in range(3):
        states, log = step(hyperparams, states)
        poisoned, poisoned_log = step(hyperparams, poisoned)
    others = np.arange(NUM_LANES) != broken

    def without_keys(state):
        return state._replace(key=jax.random.key_data(state.key))

    unequal = rows((without_keys(states), log)) != rows((without_keys(poisoned), poisoned_log))
    assert not unequal[others].any()
    np.testing.assert_array_equal(poisoned.diverged_at, np.where(others, -1, 0))
    assert poisoned_log.info.count[broken] == 0


@pytest.mark.parametrize(
    ("env_name", "name", "options"),
    [
        ("Pendulum-v1", "trpo", {"fisher": "kl_hessian", "fisher_fraction": 0.25}),
        ("Bandit", "npg", {"fisher": "empirical", "fisher_fraction": 0.5}),
    ],
)
def test_options_on_other_kinds_of_action(env_name, name, options):
    env, env_params = make_env(env_name)
    algorithm = ALGORITHMS[name](
        *po.mlp_actor_critic(env, env_params, hidden=(8,)),
        critic_epochs=1,
        critic_minibatch_size=64,
        **options,
    )
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=4, num_steps=32)
    train = jax.jit(po.make_train(trainer, num_updates=60))
    state, log = train(jax.random.key(0), algorithm.hyperparams)
    info = log.info.mean
    assert finite((state.algorithm, info))
    assert state.diverged_at == -1
    if name == "trpo":
        assert (info["kl"] <= 0.01).all()
        assert (info["step_fraction"] > 0.0).mean() > 0.8
    if env_name == "Bandit":
        # Uniformly random actions earn 1/2 + 1/3; the best 2.
        assert np.mean(log.episode_return.mean[-5:]) > 1.8


def positive_garnet(seed: int) -> exact.MDP:
    """A random MDP whose worst reward is zero."""
    mdp = exact.garnet(jax.random.key(seed), 6, 3, 3, DISCOUNT)
    return mdp._replace(reward=mdp.reward - jnp.min(mdp.reward))


@pytest.mark.parametrize("name", ["trpo", "npg"])
def test_learning_comes_near_the_optimum_of_policy_iteration(name):
    env, env_params = make_finite_mdp(positive_garnet(0), 50)
    algorithm = ALGORITHMS[name](
        po.softmax_linear_policy(env, env_params),
        po.linear_critic(env, env_params),
        critic_minibatch_size=64,
    )
    hyperparams = algorithm.hyperparams.replace(
        discount=DISCOUNT, max_kl=0.01, damping=1e-2, critic_learning_rate=0.1
    )
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=16, num_steps=64)
    train = po.make_train(trainer, num_updates=200, log_every=200)
    # Four seeds of each MDP, all in one program.
    of_mdps = jax.jit(jax.vmap(jax.vmap(train, (0, None, None)), (None, None, 0)))

    @jax.jit
    def returns(mdp, theta):
        """Of the optimum, of the uniform policy and of what was learned."""
        optimum = mdp.start @ exact.policy_iteration(mdp).value
        uniform = exact.expected_return(mdp, jnp.full_like(theta, 1.0 / 3.0))
        return optimum, uniform, exact.expected_return(mdp, jax.nn.softmax(theta))

    mdps = [positive_garnet(seed) for seed in range(3)]
    of_each = [make_finite_mdp(mdp, 50)[1] for mdp in mdps]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *of_each)
    state, _ = of_mdps(po.seed_keys(4), hyperparams, stacked)
    for mdp, thetas in zip(mdps, state.algorithm.params.policy, strict=True):
        for theta in thetas:
            optimum, uniform, result = returns(mdp, theta)
            assert uniform < 0.8 * optimum
            assert 0.98 * optimum < result < (1.0 + 1e-5) * optimum


# Wrong arguments.


@functools.cache
def tiny_networks() -> tuple[po.Policy, po.Critic]:
    return po.mlp_actor_critic(Sizes(SPACES["categorical"]), None, hidden=(2,))


@pytest.mark.parametrize("name", ["trpo", "npg"])
def test_positive_hyperparameters(name):
    kind = {"trpo": po.TRPOHyperparams, "npg": po.NPGHyperparams}[name]
    for field in ("max_kl", "damping", "cg_tolerance", "critic_learning_rate"):
        for value in (0.0, -0.1, float("nan"), float("inf")):
            message = rf"hyperparams\.{field} must be a finite number > 0, got {value}"
            with pytest.raises(ValueError, match=message):
                ALGORITHMS[name](*tiny_networks(), hyperparams=kind(**{field: value}))


def test_hyperparameters_in_an_interval(subtests):
    for name, field, value, allowed in [
        ("trpo", "backtrack_coef", 0.0, r"in \(0, 1\)"),
        ("trpo", "backtrack_coef", 1.0, r"in \(0, 1\)"),
        ("npg", "step_size", 0.0, "> 0"),
        ("trpo", "discount", 1.1, r"in \[0, 1\]"),
        ("npg", "gae_lambda", -0.1, r"in \[0, 1\]"),
    ]:
        with subtests.test(f"{name} {field} {value}"):
            kind = {"trpo": po.TRPOHyperparams, "npg": po.NPGHyperparams}[name]
            with pytest.raises(ValueError, match=rf"hyperparams\.{field} .*{allowed}, got {value}"):
                ALGORITHMS[name](*tiny_networks(), hyperparams=kind(**{field: value}))


def test_options(subtests):
    for options, message in [
        ({"cg_iterations": 0}, "cg_iterations must be a whole number ≥ 1, got 0"),
        ({"cg_iterations": 2.5}, r"cg_iterations must be a whole number ≥ 1, got 2\.5"),
        ({"critic_epochs": 0}, "critic_epochs must be a whole number ≥ 1, got 0"),
        ({"critic_minibatch_size": 0}, "critic_minibatch_size must be a whole number ≥ 1, got 0"),
        ({"fisher_fraction": 0.0}, r"fisher_fraction must be a number in \(0, 1\], got 0\.0"),
        ({"fisher_fraction": 1.5}, r"fisher_fraction must be a number in \(0, 1\], got 1\.5"),
        (
            {"fisher": "hessian"},
            "fisher must be one of gauss_newton, kl_hessian, empirical, got 'hessian'",
        ),
    ]:
        for name in ["trpo", "npg"]:
            with (
                subtests.test(f"{name}: {message}"),
                pytest.raises(ValueError, match=message),
            ):
                ALGORITHMS[name](*tiny_networks(), **options)


def test_options_of_one_algorithm():
    with pytest.raises(ValueError, match="max_backtracks must be a whole number ≥ 1, got 0"):
        po.trpo(*tiny_networks(), po.TRPOOptions(max_backtracks=0))
    with pytest.raises(ValueError, match="solver must be one of cg, dense, got 'lu'"):
        po.npg(*tiny_networks(), po.NPGOptions(solver="lu"))
    with pytest.raises(ValueError, match="step_size_rule must be one of kl, fixed, got 'adam'"):
        po.npg(*tiny_networks(), po.NPGOptions(step_size_rule="adam"))


@pytest.mark.parametrize("name", ["trpo", "npg"])
@pytest.mark.parametrize("size", [128, 24])
def test_a_critic_minibatch_that_does_not_divide_the_batch_is_refused(name, size):
    algorithm = ALGORITHMS[name](*tiny_networks(), critic_minibatch_size=size)
    rollout = setup(name, "categorical").rollout
    state = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyperparams)
    with pytest.raises(
        ValueError, match=f"critic_minibatch_size must divide the batch of 32 samples, got {size}"
    ):
        jax.eval_shape(algorithm.update, jax.random.key(0), algorithm.hyperparams, state, rollout)
