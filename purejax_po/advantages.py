"""Advantage estimators: pure functions of rewards, values and the two kinds of episode end."""

import chex
import jax
import jax.numpy as jnp

from purejax_po.types import Array


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    discount: Array | float,
    gae_lambda: Array | float,
) -> Array:
    """Generalised advantage estimates.

    δ_t = r_t + γ(1 − terminated_t)V(next_obs_t) − V(obs_t),
    Â_t = δ_t + γλ(1 − done_t)Â_{t+1}, done = terminated ∨ truncated.

    Args:
        reward, value, next_value: `[T, ...]`; `next_value` is the value of the true successor.
        terminated, truncated: bool `[T, ...]`.
        discount: γ in [0, 1].
        gae_lambda: λ in [0, 1].

    Returns:
        Advantages `[T, ...]`; with the values added, the λ-returns.

    Source: Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
    Estimation, section 3.
    """
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    chex.assert_type([terminated, truncated], bool)
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = jnp.where(terminated | truncated, 0.0, discount * gae_lambda)

    def backward(advantage: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        delta_t, decay_t = x
        advantage = delta_t + decay_t * advantage
        return advantage, advantage

    _, advantage = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantage


def normalize(advantage: Array, weight: Array, epsilon: float = 1e-8) -> Array:
    """Shift and scale advantages to weighted mean 0 and standard deviation 1.

    (Â − mean)/(std + ε), ε outside the square root; samples of weight zero do not count.
    """
    chex.assert_equal_shape([advantage, weight])
    mean = weighted_mean(advantage, weight)
    variance = weighted_mean(jnp.square(advantage - mean), weight)
    return (advantage - mean) / (jnp.sqrt(variance) + epsilon)


def weighted_mean(x: Array, weight: Array) -> Array:
    """Σ w·x / Σ w over all axes; 0 where all weights are 0. A sample of weight 0 may be NaN."""
    chex.assert_equal_shape([x, weight])
    total = jnp.sum(weight)
    weighted = jnp.where(weight > 0, x * weight, 0.0)
    return jnp.sum(weighted) / jnp.where(total > 0, total, 1.0)


def explained_variance(prediction: Array, target: Array, weight: Array) -> Array:
    """1 − Var[target − prediction] / Var[target]: 1 is perfect, 0 no better than a constant."""
    residual = target - prediction

    def variance(x: Array) -> Array:
        return weighted_mean(jnp.square(x - weighted_mean(x, weight)), weight)

    total = variance(target)
    return jnp.where(total > 0, 1.0 - variance(residual) / jnp.where(total > 0, total, 1.0), 0.0)
