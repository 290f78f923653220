"""Distributions against scipy, enumeration and integration; samples against their laws."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from jax.flatten_util import ravel_pytree

from purejax_po.distributions import Categorical, DiagonalGaussian, Product, TanhGaussian

pytestmark = pytest.mark.usefixtures("compile_quickly")

FAILURE = 1e-6  # the probability that a statistical test fails by chance
NUM_SAMPLES = 20_000
KINDS = ["categorical", "gaussian", "product"]


def make(kind, seed, batch=()):
    """A random distribution with leading batch axes (drawn by numpy: nothing to compile)."""
    rng = np.random.default_rng(seed)
    if kind == "categorical":
        return Categorical(jnp.asarray(1.5 * rng.normal(size=(*batch, 4))))
    if kind == "gaussian":
        mean, log_std = rng.normal(size=(2, *batch, 3))
        return DiagonalGaussian(jnp.asarray(mean), jnp.asarray(0.5 * log_std))
    logits = [rng.normal(size=(*batch, n)) for n in (2, 3)]
    return Product(tuple(Categorical(jnp.asarray(x)) for x in logits))


@pytest.fixture(scope="module")
def samples():
    """For each kind the distribution `make(kind, 5)` and many actions drawn from it."""
    drawn = {}
    for kind in KINDS:
        p = make(kind, 5)
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (NUM_SAMPLES, *x.shape)), p)
        drawn[kind] = p, jax.jit(type(p).sample)(many, jax.random.key(0))
    return drawn


def joint_table(product):
    """Probabilities of every combination of the factors' actions."""
    tables = [scipy.special.softmax(np.asarray(f.logits)) for f in product.factors]
    return {
        actions: math.prod(t[a] for t, a in zip(tables, actions, strict=True))
        for actions in itertools.product(*(range(len(t)) for t in tables))
    }


def hoeffding(num_samples, num_comparisons):
    """The largest error of `num_comparisons` frequencies, but for the chance of `FAILURE`."""
    return math.sqrt(math.log(2 * num_comparisons / FAILURE) / (2 * num_samples))


# --- log_prob, entropy and KL ------------------------------------------------------------------


def test_categorical_against_scipy(x64):
    p, q = make("categorical", 0), make("categorical", 1)
    p_table, q_table = (scipy.special.softmax(np.asarray(d.logits)) for d in (p, q))
    np.testing.assert_allclose(
        [p.log_prob(jnp.int32(a)) for a in range(4)], np.log(p_table), rtol=1e-12
    )
    np.testing.assert_allclose(p.entropy(), scipy.stats.entropy(p_table), rtol=1e-12)
    np.testing.assert_allclose(p.kl(q), scipy.stats.entropy(p_table, q_table), rtol=1e-12)
    assert p.mode() == np.argmax(p_table)


def test_a_categorical_of_one_action_is_certain():
    only = Categorical(jnp.array([3.7]))
    assert only.sample(jax.random.key(0)) == 0
    assert only.log_prob(jnp.int32(0)) == 0.0
    assert only.entropy() == 0.0


def test_gaussian_against_scipy_and_integration(x64):
    p, q = make("gaussian", 0), make("gaussian", 1)
    p_std, q_std = np.exp(p.log_std), np.exp(q.log_std)
    action = np.array([0.3, -1.2, 2.0])
    expected = scipy.stats.norm.logpdf(action, p.mean, p_std).sum()
    np.testing.assert_allclose(p.log_prob(jnp.asarray(action)), expected, rtol=1e-12)
    entropy = scipy.stats.multivariate_normal(p.mean, np.diag(p_std**2)).entropy()
    np.testing.assert_allclose(p.entropy(), entropy, rtol=1e-12)

    kl = 0.0
    for d in range(3):
        first = scipy.stats.norm(p.mean[d], p_std[d])
        second = scipy.stats.norm(q.mean[d], q_std[d])

        def integrand(x, first=first, second=second):
            return first.pdf(x) * (first.logpdf(x) - second.logpdf(x))

        low, high = p.mean[d] - 12 * p_std[d], p.mean[d] + 12 * p_std[d]
        kl += scipy.integrate.quad(integrand, low, high, epsabs=1e-12)[0]
    np.testing.assert_allclose(p.kl(q), kl, rtol=1e-9)
    np.testing.assert_array_equal(p.mode(), p.mean)


def test_product_against_its_joint_table(x64):
    p, q = make("product", 0), make("product", 1)
    p_table, q_table = joint_table(p), joint_table(q)
    for actions, probability in p_table.items():
        log_prob = p.log_prob(jnp.array(actions))
        np.testing.assert_allclose(log_prob, math.log(probability), rtol=1e-12)
    values = list(p_table.values())
    np.testing.assert_allclose(p.entropy(), scipy.stats.entropy(values), rtol=1e-12)
    expected = scipy.stats.entropy(values, list(q_table.values()))
    np.testing.assert_allclose(p.kl(q), expected, rtol=1e-12)
    assert tuple(np.asarray(p.mode())) == max(p_table, key=p_table.get)


@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_zero_to_itself_and_positive_to_others(kind, x64):
    p, q = make(kind, 0, (200,)), make(kind, 1, (200,))
    np.testing.assert_array_equal(p.kl(p), np.zeros(200))
    assert (p.kl(q) > 0).all()
    # At a distance of 1e-5 the KL is about 1e-10: still not negative.
    near = jax.tree.map(lambda x, y: x + 1e-5 * y, p, q)
    assert (p.kl(near) >= 0).all()


def test_gaussian_kl_of_neighbours_keeps_its_digits_in_single_precision():
    p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
    q = DiagonalGaussian(jnp.full(1, 1e-4), jnp.full(1, 1e-4))
    # Second order: ½ (vᵀ diag(1, 2) v) = 1.5e-8, which 1 + x − 1 would round to nothing.
    np.testing.assert_allclose(p.kl(q), 1.5e-8, rtol=5e-3)


# --- Fisher --------------------------------------------------------------------------------------


def fisher_matrix(flat, unravel):
    """The columns `fisher_product` makes of the basis vectors."""
    p, identity = unravel(flat), jnp.eye(flat.size, dtype=flat.dtype)
    return jax.vmap(lambda v: ravel_pytree(p.fisher_product(unravel(v)))[0])(identity)


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_product_is_the_hessian_of_the_kl(kind, x64):
    p = make(kind, 2)
    flat, unravel = ravel_pytree(p)

    @jax.jit
    def matrices(flat):
        hessian = jax.hessian(lambda x: p.kl(unravel(x)))(flat)
        return hessian, fisher_matrix(flat, unravel)

    hessian, fisher = matrices(flat)
    np.testing.assert_allclose(fisher, hessian, atol=1e-12)
    np.testing.assert_allclose(fisher, fisher.T, atol=1e-12)
    assert np.linalg.eigvalsh(fisher).min() > -1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_half_the_fisher_form_to_second_order(kind, x64):
    p, v = make(kind, 2), make(kind, 3)
    product = p.fisher_product(v)
    pairs = zip(jax.tree.leaves(v), jax.tree.leaves(product), strict=True)
    half_form = 0.5 * sum(np.vdot(x, y) for x, y in pairs)
    for h in (1e-3, 1e-4):
        kl = p.kl(jax.tree.map(lambda x, d, h=h: x + h * d, p, v))
        np.testing.assert_allclose(kl / h**2, half_form, rtol=20 * h)


@pytest.mark.parametrize("kind", KINDS)
def test_expected_score_is_zero_and_its_covariance_is_the_fisher(kind, samples):
    p, actions = samples[kind]
    flat, unravel = ravel_pytree(p)

    @jax.jit
    def scores(flat, actions):
        score = jax.vmap(jax.grad(lambda x, a: unravel(x).log_prob(a)), (None, 0))(flat, actions)
        return score, fisher_matrix(flat, unravel)

    score, fisher = map(np.asarray, scores(flat, actions))
    quantile = scipy.stats.norm.isf(FAILURE / (2 * fisher.size))
    error = quantile / math.sqrt(NUM_SAMPLES)
    assert (abs(score.mean(0)) <= error * score.std(0) + 1e-5).all()
    products = score[:, :, None] * score[:, None, :]
    assert (abs(products.mean(0) - fisher) <= error * products.std(0) + 1e-5).all()


# --- samples -------------------------------------------------------------------------------------


def test_categorical_frequencies(samples):
    p, actions = samples["categorical"]
    assert actions.dtype == jnp.int32
    frequency = np.bincount(actions, minlength=4) / NUM_SAMPLES
    expected = scipy.special.softmax(np.asarray(p.logits))
    np.testing.assert_allclose(frequency, expected, atol=hoeffding(NUM_SAMPLES, 4))


def test_product_frequencies(samples):
    p, actions = samples["product"]
    bound = hoeffding(NUM_SAMPLES, 6)
    for combination, probability in joint_table(p).items():
        frequency = np.mean(np.all(np.asarray(actions) == combination, axis=-1))
        assert abs(frequency - probability) < bound


def test_gaussian_samples_follow_the_law(samples):
    p, actions = samples["gaussian"]
    standardised = (np.asarray(actions) - np.asarray(p.mean)) / np.exp(p.log_std)
    for d in range(3):
        assert scipy.stats.kstest(standardised[:, d], "norm").pvalue > FAILURE
    correlation = np.corrcoef(standardised.T)[np.triu_indices(3, 1)]
    assert abs(correlation).max() < scipy.stats.norm.isf(FAILURE / 6) / math.sqrt(NUM_SAMPLES)


@pytest.mark.parametrize("num_actions", [2, 8, 18])
def test_an_action_of_probability_zero_is_never_drawn(num_actions):
    """Not even by the noise that meets an edge of the cumulative distribution, to the last bit."""
    num_distributions = 500
    rng = np.random.default_rng(num_actions)
    shape = num_distributions, num_actions
    impossible = rng.random(shape) < 0.5
    impossible[np.arange(num_distributions), np.arange(num_distributions) % num_actions] = False
    lowest = np.where(rng.random(shape) < 0.5, -math.inf, -1e9)
    logits = jnp.asarray(np.where(impossible, lowest, rng.normal(size=shape)), jnp.float32)

    cumulative = np.asarray(jnp.cumsum(jax.nn.softmax(logits), axis=-1))
    edges = (cumulative / cumulative[:, -1:]).view(np.int32)
    nearby = [np.maximum(edges + d, 0).view(np.float32) for d in range(-2, 3)]
    noise = np.concatenate([*nearby, np.zeros(shape), rng.random(shape)], axis=-1)
    largest = 1.0 - 2.0**-23  # of jax.random.uniform in single precision
    noise = np.clip(noise, 0.0, largest).astype(np.float32)

    sample = jax.jit(jax.vmap(lambda noise: Categorical(logits).sample_from(noise), 1, 1))
    actions = np.asarray(sample(noise))
    assert not np.take_along_axis(impossible, actions, axis=-1).any()
    assert set(np.unique(actions)) == set(range(num_actions))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_made_of_noise_alone(kind):
    p, key = make(kind, 6, (5, 2)), jax.random.key(7)
    noise = p.noise(key)
    np.testing.assert_array_equal(p.sample(key), p.sample_from(noise))
    # Only shapes decide the noise: the rollout draws it before there is a distribution.
    abstract = jax.eval_shape(lambda: p)
    np.testing.assert_array_equal(abstract.noise(key), noise)
    assert p.log_prob(p.sample(key)).shape == (5, 2)
    assert p.sample(key).shape == p.mode().shape
    assert p.entropy().shape == p.kl(p).shape == (5, 2)


# --- the squashed Gaussian -----------------------------------------------------------------------


def squashed(kind=TanhGaussian):
    """Two one-dimensional distributions, the second one's mass near a bound."""
    p = kind(jnp.array([0.3]), jnp.array([-0.4]))
    q = kind(jnp.array([1.1]), jnp.array([0.2]))
    return p, q


def squashed_density(p, y):
    """The density of tanh(u) at y by a numerical derivative of its distribution function."""
    normal = scipy.stats.norm(float(p.mean[0]), float(np.exp(p.log_std[0])))
    h = 1e-5 * (1.0 - y**2)
    return (normal.cdf(np.arctanh(y + h)) - normal.cdf(np.arctanh(y - h))) / (2 * h)


def test_squashed_log_prob_is_the_density_of_the_tanh(x64):
    for p in squashed():
        y = np.array([-0.95, -0.5, 0.0, 0.3, 0.9, 0.99])
        found = [p.squashed_log_prob(jnp.array([np.arctanh(v)])) for v in y]
        np.testing.assert_allclose(np.exp(found), squashed_density(p, y), rtol=1e-6)
        total, _ = scipy.integrate.quad(
            lambda v, p=p: float(jnp.exp(p.squashed_log_prob(jnp.arctanh(jnp.array([v]))))), -1, 1
        )
        np.testing.assert_allclose(total, 1.0, rtol=1e-6)
    # Far out the tanh is 1 to the last bit, its derivative 0: the density stays finite.
    p, _ = squashed()
    far = p.squashed_log_prob(jnp.array([40.0]))
    np.testing.assert_allclose(far, p.log_prob(jnp.array([40.0])) + 80.0 - math.log(4.0))


def test_ratios_and_kl_are_those_of_the_squashed_actions(x64):
    """The Jacobian cancels: ratio and KL before the tanh are those after it, by quadrature."""
    p, q = squashed()
    y = np.array([-0.95, -0.5, 0.0, 0.3, 0.9, 0.99])
    u = jnp.arctanh(jnp.asarray(y))[:, None]
    ratio = np.exp(q.log_prob(u) - p.log_prob(u))
    np.testing.assert_allclose(ratio, squashed_density(q, y) / squashed_density(p, y), rtol=1e-6)

    def integrand(y):
        first, second = squashed_density(p, y), squashed_density(q, y)
        return first * np.log(first / second) if first > 0 else 0.0

    kl, _ = scipy.integrate.quad(integrand, -1 + 1e-9, 1 - 1e-9, limit=400)
    np.testing.assert_allclose(p.kl(q), kl, rtol=1e-5)


def test_entropy_is_that_before_the_tanh(x64):
    """H(tanh u) = H(u) + E[log(1 − tanh²u)], by quadrature."""
    for p in squashed():
        normal = scipy.stats.norm(float(p.mean[0]), float(np.exp(p.log_std[0])))
        np.testing.assert_allclose(p.entropy(), normal.entropy(), rtol=1e-12)

        def entropy(u, normal=normal, p=p):
            return -normal.pdf(u) * float(p.squashed_log_prob(jnp.array([u])))

        after, _ = scipy.integrate.quad(entropy, -12, 12)
        correction = normal.expect(lambda u: np.log1p(-(np.tanh(u) ** 2)), lb=-12, ub=12)
        np.testing.assert_allclose(after, normal.entropy() + correction, rtol=1e-6)


def test_a_squashed_gaussian_is_the_gaussian_but_for_the_squashing():
    p, q = squashed()
    gaussians = squashed(DiagonalGaussian)
    action = p.sample(jax.random.key(0))
    for method, argument in (("log_prob", action), ("kl", q), ("sample", jax.random.key(1))):
        expected = getattr(gaussians[0], method)(argument)
        np.testing.assert_array_equal(getattr(p, method)(argument), expected)
    product = p.fisher_product(q)
    assert isinstance(product, TanhGaussian)
    np.testing.assert_array_equal(product, gaussians[0].fisher_product(gaussians[1]))
    assert isinstance(jax.tree.map(jnp.zeros_like, p), TanhGaussian)
    np.testing.assert_allclose(p.squash(p.mode()), np.tanh(p.mean), rtol=1e-6)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_finite_differences(kind, x64):
    p, q = make(kind, 8), make(kind, 9)
    flat, unravel = ravel_pytree(p)
    action = p.sample(jax.random.key(0))

    @jax.jit
    def functions(x):
        r = unravel(x)
        return jnp.stack([r.log_prob(action), r.entropy(), q.kl(r), r.kl(q)])

    steps = 1e-6 * np.eye(flat.size)
    differences = [(functions(flat + h) - functions(flat - h)) / 2e-6 for h in steps]
    jacobian = jax.jit(jax.jacrev(functions))(flat)
    np.testing.assert_allclose(jacobian, np.stack(differences, axis=-1), atol=1e-7)


def test_impossible_actions_leave_everything_finite():
    logits = jnp.array([0.5, -jnp.inf, -0.5])
    p, q = Categorical(logits), Categorical(jnp.array([0.0, 0.0, 1.0]))

    def functions(x):
        return Categorical(x).log_prob(jnp.int32(0)), Categorical(x).entropy(), Categorical(x).kl(q)

    assert np.isfinite(functions(logits)).all()
    assert np.isfinite(p.kl(p))
    for gradient in jax.jacrev(functions)(logits):
        assert np.isfinite(gradient).all()
    assert q.kl(p) == jnp.inf


def test_extreme_parameters_leave_gradients_finite():
    sharp = Categorical(jnp.array([200.0, -200.0]))
    narrow = DiagonalGaussian(jnp.array([1e3]), jnp.array([-10.0]))
    for p, action in ((sharp, jnp.int32(1)), (narrow, jnp.array([1e3 + 1.0]))):
        gradient = jax.grad(lambda p, action=action: p.log_prob(action))(p)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
