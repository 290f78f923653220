"""Advantages that nothing but a wandering critic tells apart are not stretched to deviation 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejax_po import advantages
from purejax_po.algorithms import natural
from purejax_po.algorithms.critics import Estimates
from purejax_po.types import Transition

T, N = 8, 4
NOISE = jax.random.normal(jax.random.key(0), (T, N))


def rollout(spread, value, *, reward=None, terminated=None, weight=None):
    """Estimates of a critic near `value` with so much noise, and the transitions they are of."""
    advantage = spread * NOISE
    estimates = Estimates(jnp.full((T, N), value), advantage, advantage + value)
    some = jnp.zeros((T, N))
    transition = Transition(
        obs=some,
        action=some,
        reward=jnp.ones((T, N)) if reward is None else reward,
        next_obs=some,
        terminated=jnp.zeros((T, N), bool) if terminated is None else terminated,
        truncated=jnp.zeros((T, N), bool),
        start=jnp.zeros((T, N), bool),
        behaviour=None,
        weight=jnp.ones((T, N)) if weight is None else weight,
    )
    return estimates, transition


def deviation(x):
    return float(np.std(x))


@pytest.mark.parametrize(
    "evidence",
    [
        {"reward": jnp.ones((T, N)).at[0, 0].set(2.0)},
        {"terminated": jnp.zeros((T, N), bool).at[3, 1].set(True)},
    ],
)
def test_with_evidence_they_are_standardised_to_the_bit(evidence):
    estimates, transition = rollout(1e-6, 50.0, **evidence)
    found, factor = natural.standardized(estimates, transition)
    expected = advantages.normalize(estimates.advantage, transition.weight)
    np.testing.assert_array_equal(found, expected)
    assert factor == 1.0


def test_without_evidence_a_small_spread_keeps_its_share_of_the_resolution():
    estimates, transition = rollout(0.05, 50.0)
    found, factor = natural.standardized(estimates, transition)
    size = float(np.sqrt(np.mean(np.square(estimates.value_target))))
    share = deviation(estimates.advantage) / (natural.RESOLUTION * size)
    np.testing.assert_allclose(factor, share, rtol=1e-5)
    np.testing.assert_allclose(deviation(found), share, rtol=1e-5)
    assert 0.05 < share < 0.2


def test_without_evidence_a_large_spread_counts():
    """It may hold what the critic learned from earlier rewards."""
    estimates, transition = rollout(5.0, 50.0)
    found, factor = natural.standardized(estimates, transition)
    assert factor == 1.0
    np.testing.assert_allclose(deviation(found), 1.0, rtol=1e-5)


def test_no_spread_is_no_step():
    estimates, transition = rollout(0.0, 50.0)
    found, factor = natural.standardized(estimates, transition)
    assert factor == 0.0
    np.testing.assert_array_equal(found, 0.0)


def test_padding_is_no_evidence():
    weight = jnp.ones((T, N)).at[0].set(0.0)
    reward = jnp.ones((T, N)).at[0].set(7.0)
    terminated = jnp.zeros((T, N), bool).at[0].set(True)
    padded = rollout(0.01, 50.0, reward=reward, terminated=terminated, weight=weight)
    assert natural.standardized(*padded)[1] < 0.1
