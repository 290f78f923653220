"""The weights Ψ_t of the policy gradient E[Σ_t Ψ_t ∇log π(a_t|s_t)], and what is done to them.

Pure functions of rewards, values and the two kinds of episode end, all `[T, ...]`. The Monte-Carlo
ones (`total_return`, `reward_to_go`, `baseline`) are right for episodes that are whole; the others
bootstrap (`q_value`, `td_residual`, `gae`). At the end those of GRPO: an output's return beside the
others of its group.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from purejax_po._xla.recurrence import discounted_sum
from purejax_po.types import Array


class Evidence(NamedTuple):
    """The inputs of an estimate of the advantage; all except γ and λ `[T, ...]`."""

    reward: Array
    """The first row starts episodes where an estimate is a Monte-Carlo one."""
    value: Array
    """V(obs_t)."""
    next_value: Array
    """V(next_obs_t), of the true successor."""
    terminated: Array
    """bool: the successor's value is 0."""
    truncated: Array
    """bool: the episode was cut; nothing is added for what follows."""
    discount: Array | float
    """γ in [0, 1]."""
    gae_lambda: Array | float = 1.0
    """λ in [0, 1]."""


def total_return(evidence: Evidence) -> Array:
    """The return of the whole episode, the same at each of its steps.

    Ψ_t = Σ_{t'≥0} γ^{t'} r_{t'}, t' counted from the episode's start.

    Source: Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
    Estimation, section 2, weight 1.
    """
    to_go = reward_to_go(evidence)
    ended = evidence.terminated | evidence.truncated

    def forward(
        state: tuple[Array, Array], x: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        episode_return, start = state
        to_go_t, ended_t = x
        episode_return = jnp.where(start, to_go_t, episode_return)
        return (episode_return, ended_t), episode_return

    begin = jnp.zeros_like(to_go[0]), jnp.ones_like(ended[0])
    return jax.lax.scan(forward, begin, (to_go, ended))[1]


def reward_to_go(evidence: Evidence) -> Array:
    """The return from here on: Ψ_t = Σ_{t'≥t} γ^{t'−t} r_{t'}, until the episode ends.

    Source: Schulman et al. 2016, section 2, weight 2.
    """
    reward, _, _, terminated, truncated, discount, _ = evidence
    chex.assert_equal_shape([reward, terminated, truncated])
    chex.assert_type([terminated, truncated], bool)
    return discounted_sum(reward, jnp.where(terminated | truncated, 0.0, discount))


def baseline(evidence: Evidence) -> Array:
    """Ψ_t = Σ_{t'≥t} γ^{t'−t} r_{t'} − V(obs_t).

    Source: Schulman et al. 2016, section 2, weight 3.
    """
    chex.assert_equal_shape([evidence.reward, evidence.value])
    return reward_to_go(evidence) - evidence.value


def q_value(evidence: Evidence) -> Array:
    """One-sample estimate of Q: Ψ_t = r_t + γ(1 − terminated_t)V(next_obs_t).

    Source: Schulman et al. 2016, section 2, weight 4.
    """
    reward, _, next_value, terminated, _, discount, _ = evidence
    chex.assert_equal_shape([reward, next_value, terminated])
    chex.assert_type(terminated, bool)
    return reward + discount * jnp.where(terminated, 0.0, next_value)


def td_residual(evidence: Evidence) -> Array:
    """δ_t = r_t + γ(1 − terminated_t)V(next_obs_t) − V(obs_t).

    Source: Schulman et al. 2016, section 2, weight 6.
    """
    chex.assert_equal_shape([evidence.reward, evidence.value])
    return q_value(evidence) - evidence.value


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    discount: Array | float,
    gae_lambda: Array | float,
) -> Array:
    """Generalised advantage estimates; of an `Evidence`, whose fields these are, `gae(*evidence)`.

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

    Example:
        >>> import jax.numpy as jnp
        >>> from purejax_po.advantages import gae
        >>> reward, value, no = jnp.ones(3), jnp.zeros(3), jnp.zeros(3, bool)
        >>> gae(reward, value, value, no, no, 1.0, 1.0).tolist()
        [3.0, 2.0, 1.0]
    """
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    chex.assert_type([terminated, truncated], bool)
    delta = td_residual(Evidence(reward, value, next_value, terminated, truncated, discount))
    decay = jnp.where(terminated | truncated, 0.0, discount * gae_lambda)
    return discounted_sum(delta, decay)


ESTIMATORS: dict[str, Callable[[Evidence], Array]] = {
    "total_return": total_return,
    "reward_to_go": reward_to_go,
    "baseline": baseline,
    "q_value": q_value,
    "td_residual": td_residual,
    "advantage": lambda evidence: gae(*evidence),
}
"""The weights Ψ by name, `[T, ...]`."""


def outcome(reward: Array, valid: Array, discount: Array | float) -> Array:
    """Return of each output: Σ_t γᵗ r_t over its valid steps, `[N]`, of rewards `[T, N]`."""
    chex.assert_equal_shape([reward, valid])
    factor = jnp.power(discount, jnp.arange(len(reward), dtype=reward.dtype))
    return jnp.sum(jnp.where(valid > 0, factor[:, None] * reward, 0.0), axis=0)


GroupEstimator = Callable[[Array, Array], Array]
"""`(outcome [B, G], valid [B, G]) → advantages [B, G]` of B groups of G outputs.

`outcome` is what each output earned; those that are not `valid`, bool, are left out of the group
and get 0.
"""


def zscore(epsilon: Array | float) -> GroupEstimator:
    """Return (r − mean)/(std + ε) over the group, std with G in its denominator.

    It sums to 0 over each group, and is 0 exactly where all its rewards are equal.

    Args:
        epsilon: ε > 0, outside the square root.

    Source: Shao et al. 2024, DeepSeekMath, section 4.1.2.
    """

    def estimate(outcome: Array, valid: Array) -> Array:
        difference = centred(outcome, valid)
        variance = jnp.sum(jnp.square(difference), axis=-1, keepdims=True) / _count(valid)
        return difference / (jnp.sqrt(variance) + epsilon)

    return estimate


def centred(outcome: Array, valid: Array) -> Array:
    """R − mean over the group; arguments as `GroupEstimator`.

    Source: Liu et al. 2025, Understanding R1-Zero-Like Training, section 3.
    """
    chex.assert_equal_shape([outcome, valid])
    first = jnp.take_along_axis(outcome, jnp.argmax(valid, axis=-1)[..., None], axis=-1)
    # Relative to one of them: equal rewards leave nothing, not even a rounding error.
    relative = jnp.where(valid, outcome - first, 0.0)
    mean = jnp.sum(relative, axis=-1, keepdims=True) / _count(valid)
    return jnp.where(valid, relative - mean, 0.0)


def leave_one_out(outcome: Array, valid: Array) -> Array:
    """R − mean over the rest of the group, (r − mean)·G/(G − 1); arguments as `GroupEstimator`.

    Source: Kool et al. 2019, Buy 4 REINFORCE Samples, Get a Baseline for Free.
    """
    count = _count(valid)
    return centred(outcome, valid) * count / jnp.maximum(count - 1.0, 1.0)


def softmax(temperature: Array | float) -> GroupEstimator:
    """Return exp(r/τ)/Σ exp(r/τ) − 1/G over the group, τ > 0 the temperature."""

    def estimate(outcome: Array, valid: Array) -> Array:
        share = jax.nn.softmax(outcome / temperature, axis=-1, where=valid)
        uniform = jnp.where(valid, 1.0, 0.0) / _count(valid)
        differs = spread(outcome, valid)[..., None]
        return jnp.where(differs, jnp.where(valid, share, 0.0) - uniform, 0.0)

    return estimate


def spread(outcome: Array, valid: Array) -> Array:
    """Whether the valid rewards of a group differ, `[B]`: only then does it teach anything."""
    highest = jnp.max(jnp.where(valid, outcome, -jnp.inf), axis=-1)
    return highest > jnp.min(jnp.where(valid, outcome, jnp.inf), axis=-1)


GROUP_ESTIMATORS: dict[str, Callable[[Any], GroupEstimator]] = {
    "zscore": lambda hyperparams: zscore(hyperparams.advantage_eps),
    "centred": lambda hyperparams: centred,
    "rloo": lambda hyperparams: leave_one_out,
    "softmax": lambda hyperparams: softmax(hyperparams.temperature),
}
"""Group-relative advantages by name: each is made of the hyperparameters it has of its own."""


def length_weights(valid: Array, normalization: str) -> Array:
    """Weight of each step in the loss of GRPO, `[T, N]`; N outputs of lengths |o|.

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


def _count(valid: Array) -> Array:
    """Valid outputs of each group, at least 1, `[B, 1]`."""
    return jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True, dtype=jnp.result_type(float)), 1.0)
