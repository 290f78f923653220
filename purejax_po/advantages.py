"""The weights Ψ_t of the policy gradient E[Σ_t Ψ_t ∇log π(a_t|s_t)], and what is done to them.

Pure functions of rewards, values and the two kinds of episode end, all `[T, ...]`. The Monte-Carlo
ones (`total_return`, `reward_to_go`, `baseline`) are right for episodes that are whole; the others
bootstrap (`q_value`, `td_residual`, `gae`). At the end those of GRPO: an output's return beside the
others of its group.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from purejax_po.types import Array


def total_return(
    reward: Array, terminated: Array, truncated: Array, discount: Array | float
) -> Array:
    """The return of the whole episode, the same at each of its steps.

    Ψ_t = Σ_{t'≥0} γ^{t'} r_{t'}, t' counted from the episode's start.

    Args:
        reward: `[T, ...]`; the first row starts episodes.
        terminated, truncated: bool `[T, ...]`.
        discount: γ in [0, 1].

    Source: Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
    Estimation, section 2, weight 1.
    """
    to_go = reward_to_go(reward, terminated, truncated, discount)
    ended = terminated | truncated

    def forward(state: tuple[Array, Array], x: tuple[Array, Array]) -> tuple[Any, Array]:
        episode_return, start = state
        to_go_t, ended_t = x
        episode_return = jnp.where(start, to_go_t, episode_return)
        return (episode_return, ended_t), episode_return

    begin = jnp.zeros_like(to_go[0]), jnp.ones_like(ended[0])
    return jax.lax.scan(forward, begin, (to_go, ended))[1]


def reward_to_go(
    reward: Array, terminated: Array, truncated: Array, discount: Array | float
) -> Array:
    """What is left of the return: Ψ_t = Σ_{t'≥t} γ^{t'−t} r_{t'}, until the episode ends.

    Args:
        reward: `[T, ...]`; nothing is added for what follows a cut.
        terminated, truncated: bool `[T, ...]`.
        discount: γ in [0, 1].

    Source: Schulman et al. 2016, section 2, weight 2.
    """
    chex.assert_equal_shape([reward, terminated, truncated])
    chex.assert_type([terminated, truncated], bool)
    return _discounted_sum(reward, jnp.where(terminated | truncated, 0.0, discount))


def baseline(
    reward: Array, value: Array, terminated: Array, truncated: Array, discount: Array | float
) -> Array:
    """Ψ_t = Σ_{t'≥t} γ^{t'−t} r_{t'} − V(obs_t); arguments as `reward_to_go` and `gae`.

    Source: Schulman et al. 2016, section 2, weight 3.
    """
    chex.assert_equal_shape([reward, value])
    return reward_to_go(reward, terminated, truncated, discount) - value


def q_value(reward: Array, next_value: Array, terminated: Array, discount: Array | float) -> Array:
    """One-sample estimate of Q: Ψ_t = r_t + γ(1 − terminated_t)V(next_obs_t).

    Args:
        reward, next_value: `[T, ...]`; `next_value` is the value of the true successor.
        terminated: bool `[T, ...]`.
        discount: γ in [0, 1].

    Source: Schulman et al. 2016, section 2, weight 4.
    """
    chex.assert_equal_shape([reward, next_value, terminated])
    chex.assert_type(terminated, bool)
    return reward + discount * jnp.where(terminated, 0.0, next_value)


def td_residual(
    reward: Array, value: Array, next_value: Array, terminated: Array, discount: Array | float
) -> Array:
    """δ_t = r_t + γ(1 − terminated_t)V(next_obs_t) − V(obs_t); arguments as `gae`.

    Source: Schulman et al. 2016, section 2, weight 6.
    """
    chex.assert_equal_shape([reward, value])
    return q_value(reward, next_value, terminated, discount) - value


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
    delta = td_residual(reward, value, next_value, terminated, discount)
    decay = jnp.where(terminated | truncated, 0.0, discount * gae_lambda)
    return _discounted_sum(delta, decay)


Estimator = Callable[[Array, Array, Array, Array, Array, Any, Any], Array]
"""`(reward, value, next_value, terminated, truncated, γ, λ) → Ψ`, all but γ and λ `[T, ...]`."""

ESTIMATORS: dict[str, Estimator] = {
    "total_return": lambda r, v, u, term, trunc, y, lam: total_return(r, term, trunc, y),
    "reward_to_go": lambda r, v, u, term, trunc, y, lam: reward_to_go(r, term, trunc, y),
    "baseline": lambda r, v, u, term, trunc, y, lam: baseline(r, v, term, trunc, y),
    "q_value": lambda r, v, u, term, trunc, y, lam: q_value(r, u, term, y),
    "td_residual": lambda r, v, u, term, trunc, y, lam: td_residual(r, v, u, term, y),
    "advantage": gae,
}
"""The weights Ψ by name."""


def outcome(reward: Array, valid: Array, discount: Array | float) -> Array:
    """Return of each output: Σ_t γᵗ r_t over its valid steps, `[N]`, of rewards `[T, N]`."""
    chex.assert_equal_shape([reward, valid])
    factor = jnp.power(discount, jnp.arange(len(reward), dtype=reward.dtype))
    return jnp.sum(jnp.where(valid > 0, factor[:, None] * reward, 0.0), axis=0)


def zscore(
    outcome: Array, valid: Array, epsilon: Array | float, temperature: Array | float
) -> Array:
    """(r − mean)/(std + ε) over the group, std with G in its denominator.

    Args:
        outcome: r of each output, `[B, G]`: B groups of G.
        valid: bool `[B, G]`; outputs that are not are left out of the group and get 0.
        epsilon: ε > 0, outside the square root.
        temperature: of `softmax`.

    Returns:
        `[B, G]`, summing to 0 over each group, and 0 exactly where all its rewards are equal.

    Source: Shao et al. 2024, DeepSeekMath, section 4.1.2.
    """
    difference = centred(outcome, valid, epsilon, temperature)
    variance = jnp.sum(jnp.square(difference), axis=-1, keepdims=True) / _count(valid)
    return difference / (jnp.sqrt(variance) + epsilon)


def centred(
    outcome: Array, valid: Array, epsilon: Array | float, temperature: Array | float
) -> Array:
    """R − mean over the group; arguments as `zscore`.

    Source: Liu et al. 2025, Understanding R1-Zero-Like Training, section 3.
    """
    chex.assert_equal_shape([outcome, valid])
    first = jnp.take_along_axis(outcome, jnp.argmax(valid, axis=-1)[..., None], axis=-1)
    # Relative to one of them: equal rewards leave nothing, not even a rounding error.
    relative = jnp.where(valid, outcome - first, 0.0)
    mean = jnp.sum(relative, axis=-1, keepdims=True) / _count(valid)
    return jnp.where(valid, relative - mean, 0.0)


def leave_one_out(
    outcome: Array, valid: Array, epsilon: Array | float, temperature: Array | float
) -> Array:
    """R − mean over the rest of the group, (r − mean)·G/(G − 1); arguments as `zscore`.

    Source: Kool et al. 2019, Buy 4 REINFORCE Samples, Get a Baseline for Free.
    """
    count = _count(valid)
    return centred(outcome, valid, epsilon, temperature) * count / jnp.maximum(count - 1.0, 1.0)


def softmax(
    outcome: Array, valid: Array, epsilon: Array | float, temperature: Array | float
) -> Array:
    """exp(r/τ)/Σ exp(r/τ) − 1/G over the group; arguments as `zscore`, τ > 0 the temperature."""
    share = jax.nn.softmax(outcome / temperature, axis=-1, where=valid)
    uniform = jnp.where(valid, 1.0, 0.0) / _count(valid)
    return jnp.where(spread(outcome, valid)[..., None], jnp.where(valid, share, 0.0) - uniform, 0.0)


def spread(outcome: Array, valid: Array) -> Array:
    """Whether the valid rewards of a group differ, `[B]`: only then does it teach anything."""
    highest = jnp.max(jnp.where(valid, outcome, -jnp.inf), axis=-1)
    return highest > jnp.min(jnp.where(valid, outcome, jnp.inf), axis=-1)


GROUP_ESTIMATORS: dict[str, Callable[[Array, Array, Any, Any], Array]] = {
    "zscore": zscore,
    "centred": centred,
    "rloo": leave_one_out,
    "softmax": softmax,
}
"""Group-relative advantages by name: `(rewards [B, G], valid [B, G], ε, τ) → advantages [B, G]`."""


def length_weights(valid: Array, normalization: str) -> Array:
    """What each step counts in the loss of GRPO, `[T, N]`; N outputs of lengths |o|.

    `per_sequence`: 1/(N·|o|); `per_token`: 1/Σ|o|; `constant`: 1/(N·T). Outputs without a valid
    step do not count in N.

    Args:
        valid: weights of the steps, `[T, N]`.
        normalization: one of the three.

    Source: Shao et al. 2024 (`per_sequence`); Yu et al. 2025, DAPO (`per_token`); Liu et al. 2025
    (`constant`).
    """
    length = jnp.sum(valid, axis=0)
    num_outputs = jnp.maximum(jnp.sum(length > 0), 1)
    if normalization == "per_sequence":
        return valid / (num_outputs * jnp.maximum(length, 1.0))
    if normalization == "per_token":
        return valid / jnp.maximum(jnp.sum(length), 1.0)
    return valid / (num_outputs * valid.shape[0])


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


def _discounted_sum(x: Array, decay: Array) -> Array:
    """S_t = x_t + decay_t·S_{t+1}, `[T, ...]`."""

    def backward(total: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        x_t, decay_t = x
        total = x_t + decay_t * total
        return total, total

    return jax.lax.scan(backward, jnp.zeros_like(x[0]), (x, decay), reverse=True)[1]


def _count(valid: Array) -> Array:
    """Valid outputs of each group, at least 1, `[B, 1]`."""
    return jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True, dtype=jnp.result_type(float)), 1.0)
