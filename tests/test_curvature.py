"""Fisher products, conjugate gradient and line search against dense matrices and enumeration."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from purejax_po import curvature, exact
from purejax_po._xla.layerwise import layerwise
from purejax_po.distributions import Categorical, DiagonalGaussian, Product
from purejax_po.jacobian import linearized
from purejax_po.networks import MLP

pytestmark = pytest.mark.usefixtures("compile_quickly")

NUM_OBS, NUM_HIDDEN = 2, 3
FAMILIES = ("categorical", "multi_discrete", "gaussian")
many_examples = settings(max_examples=30, deadline=None, database=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
batch_sizes = st.sampled_from([3, 5])  # every shape compiles once
SIZE = 8  # of the linear systems


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Problem(NamedTuple):
    """A random network policy over a batch of observations."""

    params: dict
    obs: jax.Array
    weight: jax.Array


@functools.partial(jax.jit, static_argnums=(1, 2))
def random_problem(seed, family, num_samples):
    """Weights are positive; nothing vanishes by symmetry, for biases and log σ are random too."""
    keys = jax.random.split(jax.random.key(seed), 6)
    num_outputs = {"categorical": 3, "multi_discrete": 5, "gaussian": 2}[family]
    params = {
        "bias": jax.random.normal(keys[0], (num_outputs,)),
        "inner": jax.random.normal(keys[1], (NUM_OBS, NUM_HIDDEN)),
        "outer": jax.random.normal(keys[2], (NUM_HIDDEN, num_outputs)),
    }
    if family == "gaussian":
        params["log_std"] = 0.3 * jax.random.normal(keys[3], (num_outputs,))
    obs = jax.random.normal(keys[4], (num_samples, NUM_OBS))
    return Problem(params, obs, jax.random.uniform(keys[5], (num_samples,), minval=0.2))


def policy(family, params, obs):
    outputs = jnp.tanh(obs @ params["inner"]) @ params["outer"] + params["bias"]
    if family == "categorical":
        return Categorical(outputs)
    if family == "multi_discrete":
        return Product((Categorical(outputs[:, :2]), Categorical(outputs[:, 2:])))
    return DiagonalGaussian(outputs, jnp.broadcast_to(params["log_std"], outputs.shape))


def enumerate_actions(family, distribution):
    """All actions `[K, B, ...]` and their probabilities `[K, B]`.

    For a Gaussian, the nodes of a Gauss-Hermite rule: 3 per axis integrate polynomials of degree 5
    exactly, and the product of two scores has degree 4.
    """
    if family == "gaussian":
        node, mass = np.polynomial.hermite_e.hermegauss(3)
        mass = mass / mass.sum()
        noise = np.array(list(itertools.product(node, repeat=2)))
        probability = np.array([np.prod(pair) for pair in itertools.product(mass, repeat=2)])
        action = distribution.sample_from(noise[:, None, :])
        return action, jnp.broadcast_to(probability[:, None], action.shape[:2])
    sizes = [3] if family == "categorical" else [2, 3]
    action = np.array(list(itertools.product(*map(range, sizes))))
    action = action[:, 0] if family == "categorical" else action
    batch = jax.tree.leaves(distribution)[0].shape[0]
    action = jnp.broadcast_to(action[:, None], (len(action), batch, *action.shape[1:]))
    return action, jnp.exp(jax.vmap(distribution.log_prob)(action))


def dense_fisher(family, problem):
    """F = Σ_b w_b Σ_a π(a|b) ∇log π ∇log πᵀ / Σ_b w_b, by enumeration."""
    flat, unravel = ravel_pytree(problem.params)
    action, probability = enumerate_actions(family, policy(family, problem.params, problem.obs))

    def log_prob(x):
        return jax.vmap(policy(family, unravel(x), problem.obs).log_prob)(action)

    score = jax.jacobian(log_prob)(flat)
    weight = probability * problem.weight / jnp.sum(problem.weight)
    return jnp.einsum("kb,kbi,kbj->ij", weight, score, score)


def as_matrix(product, params):
    """Apply a product to every unit vector; column i is F eᵢ."""
    flat, unravel = ravel_pytree(params)
    columns = jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(jnp.eye(flat.size))
    return columns.T


def product_matrix(kind, family, problem, damping):
    """The matrix that a product of the package multiplies by."""

    def apply(params):
        return policy(family, params, problem.obs)

    params, weight = problem.params, problem.weight
    if kind == "gauss_newton":
        return as_matrix(curvature.gauss_newton_product(apply, params, weight, damping), params)
    if kind == "kl_hessian":
        return as_matrix(curvature.kl_hessian_product(apply, params, weight, damping), params)
    # The expectation over actions: every sample once per action, weighted by its probability.
    action, probability = enumerate_actions(family, apply(params))
    repeats = len(action)

    def apply_repeated(params):
        return policy(family, params, jnp.tile(problem.obs, (repeats, 1)))

    weight, action = (probability * weight).reshape(-1), action.reshape(-1, *action.shape[2:])
    product = curvature.empirical_product(apply_repeated, params, weight, damping, action)
    return as_matrix(product, params)


KINDS = ("gauss_newton", "kl_hessian", "empirical")


@functools.partial(jax.jit, static_argnums=0)
def all_matrices(family, problem, damping):
    """The dense Fisher matrix by enumeration, and those of the three products."""
    matrices = {kind: product_matrix(kind, family, problem, damping) for kind in KINDS}
    return dense_fisher(family, problem), matrices


@pytest.mark.parametrize("family", FAMILIES)
@many_examples
@given(seed=seeds, batch_size=batch_sizes)
def test_the_three_products_are_the_dense_fisher_matrix(family, seed, batch_size):
    dense, matrices = all_matrices(family, random_problem(seed, family, batch_size), 0.0)
    scale = np.abs(dense).max()
    for kind, matrix in matrices.items():
        np.testing.assert_allclose(matrix, dense, rtol=0, atol=1e-12 * scale, err_msg=kind)
        np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-13 * scale, err_msg=kind)
        assert np.linalg.eigvalsh(matrix).min() > -1e-13 * scale, kind


@pytest.mark.parametrize("family", FAMILIES)
@many_examples
@given(seed=seeds)
def test_samples_of_weight_zero_do_not_count(family, seed):
    problem = random_problem(seed, family, 5)
    padded = problem._replace(
        weight=np.array(problem.weight) * [0, 1, 1, 0, 1],
        obs=np.array(problem.obs) * np.array([[1e3], [1], [1], [-1e3], [1]]),
    )
    valid = np.array([1, 2, 4])
    without = problem._replace(
        weight=np.array(problem.weight)[valid], obs=np.array(problem.obs)[valid]
    )
    _, expected = all_matrices(family, without, 0.0)
    for weight in (padded.weight, 7.0 * padded.weight):
        _, matrices = all_matrices(family, padded._replace(weight=weight), 0.0)
        for kind in KINDS:
            np.testing.assert_allclose(matrices[kind], expected[kind], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("family", FAMILIES)
def test_damping_adds_a_multiple_of_the_identity(family):
    problem = random_problem(4, family, 5)
    dense, matrices = all_matrices(family, problem, 0.3)
    for matrix in matrices.values():
        np.testing.assert_allclose(matrix, dense + 0.3 * np.eye(len(dense)), atol=1e-13)


@jax.jit
def _linear_softmax(mdp, features, theta):
    def log_policy(theta):
        return jax.nn.log_softmax(features @ theta)

    def apply(theta):
        return Categorical(features @ theta)

    weight = exact.occupancy(mdp, jnp.exp(log_policy(theta)))
    return exact.fisher_matrix(mdp, log_policy, theta), [
        as_matrix(curvature.gauss_newton_product(apply, theta, weight, 0.0), theta),
        as_matrix(curvature.kl_hessian_product(apply, theta, weight, 0.0), theta),
    ]


@pytest.mark.parametrize("features", ["tabular", "random"])
def test_softmax_policies_have_the_exact_fisher_matrix_of_their_mdp(features):
    generator = np.random.default_rng(0)
    mdp = exact.garnet(jax.random.key(0), 4, 3, 2, 0.9)
    one_hot = np.eye(12).reshape(4, 3, 12)
    for _ in range(10):
        phi = one_hot if features == "tabular" else generator.normal(size=one_hot.shape)
        fisher, matrices = _linear_softmax(mdp, phi, generator.normal(size=12))
        for matrix in matrices:
            np.testing.assert_allclose(matrix, fisher, rtol=0, atol=1e-13)


@functools.partial(jax.jit, static_argnums=0)
def _empirical(family, problem, action):
    flat, unravel = ravel_pytree(problem.params)

    def apply(params):
        return policy(family, params, problem.obs)

    score = jax.jacobian(lambda x: apply(unravel(x)).log_prob(action))(flat)
    weight = problem.weight / jnp.sum(problem.weight)
    product = curvature.empirical_product(apply, problem.params, problem.weight, 0.0, action)
    expected = jnp.einsum("b,bi,bj->ij", weight, score, score)
    return as_matrix(product, problem.params), expected


def test_empirical_product_is_the_mean_outer_product_of_the_sampled_scores():
    action = np.array([[0, 2], [1, 1], [1, 0], [0, 0], [1, 2]])
    matrix, expected = _empirical("multi_discrete", random_problem(5, "multi_discrete", 5), action)
    np.testing.assert_allclose(matrix, expected, atol=1e-13)


@functools.partial(jax.jit, static_argnums=0)
def _kl_expansion(family, problem, direction):
    """KL and its gradient at θ_old, and KL(θ + hΔ) for two h and every Δ."""
    flat, unravel = ravel_pytree(problem.params)
    old = policy(family, problem.params, problem.obs)
    weight = problem.weight / jnp.sum(problem.weight)

    def kl(x):
        return weight @ old.kl(policy(family, unravel(x), problem.obs))

    step = jnp.array([2e-2, 1e-2])[:, None, None] * direction
    return kl(flat), jax.grad(kl)(flat), jax.vmap(jax.vmap(kl))(flat + step)


@pytest.mark.parametrize("family", FAMILIES)
@many_examples
@given(seed=seeds)
def test_kl_is_half_the_quadratic_form_to_third_order(family, seed):
    problem = random_problem(seed, family, 5)
    fisher, _ = all_matrices(family, problem, 0.0)
    direction = np.random.default_rng(seed).normal(size=(16, len(fisher)))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    kl, gradient, (far, near) = _kl_expansion(family, problem, direction)
    np.testing.assert_allclose(kl, 0.0, atol=1e-15)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-15)
    quadratic = 0.5 * np.einsum("ki,ij,kj->k", direction, fisher, direction)
    coarse, fine = far - 2e-2**2 * quadratic, near - 1e-2**2 * quadratic
    assert np.abs(fine).max() < 0.1 * 1e-2**2 * quadratic.max()
    # Halving h divides a remainder of third order by 8.
    assert 6.0 < np.abs(coarse).sum() / np.abs(fine).sum() < 10.0


def as_tree(flat):
    """A pytree of two leaves, so that raveling is exercised."""
    return {"a": flat[:3], "b": flat[3:].reshape(-1, 1)}


def flatten(tree):
    return np.asarray(ravel_pytree(tree)[0])


def tree_product(matrix):
    return lambda v: as_tree(matrix @ ravel_pytree(v)[0])


@functools.partial(jax.jit, static_argnums=(3,))
def solve(matrix, b, tolerance, max_iterations):
    return curvature.conjugate_gradient(
        tree_product(matrix), as_tree(b), max_iterations=max_iterations, tolerance=tolerance
    )


@jax.jit
def solve_dense(matrix, b):
    return curvature.dense_solve(tree_product(matrix), as_tree(b))


def random_system(seed, rank=SIZE):
    """A PSD matrix with eigenvalues in [1, 10] on a random subspace, and b in its range."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(SIZE, SIZE)))[0][:, :rank]
    eigenvalue = generator.uniform(1.0, 10.0, rank)
    matrix = (basis * eigenvalue) @ basis.T
    return matrix, matrix @ generator.normal(size=SIZE)


@many_examples
@given(seed=seeds)
def test_both_solvers_equal_numpy(seed):
    matrix, b = random_system(seed)
    expected = np.linalg.solve(matrix, b)
    for solution in (solve(matrix, b, 1e-12, 3 * SIZE), solve_dense(matrix, b)):
        x = flatten(solution.x)
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(solution.quadratic, x @ matrix @ x, rtol=1e-9)
        assert solution.residual < 1e-11
        assert jax.tree.map(np.shape, solution.x) == {"a": (3,), "b": (SIZE - 3, 1)}


@many_examples
@given(seed=seeds, rank=st.integers(1, SIZE - 1))
def test_conjugate_gradient_solves_a_singular_consistent_system_in_rank_steps(seed, rank):
    matrix, b = random_system(seed, rank)
    solution = solve(matrix, b, 1e-8, 3 * SIZE)
    assert solution.iterations <= rank
    assert solution.residual <= 1e-8
    expected = np.linalg.pinv(matrix, rcond=1e-10, hermitian=True) @ b
    np.testing.assert_allclose(flatten(solution.x), expected, atol=1e-6 * np.linalg.norm(expected))


@many_examples
@given(seed=seeds)
def test_stopped_early_the_quadratic_and_residual_are_still_those_of_x(seed):
    matrix, b = random_system(seed)
    solution = solve(matrix, b, 1e-12, 3)
    x = flatten(solution.x)
    assert solution.iterations == 3
    np.testing.assert_allclose(solution.quadratic, x @ matrix @ x, rtol=1e-10)
    residual = np.linalg.norm(b - matrix @ x) / np.linalg.norm(b)
    np.testing.assert_allclose(solution.residual, residual, rtol=1e-9)
    # What CG minimises over the first Krylov space, it minimises over larger ones too.
    assert solution.quadratic >= (b @ b) ** 2 / (b @ matrix @ b) * (1.0 - 1e-12)


@many_examples
@given(seed=seeds)
def test_a_converged_solution_is_frozen(seed):
    matrix, b = random_system(seed)
    solution, longer = solve(matrix, b, 1e-3, SIZE), solve(matrix, b, 1e-3, 3 * SIZE)
    assert 0.0 < solution.residual <= 1e-3
    assert solution.iterations == longer.iterations <= SIZE
    np.testing.assert_array_equal(flatten(solution.x), flatten(longer.x))
    stopped = solve(matrix, b, 1e-3, int(solution.iterations) - 1)
    assert stopped.residual > 1e-3


def test_an_indefinite_matrix_freezes_the_last_good_iterate():
    matrix = np.diag([3.0, 1.0, *([2.0] * (SIZE - 3)), -1.0])
    b = np.array([1.0, 1.0, *([0.0] * (SIZE - 3)), 0.8])
    first = solve(matrix, b, 1e-12, 1)
    assert first.iterations == 1
    # The second direction has negative curvature.
    residual = b - matrix @ flatten(first.x)
    direction = residual + (residual @ residual) / (b @ b) * b
    assert direction @ matrix @ direction < 0.0
    solution = solve(matrix, b, 1e-12, 3 * SIZE)
    assert solution.iterations == 1
    np.testing.assert_array_equal(flatten(solution.x), flatten(first.x))
    np.testing.assert_allclose(
        solution.residual, np.linalg.norm(residual) / np.linalg.norm(b), rtol=1e-12
    )


@pytest.mark.parametrize("factor", [-1.0, 0.0])
def test_no_curvature_at_the_start_gives_the_zero_step(factor):
    b = random_system(0)[1]
    solution = solve(factor * np.eye(SIZE), b, 1e-12, 3 * SIZE)
    np.testing.assert_array_equal(flatten(solution.x), np.zeros(SIZE))
    assert (solution.iterations, solution.quadratic, solution.residual) == (0, 0.0, 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_right_hand_side_that_is_not_finite_gives_the_zero_step(value):
    matrix, b = random_system(0)
    b[2] = value
    solution = solve(matrix, b, 1e-12, 3 * SIZE)
    np.testing.assert_array_equal(flatten(solution.x), np.zeros(SIZE))
    assert solution.iterations == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_matrix_that_is_not_finite_gives_a_finite_iterate(value):
    matrix, b = random_system(0)
    matrix[0, 1] = matrix[1, 0] = value
    assert np.isfinite(flatten(solve(matrix, b, 1e-12, 3 * SIZE).x)).all()
    # Only the second direction meets the entry that is not finite.
    matrix = np.diag(np.arange(1.0, SIZE + 1.0))
    matrix[0, 1] = matrix[1, 0] = 1.0
    b = np.zeros(SIZE)
    b[0] = 1.0
    good = solve(matrix, b, 1e-12, 1)

    @jax.jit
    def solve_broken(b):
        def product(v):
            flat = ravel_pytree(v)[0]
            broken = jnp.where(flat[1] != 0.0, value, matrix @ flat)
            return as_tree(broken)

        return curvature.conjugate_gradient(product, as_tree(b), max_iterations=9, tolerance=1e-12)

    solution = solve_broken(b)
    assert solution.iterations == 1
    np.testing.assert_allclose(flatten(solution.x), flatten(good.x), rtol=1e-14)


def test_an_overflowing_solution_gives_a_finite_iterate():
    # α and the residual are finite, x + αp is not.
    solution = solve(1e-300 * np.eye(SIZE), np.full(SIZE, 1e10), 1e-12, 3 * SIZE)
    assert np.isfinite(flatten(solution.x)).all()


def test_a_zero_right_hand_side_gives_the_zero_solution():
    matrix, b = random_system(0)
    for solution in (solve(matrix, 0.0 * b, 1e-12, 3 * SIZE), solve_dense(matrix, 0.0 * b)):
        np.testing.assert_array_equal(flatten(solution.x), np.zeros(SIZE))
        assert (solution.quadratic, solution.residual) == (0.0, 0.0)
    assert solve(matrix, 0.0 * b, 1e-12, 3 * SIZE).iterations == 0


def test_vmapped_lanes_solve_as_if_alone():
    """Lanes of every fate at once: quick, slow, singular, zero, not finite, indefinite."""
    slow, quick, singular = random_system(1), random_system(2, 1), random_system(3, 4)
    zero, broken = (slow[0], 0.0 * slow[1]), (slow[0], np.nan * slow[1])
    systems = [slow, quick, singular, zero, broken, (-slow[0], slow[1])]
    matrices, bs = (np.stack(x) for x in zip(*systems, strict=True))
    lanes = jax.vmap(lambda matrix, b: solve(matrix, b, 1e-8, 3 * SIZE))(matrices, bs)
    for i, system in enumerate(systems):
        alone = solve(*system, 1e-8, 3 * SIZE)
        lane = jax.tree.map(lambda x, i=i: x[i], lanes)
        np.testing.assert_allclose(flatten(lane.x), flatten(alone.x), rtol=1e-9, atol=1e-12)
        assert lane.iterations == alone.iterations
    assert len(set(np.asarray(lanes.iterations).tolist())) >= 4
    dense = jax.vmap(solve_dense)(matrices[:1], bs[:1])
    alone = solve_dense(*slow)
    np.testing.assert_allclose(dense.x["a"][0], alone.x["a"], rtol=1e-9)


@jax.jit
def _solve_network(problem):
    def apply(params):
        return policy("categorical", params, problem.obs)

    product = curvature.gauss_newton_product(apply, problem.params, problem.weight, 0.1)
    b = jax.tree.map(jnp.ones_like, problem.params)
    iterative = curvature.conjugate_gradient(product, b, max_iterations=40, tolerance=1e-12)
    return curvature.dense_solve(product, b), iterative


def test_both_solvers_on_the_fisher_product_of_a_network():
    problem = random_problem(6, "categorical", 5)
    matrix = all_matrices("categorical", problem, 0.1)[1]["gauss_newton"]
    expected = np.linalg.solve(matrix, np.ones(len(matrix)))
    for solution in _solve_network(problem):
        np.testing.assert_allclose(flatten(solution.x), expected, rtol=1e-8)


MAX_BACKTRACKS = 5


@jax.jit
def search(params, step, shrink, acceptable):
    """Search with `acceptable` a mask over the five candidates."""

    def evaluate(params):
        # The candidate says which one it is: its first entry is its fraction of the step.
        k = jnp.round(jnp.log(params["x"][0]) / jnp.log(shrink)).astype(jnp.int32)
        moved = params["x"][0] > 0.0
        info = {"sum": jnp.sum(params["x"]) + jnp.sum(params["y"])}
        return moved & acceptable[jnp.where(moved, k, 0)], info

    return curvature.line_search(
        evaluate, params, step, shrink=shrink, max_backtracks=MAX_BACKTRACKS
    )


def search_inputs():
    params = {"x": jnp.array([0.0, -0.0, 5e-324]), "y": jnp.array([[-1.5, 1e-300]])}
    step = {"x": jnp.array([1.0, 2.0, 3.0]), "y": jnp.array([[4.0, 5.0]])}
    return params, step


def assert_identical(new, old):
    """Equal to the bit, signs of zeros included."""
    assert jax.tree.structure(new) == jax.tree.structure(old)
    for x, y in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_line_search_takes_the_first_accepted_candidate(subtests):
    for mask in list(itertools.product([False, True], repeat=MAX_BACKTRACKS)):
        with subtests.test(str(mask)):
            params, step = search_inputs()
            result = search(params, step, 0.7, jnp.array(mask))
            if not any(mask):
                assert_identical(result.params, params)
                assert result.fraction == 0.0
                np.testing.assert_allclose(result.info["sum"], -1.5)
            else:
                fraction = 0.7 ** mask.index(True)
                np.testing.assert_allclose(result.fraction, fraction, rtol=1e-14)
                expected = jax.tree.map(lambda p, s, f=fraction: p + f * s, params, step)
                np.testing.assert_allclose(flatten(result.params), flatten(expected), rtol=1e-14)
                np.testing.assert_allclose(result.info["sum"], -1.5 + 15.0 * fraction, rtol=1e-14)
            np.testing.assert_allclose(result.first_info["sum"], 13.5)


@jax.jit
def search_anything(params, step):
    """Everything is acceptable; the information of √(1 − x) is NaN beyond 1."""

    def evaluate(params):
        return jnp.bool_(True), {"root": jnp.sqrt(1.0 - params["x"][0])}

    return curvature.line_search(evaluate, params, step, shrink=0.5, max_backtracks=4)


def test_a_candidate_that_is_not_finite_is_rejected():
    params, step = search_inputs()
    np.testing.assert_allclose(search_anything(params, step).fraction, 1.0)
    overflowing = {**params, "y": jnp.array([[1e308, 0.0]])}, {**step, "y": jnp.array([[1e308, 0]])}
    np.testing.assert_allclose(search_anything(*overflowing).fraction, 0.5)
    result = search_anything(params, {**step, "x": jnp.array([3.0, 2.0, 3.0])})
    np.testing.assert_allclose(result.fraction, 0.25)
    np.testing.assert_allclose(result.info["root"], 0.5)
    assert np.isnan(result.first_info["root"])
    for value in (np.nan, np.inf, -np.inf):
        result = search_anything(params, {**step, "y": jnp.array([[4.0, value]])})
        assert_identical(result.params, params)
        assert result.fraction == 0.0
        assert result.info["root"] == 1.0


def test_vmapped_lanes_search_as_if_alone():
    params, step = search_inputs()
    masks = np.array(list(itertools.product([False, True], repeat=MAX_BACKTRACKS)))
    lanes = len(masks)
    many_params, many_step = jax.tree.map(
        lambda x: jnp.tile(x, (lanes,) + (1,) * x.ndim), (params, step)
    )
    # Two lanes' steps are poisoned: they keep their parameters, whatever their mask says.
    many_step["x"] = many_step["x"].at[jnp.array([4, lanes - 1])].set(jnp.nan)
    result = jax.vmap(search, in_axes=(0, 0, None, 0))(many_params, many_step, 0.7, masks)
    for i, mask in enumerate(masks):
        lane = jax.tree.map(lambda x, i=i: x[i], result.params)
        if i in (4, lanes - 1) or not mask.any():
            assert_identical(lane, params)
            assert result.fraction[i] == 0.0
        else:
            fraction = 0.7 ** int(np.argmax(mask))
            expected = jax.tree.map(lambda p, s, f=fraction: p + f * s, params, step)
            np.testing.assert_allclose(flatten(lane), flatten(expected), rtol=1e-14)
            np.testing.assert_allclose(result.fraction[i], fraction, rtol=1e-14)


def test_line_search_keeps_the_dtype_of_the_parameters():
    """Single-precision parameters stay so, though the step is in double precision."""
    params, step = {"x": jnp.zeros(3, jnp.float32)}, {"x": jnp.full(3, 0.1)}
    result = search_anything(params, step)
    assert result.params["x"].dtype == jnp.float32
    np.testing.assert_array_equal(result.params["x"], np.full(3, 0.1, np.float32))


@pytest.mark.parametrize("num_actions", [2, 3])
@pytest.mark.parametrize("hidden", [(3,), (3, 4)])
def test_products_go_layer_by_layer_too(num_actions, hidden):
    mlp = MLP(hidden, num_actions, jnp.tanh, output_scale=1.0)
    params, obs, weight = random_mlp(mlp, num_samples=5)

    @jax.jit
    def matrices(params, obs, weight):
        return [
            as_matrix(
                curvature.gauss_newton_product(
                    lambda params: Categorical(mlp.apply(params, obs)),
                    params,
                    weight,
                    0.1,
                    jacobian=jacobian,
                ),
                params,
            )
            for jacobian in (linearized, layerwise)
        ]

    whole, by_layer = matrices(params, obs, weight)
    np.testing.assert_allclose(by_layer, whole, rtol=0, atol=1e-12)


def test_layerwise_parts_are_those_of_the_jacobian():
    mlp = MLP((3,), 3, jnp.tanh, output_scale=1.0)
    params, obs, _ = random_mlp(mlp, num_samples=4)
    flat, unravel = ravel_pytree(params)
    direction = np.arange(flat.size, dtype=float)

    def differences(x):
        logits = mlp.apply(unravel(x), obs)
        return logits[:, :-1] - logits[:, -1:]

    @jax.jit
    def parts(params, cotangent):
        distribution, push, pull = layerwise(
            lambda params: Categorical(mlp.apply(params, obs)), params, 4
        )
        tangent, pulled = push(unravel(direction)).logits, pull(Categorical(cotangent))
        return distribution.logits, mlp.apply(params, obs), tangent, ravel_pytree(pulled)[0]

    matrix = np.asarray(jax.jit(jax.jacobian(differences))(flat))
    cotangent = np.random.default_rng(1).normal(size=(4, 3))
    cotangent -= cotangent.mean(axis=1, keepdims=True)
    found, logits, tangent, pulled = parts(params, cotangent)
    np.testing.assert_array_equal(found, logits)
    np.testing.assert_allclose(tangent[:, :-1], matrix @ direction, atol=1e-12)
    np.testing.assert_array_equal(tangent[:, -1], 0.0)
    expected = np.einsum("bm,bmi->i", cotangent[:, :-1], matrix)
    np.testing.assert_allclose(pulled, expected, atol=1e-12)


@functools.partial(jax.jit, static_argnums=(0, 1))
def random_mlp(mlp, num_samples):
    keys = jax.random.split(jax.random.key(0), 4)
    params = mlp.init(keys[0], jnp.zeros(2))
    flat, unravel = ravel_pytree(params)
    params = unravel(flat + jax.random.normal(keys[1], flat.shape))  # biases too
    obs = jax.random.normal(keys[2], (num_samples, 2))
    return params, obs, jax.random.uniform(keys[3], (num_samples,), minval=0.2)
