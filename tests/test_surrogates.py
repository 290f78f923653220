"""Surrogates: values by hand, where gradients vanish, and when β changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejax_po import surrogates

pytestmark = pytest.mark.usefixtures("compile_quickly")

EPS = 0.2
RATIOS = jnp.array([0.1, 0.5, 0.79, 0.81, 0.95, 1.0, 1.05, 1.19, 1.21, 1.5, 3.0])
ADVANTAGES = jnp.array([-2.0, -0.5, 0.5, 2.0])


@pytest.fixture(scope="module")
def grid():
    ratio, advantage = jnp.meshgrid(RATIOS, ADVANTAGES)
    return ratio.ravel(), advantage.ravel()


def test_clip_by_hand(subtests):
    for ratio, advantage, expected in [
        (1.5, 1.0, 1.2),  # better and already likelier by more than ε: clipped
        (0.5, 1.0, 0.5),  # better but less likely: not clipped
        (0.5, -1.0, -0.8),  # worse and already less likely: clipped at 1−ε
        (1.5, -1.0, -1.5),  # worse but likelier: not clipped
        (1.0, 3.0, 3.0),
    ]:
        with subtests.test(f"{ratio} {advantage}"):
            value = surrogates.clip(jnp.float32(ratio), jnp.float32(advantage), EPS)
            np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_the_gradient_vanishes_exactly_where_clipping_would_help(grid):
    ratio, advantage = grid
    gradient = jax.vmap(jax.grad(surrogates.clip), (0, 0, None))(ratio, advantage, EPS)
    clipped = ((advantage > 0) & (ratio > 1 + EPS)) | ((advantage < 0) & (ratio < 1 - EPS))
    np.testing.assert_array_equal(gradient == 0, clipped)
    np.testing.assert_array_equal(gradient[~clipped], advantage[~clipped])
    assert clipped.any()
    assert (~clipped).any()


def test_clip_is_a_lower_bound_and_tight_at_one(grid):
    ratio, advantage = grid
    value = surrogates.clip(ratio, advantage, EPS)
    assert (value <= ratio * advantage).all()
    np.testing.assert_array_equal(value[ratio == 1], advantage[ratio == 1])


@pytest.mark.parametrize("clip_eps", [1e6, jnp.inf])
def test_a_boundless_epsilon_gives_the_unclipped_surrogate(grid, clip_eps):
    ratio, advantage = grid
    np.testing.assert_array_equal(surrogates.clip(ratio, advantage, clip_eps), ratio * advantage)
    gradient = jax.vmap(jax.grad(surrogates.clip), (0, 0, None))(ratio, advantage, clip_eps)
    np.testing.assert_array_equal(gradient, advantage)


def test_clip_refuses_shapes_that_would_broadcast():
    with pytest.raises(AssertionError, match="shape"):
        surrogates.clip(jnp.ones((3, 1)), jnp.ones(3), EPS)


# --- the other objectives ------------------------------------------------------------------------


def test_clip_only_has_no_gradient_outside_the_interval(grid):
    """Also where stepping back would help: that is what `clip` repairs."""
    ratio, advantage = grid
    gradient = jax.vmap(jax.grad(surrogates.clip_only), (0, 0, None))(ratio, advantage, EPS)
    outside = jnp.abs(ratio - 1) > EPS
    np.testing.assert_array_equal(gradient, jnp.where(outside, 0.0, advantage))
    np.testing.assert_array_equal(surrogates.clip_only(ratio, advantage, 1e6), ratio * advantage)


def test_the_penalty_is_subtracted_and_a_weight_of_zero_takes_it_away(grid):
    ratio, advantage = grid
    kl = jnp.linspace(0.0, 1.0, len(ratio))
    found = surrogates.fixed_kl(ratio, advantage, kl, 3.0)
    np.testing.assert_allclose(found, ratio * advantage - 3.0 * kl, rtol=1e-6)
    np.testing.assert_array_equal(
        surrogates.fixed_kl(ratio, advantage, kl, 0.0), surrogates.unclipped(ratio, advantage)
    )


def test_beta_is_halved_or_doubled_beyond_the_thresholds_alone(subtests):
    for kl, expected in [
        (0.0, 1.0),
        (1.99, 1.0),
        (2.0, 2.0),  # equal to the target over 1.5: unchanged
        (3.0, 2.0),
        (4.5, 2.0),  # equal to 1.5 times the target: unchanged
        (4.51, 4.0),
        (1e9, 4.0),
    ]:
        with subtests.test(f"{kl}"):
            assert surrogates.adapt_kl_coef(jnp.float32(2.0), jnp.float32(kl), 3.0) == expected


def test_beta_never_underflows_and_zero_stays_zero():
    beta, small = jnp.float32(1.0), jnp.float32(0.0)
    for _ in range(200):
        beta = surrogates.adapt_kl_coef(beta, small, 3.0)
    assert 0.0 < beta < 1e-37
    assert surrogates.adapt_kl_coef(beta, jnp.float32(9.0), 3.0) == 2.0 * beta
    assert surrogates.adapt_kl_coef(small, small, 3.0) == 0.0


def test_the_score_has_no_gradient_through_its_weight():
    def through_both(x):
        return surrogates.score(2.0 * x, jnp.square(x))

    value, gradient = jax.value_and_grad(through_both)(jnp.float32(3.0))
    assert value == 54.0
    assert gradient == 18.0


def test_the_table_passes_each_objective_what_it_needs(grid):
    ratio, advantage = grid
    kl, beta = jnp.square(ratio), 0.7
    of = surrogates.Change(ratio, advantage, kl, EPS, beta)
    expected = {
        "clip": surrogates.clip(ratio, advantage, EPS),
        "clip_only": surrogates.clip_only(ratio, advantage, EPS),
        "unclipped": surrogates.unclipped(ratio, advantage),
        "fixed_kl": surrogates.fixed_kl(ratio, advantage, kl, beta),
        "adaptive_kl": surrogates.fixed_kl(ratio, advantage, kl, beta),
    }
    assert expected.keys() == surrogates.OBJECTIVES.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(surrogates.OBJECTIVES[name](of), value)
