"""The oracles against hand-computed numbers, enumeration, and the identities that define them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from purejax_po import exact

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_STATES, NUM_ACTIONS, NUM_FEATURES = 5, 3, 4
# Shapes are fixed, so that a property compiles once; the seed chooses everything else.
many_seeds = settings(max_examples=30, deadline=None, database=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_policy(key, scale=1.0):
    return jax.nn.softmax(scale * jax.random.normal(key, (NUM_STATES, NUM_ACTIONS)))


def random_mdp(key):
    discount_key, key = jax.random.split(key)
    discount = jax.random.uniform(discount_key, maxval=0.95)
    return exact.garnet(key, NUM_STATES, NUM_ACTIONS, 2, discount)


def random_problem(seed):
    """An MDP, a policy, and a second policy from next to it to far away."""
    keys = jax.random.split(jax.random.key(seed), 4)
    pi = random_policy(keys[1])
    log_distance = jax.random.uniform(keys[2], minval=-6.0, maxval=2.0)
    shift = 10.0**log_distance * jax.random.normal(keys[3], pi.shape)
    return random_mdp(keys[0]), pi, jax.nn.softmax(jnp.log(pi) + shift)


def parametrised(seed):
    """An MDP, a policy π_θ(a|s) ∝ exp(φ(s)ᵀW_a + b_a) that cannot represent every table, and θ."""
    keys = jax.random.split(jax.random.key(seed), 4)
    features = jax.random.normal(keys[1], (NUM_STATES, NUM_FEATURES))
    theta = {
        "bias": jax.random.normal(keys[2], (NUM_ACTIONS,)),
        "weight": jax.random.normal(keys[3], (NUM_FEATURES, NUM_ACTIONS)),
    }

    def log_policy(theta):
        return jax.nn.log_softmax(features @ theta["weight"] + theta["bias"])

    return random_mdp(keys[0]), log_policy, theta


def small_mdp(dtype=None):
    """Action 0 stays and earns 4 (in state 0) or 2 (in 1); action 1 moves and earns 0 or 1."""
    stay_or_move = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]], dtype)
    reward = np.array([[4.0, 0.0], [2.0, 1.0]], dtype)
    return exact.make_mdp(stay_or_move, reward, np.array([1.0, 0.0], dtype), 0.5)


SMALL_POLICY = np.array([[0.5, 0.5], [1.0, 0.0]])


def test_hand_computed_mdp():
    # V₁ = 2 + ½V₁ = 4; V₀ = ½(4 + ½V₀) + ½·½V₁ = 3 + ¼V₀ = 4; d₀ = ½ + ½·½·d₀ = ⅔.
    mdp = small_mdp()
    np.testing.assert_allclose(exact.state_values(mdp, SMALL_POLICY), [4.0, 4.0])
    np.testing.assert_allclose(exact.action_values(mdp, SMALL_POLICY), [[6.0, 2.0], [4.0, 3.0]])
    np.testing.assert_allclose(exact.advantages(mdp, SMALL_POLICY), [[2, -2], [0, -1]], atol=1e-14)
    np.testing.assert_allclose(exact.expected_return(mdp, SMALL_POLICY), 4.0)
    np.testing.assert_allclose(exact.occupancy(mdp, SMALL_POLICY), [2 / 3, 1 / 3])


def test_hand_computed_improvement_bounds():
    # π' takes (0.75, 0.25) in state 0: L = 4 + 2·⅔·(0.75·2 − 0.25·2) = 16/3; C = 4·2·½/¼ = 16.
    mdp = small_mdp()
    pi_new = np.array([[0.75, 0.25], [1.0, 0.0]])
    kl = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    np.testing.assert_allclose(exact.surrogate(mdp, SMALL_POLICY, pi_new), 16 / 3)
    bound = exact.improvement_bound_kl(mdp, SMALL_POLICY, pi_new)
    np.testing.assert_allclose(bound, 16 / 3 - 16 * kl)
    bound = exact.improvement_bound_tv(mdp, SMALL_POLICY, pi_new)
    np.testing.assert_allclose(bound, 16 / 3 - 16 * 0.25**2)


def test_bounds_when_an_action_is_ruled_out():
    mdp = small_mdp()
    pi_new = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert exact.improvement_bound_kl(mdp, SMALL_POLICY, pi_new) == -np.inf
    assert np.isfinite(exact.improvement_bound_tv(mdp, SMALL_POLICY, pi_new))
    myopic = mdp._replace(discount=jnp.zeros(()))
    bound = exact.improvement_bound_kl(myopic, SMALL_POLICY, pi_new)
    np.testing.assert_allclose(bound, exact.expected_return(myopic, pi_new))


def test_dtype_follows_the_inputs():
    mdp, pi = small_mdp(np.float32), SMALL_POLICY.astype(np.float32)
    outputs = [
        *mdp,
        exact.state_values(mdp, pi),
        exact.advantages(mdp, pi),
        exact.occupancy(mdp, pi),
        exact.improvement_bound_kl(mdp, pi, pi),
        exact.policy_iteration(mdp).policy,
        exact.natural_policy_gradient_step(mdp, pi, 0.1),
        exact.fisher_matrix(mdp, jax.nn.log_softmax, pi),
    ]
    assert {x.dtype for x in outputs} == {jnp.dtype(jnp.float32)}
    assert exact.expected_return(small_mdp(), SMALL_POLICY).dtype == jnp.float64


@many_seeds
@given(seeds)
def test_garnet_is_a_valid_mdp(seed):
    mdp = jax.jit(random_mdp)(jax.random.key(seed))
    exact.make_mdp(*mdp)
    assert (np.count_nonzero(mdp.transition, axis=-1) == 2).all()


@jax.jit
def _bellman(seed):
    mdp, pi, _ = random_problem(seed)
    value, q = exact.state_values(mdp, pi), exact.action_values(mdp, pi)
    backup = jnp.einsum("sa,sa->s", pi, mdp.reward)
    backup += mdp.discount * jnp.einsum("sa,sat,t->s", pi, mdp.transition, value)
    return value, backup, q, exact.advantages(mdp, pi), pi


@many_seeds
@given(seeds)
def test_bellman_equation_and_advantages(seed):
    value, backup, q, advantage, pi = _bellman(seed)
    np.testing.assert_allclose(value, backup, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(advantage, q - value[:, None], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(jnp.sum(pi * advantage, axis=-1), 0.0, atol=1e-12)


@jax.jit
def _occupancies(seed):
    mdp, pi, _ = random_problem(seed)
    step = jnp.einsum("sa,sat->st", pi, mdp.transition)

    def visit(carry, _):
        probability, weight = carry
        return (probability @ step, weight * mdp.discount), weight * probability

    _, visits = jax.lax.scan(visit, (mdp.start, 1.0 - mdp.discount), length=700)
    reward = jnp.sum(pi * mdp.reward, axis=-1)
    d = exact.occupancy(mdp, pi)
    return d, jnp.sum(visits, axis=0), d @ reward / (1.0 - mdp.discount), mdp, pi


@many_seeds
@given(seeds)
def test_occupancy_is_the_discounted_series(seed):
    d, series, mean_reward, mdp, pi = _occupancies(seed)
    np.testing.assert_allclose(jnp.sum(d), 1.0, rtol=1e-12)
    np.testing.assert_allclose(d, series, atol=1e-12)  # what is left of it: 0.95⁷⁰⁰ < 3e-16
    np.testing.assert_allclose(mean_reward, exact.expected_return(mdp, pi), rtol=1e-9, atol=1e-9)


@jax.jit
def _comparison(seed):
    mdp, pi, pi_new = random_problem(seed)
    return {
        "gain": exact.expected_return(mdp, pi_new) - exact.expected_return(mdp, pi),
        "performance_difference": exact.performance_difference(mdp, pi, pi_new),
        "new": exact.expected_return(mdp, pi_new),
        "surrogate": exact.surrogate(mdp, pi, pi_new),
        "kl": exact.improvement_bound_kl(mdp, pi, pi_new),
        "tv": exact.improvement_bound_tv(mdp, pi, pi_new),
    }


@settings(many_seeds, max_examples=200)
@given(seeds)
def test_performance_difference_lemma_and_both_improvement_bounds(seed):
    x = _comparison(seed)
    np.testing.assert_allclose(x["performance_difference"], x["gain"], atol=1e-10)
    assert x["new"] >= x["tv"] - 1e-10
    assert x["new"] >= x["kl"] - 1e-10
    assert x["tv"] >= x["kl"] - 1e-10
    assert x["surrogate"] >= x["tv"] - 1e-10


def test_improvement_bounds_are_tight_at_the_old_policy():
    mdp = small_mdp()
    for bound in (exact.surrogate, exact.improvement_bound_kl, exact.improvement_bound_tv):
        np.testing.assert_allclose(bound(mdp, SMALL_POLICY, SMALL_POLICY), 4.0, rtol=1e-12)


@jax.jit
def _gradients(seed):
    mdp, log_policy, theta = parametrised(seed)
    flat, unravel = ravel_pytree(theta)
    pi_old = jnp.exp(log_policy(theta))

    def expected_return(x):
        return exact.expected_return(mdp, jnp.exp(log_policy(unravel(x))))

    def surrogate(x):
        return exact.surrogate(mdp, pi_old, jnp.exp(log_policy(unravel(x))))

    def central_difference(direction):
        above, below = expected_return(flat + direction), expected_return(flat - direction)
        return (above - below) / 2e-5

    theorem = exact.policy_gradient(mdp, log_policy, theta)
    return (
        ravel_pytree(theorem)[0],
        jax.grad(expected_return)(flat),
        jax.grad(surrogate)(flat),
        jax.lax.map(central_difference, 1e-5 * jnp.eye(flat.size)),
    )


@many_seeds
@given(seeds)
def test_policy_gradient_theorem(seed):
    theorem, of_return, of_surrogate, differences = _gradients(seed)
    np.testing.assert_allclose(theorem, of_return, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(theorem, of_surrogate, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(theorem, differences, rtol=1e-6, atol=1e-7)


def test_policy_gradient_has_the_structure_of_theta():
    def gradient_and_theta(seed):
        mdp, log_policy, theta = parametrised(seed)
        return exact.policy_gradient(mdp, log_policy, theta), theta

    gradient, theta = jax.eval_shape(gradient_and_theta, 0)
    assert gradient == theta


@jax.jit
def _baseline_term(seed):
    mdp, log_policy, theta = parametrised(seed)
    log_pi, pull_back = jax.vjp(log_policy, theta)
    baseline = jax.random.normal(jax.random.key(seed), (NUM_STATES, 1))
    d = exact.occupancy(mdp, jnp.exp(log_pi))
    return ravel_pytree(pull_back(d[:, None] * jnp.exp(log_pi) * baseline))[0]


@many_seeds
@given(seeds)
def test_a_baseline_adds_nothing_to_the_gradient(seed):
    np.testing.assert_allclose(_baseline_term(seed), 0.0, atol=1e-13)


@jax.jit
def _fisher(seed):
    mdp, log_policy, theta = parametrised(seed)
    flat, unravel = ravel_pytree(theta)
    pi = jnp.exp(log_policy(theta))
    d = exact.occupancy(mdp, pi)

    def mean_kl(x):
        return d @ jnp.sum(pi * (jnp.log(pi) - log_policy(unravel(x))), axis=-1)

    return exact.fisher_matrix(mdp, log_policy, theta), jax.hessian(mean_kl)(flat)


@many_seeds
@given(seeds)
def test_fisher_matrix_is_psd_and_the_hessian_of_the_kl(seed):
    fisher, hessian = _fisher(seed)
    np.testing.assert_allclose(fisher, fisher.T, rtol=0, atol=1e-15)
    assert np.linalg.eigvalsh(fisher).min() > -1e-12
    np.testing.assert_allclose(fisher, hessian, atol=1e-12)


def test_hand_computed_fisher_matrix():
    # One state, two actions: F = p(1 − p)[[1, −1], [−1, 1]] whatever the rewards.
    mdp = exact.make_mdp(np.ones((1, 2, 1)), [[1.0, -1.0]], [1.0], 0.9)
    theta = jnp.log(jnp.array([[0.8, 0.2]]))
    fisher = exact.fisher_matrix(mdp, jax.nn.log_softmax, theta)
    np.testing.assert_allclose(fisher, [[0.16, -0.16], [-0.16, 0.16]], rtol=1e-12)
    # V = 0.6/0.1; ∇J = 10·p(1 − p)·(1 − (−1))·(1, −1).
    np.testing.assert_allclose(exact.expected_return(mdp, jax.nn.softmax(theta)), 6.0)
    gradient = exact.policy_gradient(mdp, jax.nn.log_softmax, theta)
    np.testing.assert_allclose(gradient, [[3.2, -3.2]], rtol=1e-12)


def test_hand_computed_optimal_policy():
    optimal = exact.policy_iteration(small_mdp())
    np.testing.assert_array_equal(optimal.policy, [[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(optimal.value, [8.0, 5.0])
    assert optimal.converged


@jax.jit
def _every_deterministic_policy(seed):
    mdp = exact.garnet(jax.random.key(seed), 4, 3, 2, 0.9)
    tables = jnp.array(list(itertools.product(np.eye(3), repeat=4)))
    values = jax.lax.map(lambda pi: exact.state_values(mdp, pi), tables)
    return exact.policy_iteration(mdp), values


@many_seeds
@given(seeds)
def test_policy_iteration_beats_every_deterministic_policy(seed):
    optimal, values = _every_deterministic_policy(seed)
    assert optimal.converged
    np.testing.assert_allclose(optimal.value, values.max(axis=0), rtol=1e-11, atol=1e-11)


def test_policy_iteration_keeps_tied_actions():
    tied = exact.make_mdp(np.ones((3, 4, 3)) / 3, np.full((3, 4), 0.1), np.ones(3) / 3, 0.99)
    assert exact.policy_iteration(tied).num_iterations == 1


def with_copies(mdp):
    """Every state twice, and every action twice: to the first or to the second copies."""
    nowhere = jnp.zeros_like(mdp.transition)
    to_first = jnp.concatenate([mdp.transition, nowhere], axis=-1)
    to_second = jnp.concatenate([nowhere, mdp.transition], axis=-1)
    return exact.MDP(
        transition=jnp.tile(jnp.concatenate([to_first, to_second], axis=1), (2, 1, 1)),
        reward=jnp.tile(mdp.reward, (2, 2)),
        start=jnp.tile(mdp.start / 2, 2),
        discount=mdp.discount,
    )


def test_policy_iteration_in_float32_does_not_cycle_between_tied_actions():
    # Only rounding tells the copies apart: without a tolerance one of these in eight cycles.
    @jax.jit
    def in_both_precisions(key):
        mdp = with_copies(exact.garnet(key, 10, 3, 3, 0.99))
        single = exact.MDP(*(x.astype(jnp.float32) for x in mdp))
        return exact.policy_iteration(single), exact.policy_iteration(mdp)

    for seed in range(40):
        low, high = in_both_precisions(jax.random.key(seed))
        assert low.converged
        np.testing.assert_allclose(low.value, high.value, rtol=1e-3, atol=1e-3)


def test_policy_iteration_reports_its_guard():
    limited = exact.policy_iteration(exact.garnet(jax.random.key(0), 20, 4, 3, 0.99), 1)
    assert not limited.converged
    assert limited.num_iterations == 1
    with pytest.raises(ValueError, match="max_iterations must be a whole number ≥ 1, got 0"):
        exact.policy_iteration(small_mdp(), 0)


@jax.jit
def _greedy_values(seed):
    mdp, pi, _ = random_problem(seed)
    improved = exact.greedy(mdp, pi)
    optimal = exact.policy_iteration(mdp)
    return (
        exact.state_values(mdp, pi),
        exact.state_values(mdp, improved),
        optimal,
        exact.greedy(mdp, optimal.policy),
    )


@many_seeds
@given(seeds)
def test_greedy_policy_improves_every_state_and_keeps_the_optimum(seed):
    before, after, optimal, again = _greedy_values(seed)
    assert (after >= before - 1e-10).all()
    assert (optimal.value >= after - 1e-10).all()
    np.testing.assert_array_equal(again, optimal.policy)


@jax.jit
def _natural_gradient(seed):
    mdp, pi, _ = random_problem(seed)
    theta = jnp.log(pi)
    return (
        exact.fisher_matrix(mdp, jax.nn.log_softmax, theta),
        exact.policy_gradient(mdp, jax.nn.log_softmax, theta),
        theta,
        exact.natural_policy_gradient_step(mdp, pi, 0.3),
    )


@many_seeds
@given(seeds)
def test_tabular_natural_gradient_in_closed_form(seed):
    fisher, gradient, theta, closed_form = _natural_gradient(seed)
    # F is singular along a constant per state, which leaves the policy alone.
    direction = np.linalg.pinv(fisher, rcond=1e-13, hermitian=True) @ np.ravel(gradient)
    stepped = jax.nn.softmax(theta + 0.3 * direction.reshape(theta.shape))
    np.testing.assert_allclose(closed_form, stepped, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_iterated_natural_gradient_reaches_the_optimum(seed):
    mdp = exact.garnet(jax.random.key(seed), NUM_STATES, NUM_ACTIONS, 3, 0.9)

    @jax.jit
    def iterate(mdp):
        def step(pi, _):
            pi = exact.natural_policy_gradient_step(mdp, pi, 1.0)
            return pi, exact.expected_return(mdp, pi)

        uniform = jnp.full((NUM_STATES, NUM_ACTIONS), 1.0 / NUM_ACTIONS)
        return jax.lax.scan(step, uniform, length=500)[1]

    returns = iterate(mdp)
    optimum = mdp.start @ exact.policy_iteration(mdp).value
    assert (np.diff(returns) >= -1e-10).all()
    np.testing.assert_allclose(returns[-1], optimum, atol=1e-6)


def test_many_mdps_at_once_without_lapack():
    """Several batched LAPACK calls in one program can hang for ever on a CPU."""

    def both_sides(mdp):
        change = exact.expected_return(mdp, new) - exact.expected_return(mdp, old)
        return change, exact.performance_difference(mdp, old, new)

    old, new = random_policy(jax.random.key(1)), random_policy(jax.random.key(2))
    mdps = jax.jit(jax.vmap(random_mdp))(jax.random.split(jax.random.key(0), 1000))
    lowered = jax.jit(jax.vmap(both_sides)).lower(mdps)
    assert "lapack" not in lowered.as_text()
    change, lemma = lowered.compile()(mdps)
    np.testing.assert_allclose(lemma, change, atol=1e-10)
    first = both_sides(jax.tree.map(lambda x: x[0], mdps))
    np.testing.assert_allclose((change[0], lemma[0]), first, rtol=1e-10)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.999])
def test_values_solve_the_bellman_equation(discount):
    mdp = exact.garnet(jax.random.key(0), 100, NUM_ACTIONS, 3, discount)
    pi = jax.nn.softmax(jax.random.normal(jax.random.key(1), (100, NUM_ACTIONS)))
    expected = np.sum(pi * exact.action_values(mdp, pi), axis=-1)
    np.testing.assert_allclose(exact.state_values(mdp, pi), expected, rtol=1e-12)
    d = exact.occupancy(mdp, pi)
    arriving = np.einsum("s,sa,sat->t", d, pi, mdp.transition)
    np.testing.assert_allclose(d, (1 - discount) * mdp.start + discount * arriving, rtol=1e-11)


UNIFORM = np.full((2, 3, 2), 0.5)


def edited(table, index, value):
    table = np.array(table, float)
    table[index] = value
    return table


def test_make_mdp_names_the_fault(subtests):
    for change, message in [
        (
            {"transition": np.ones((2, 3))},
            r"transition must have a shape \[S, A, S\], got \[2, 3\]",
        ),
        ({"transition": np.ones((2, 3, 4))}, r"transition must have a shape .* got \[2, 3, 4\]"),
        (
            {"transition": edited(UNIFORM, (1, 2, 0), 0.4)},
            r"transition must sum to 1, got 0\.9 at \(state, action\) = \(1, 2\)",
        ),
        (
            {"transition": edited(UNIFORM, (1, 2), [-0.25, 1.25])},
            r"transition\[1, 2, 0\] must be a number ≥ 0, got -0\.25",
        ),
        (
            {"transition": edited(UNIFORM, (0, 1, 1), np.nan)},
            r"transition\[0, 1, 1\] must be a finite number, got nan",
        ),
        ({"reward": np.zeros((3, 2))}, r"reward must have the shape \[2, 3\], got \[3, 2\]"),
        (
            {"reward": edited(np.zeros((2, 3)), (1, 0), np.inf)},
            r"reward\[1, 0\] must be a finite number, got inf",
        ),
        ({"start": np.ones(3) / 3}, r"start must have the shape \[2\], got \[3\]"),
        ({"start": [0.5, 0.4]}, r"start must sum to 1, got 0\.9$"),
        ({"start": [1.5, -0.5]}, r"start\[1\] must be a number ≥ 0, got -0\.5"),
        ({"discount": 1.0}, r"discount must be a number in \[0, 1\), got 1\.0"),
        ({"discount": -0.1}, r"discount must be a number in \[0, 1\), got -0\.1"),
        ({"discount": np.nan}, r"discount must be a number in \[0, 1\), got nan"),
        ({"discount": "0.9x"}, r"discount must be a number in \[0, 1\), got '0\.9x'"),
    ]:
        with subtests.test(message):
            arguments = {
                "transition": UNIFORM,
                "reward": np.zeros((2, 3)),
                "start": [0.5, 0.5],
                "discount": 0.9,
            }
            exact.make_mdp(**arguments)
            with pytest.raises(ValueError, match=message):
                exact.make_mdp(**(arguments | change))


def test_make_mdp_takes_integer_tables_and_checks_shapes_under_tracing():
    mdp = exact.make_mdp(
        [
            [[1]],
        ],
        [[3]],
        [1],
        0,
    )
    assert {x.dtype for x in mdp} == {jnp.dtype(jnp.float64)}
    np.testing.assert_allclose(exact.expected_return(mdp, jnp.ones((1, 1))), 3.0)
    traced = jax.jit(exact.make_mdp)(*small_mdp())
    np.testing.assert_array_equal(traced.transition, small_mdp().transition)
    with pytest.raises(ValueError, match="reward must have the shape"):
        jax.jit(exact.make_mdp)(UNIFORM, np.zeros((2, 2)), np.ones(2) / 2, 0.9)


def test_garnet_names_the_fault(subtests):
    for arguments, message in [
        ((0, 3, 2, 0.9), "num_states must be a whole number ≥ 1, got 0"),
        ((5, 2.0, 2, 0.9), "num_actions must be a whole number ≥ 1, got 2.0"),
        ((5, 3, 0, 0.9), "branching must be a whole number ≥ 1, got 0"),
        ((5, 3, 6, 0.9), "branching must be at most num_states = 5, got 6"),
        ((5, 3, 2, 1.0), r"discount must be a number in \[0, 1\), got 1.0"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            exact.garnet(jax.random.key(0), *arguments)


def test_a_table_of_the_wrong_shape_is_refused():
    with pytest.raises(AssertionError, match="shape"):
        exact.state_values(small_mdp(), np.ones((2, 3)) / 3)
    with pytest.raises(AssertionError, match="shape"):
        exact.surrogate(small_mdp(), SMALL_POLICY, np.ones(2))
