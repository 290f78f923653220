"""The clipped surrogate: values by hand, and where its gradient vanishes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejax_po import surrogates

EPS = 0.2
RATIOS = jnp.array([0.1, 0.5, 0.79, 0.81, 0.95, 1.0, 1.05, 1.19, 1.21, 1.5, 3.0])
ADVANTAGES = jnp.array([-2.0, -0.5, 0.5, 2.0])


@pytest.fixture(scope="module")
def grid():
    ratio, advantage = jnp.meshgrid(RATIOS, ADVANTAGES)
    return ratio.ravel(), advantage.ravel()


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.5, 1.0, 1.2),  # better and already likelier by more than ε: clipped
        (0.5, 1.0, 0.5),  # better but less likely: not clipped
        (0.5, -1.0, -0.8),  # worse and already less likely: clipped at 1−ε
        (1.5, -1.0, -1.5),  # worse but likelier: not clipped
        (1.0, 3.0, 3.0),
    ],
)
def test_clip_by_hand(ratio, advantage, expected):
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
