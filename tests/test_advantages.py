"""Advantage estimation against loops, numbers worked out by hand, and chains of known value."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejax_po import advantages
from purejax_po.advantages import Evidence, explained_variance, gae, normalize, weighted_mean

pytestmark = pytest.mark.usefixtures("compile_quickly")

DISCOUNT, LAMBDA = 0.9, 0.8


def make_trajectory(seed, shape=(12, 3)):
    """Random rewards, values and ends of both kinds, `[T, N]`, in double precision."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, *shape))
    terminated, truncated = rng.random((2, *shape)) < 0.2
    return tuple(map(jnp.asarray, (reward, value, next_value, terminated, truncated)))


def loop_gae(reward, value, next_value, terminated, truncated, discount, gae_lambda):
    """Σ_n (γλ)ⁿ δ_{t+n} until the episode ends, one sum per time step."""
    advantage = np.zeros(reward.shape)
    for n in np.ndindex(reward.shape[1:]):
        for t in range(len(reward)):
            factor = 1.0
            for u in range(t, len(reward)):
                bootstrap = 0.0 if terminated[u][n] else next_value[u][n]
                delta = reward[u][n] + discount * bootstrap - value[u][n]
                advantage[t][n] += factor * delta
                factor *= discount * gae_lambda
                if terminated[u][n] or truncated[u][n]:
                    break
    return advantage


def test_gae_equals_the_double_loop(subtests, x64):
    for seed in range(5):
        with subtests.test(str(seed)):
            trajectory = make_trajectory(seed)
            expected = loop_gae(*map(np.asarray, trajectory), DISCOUNT, LAMBDA)
            np.testing.assert_allclose(gae(*trajectory, DISCOUNT, LAMBDA), expected, atol=1e-12)


def test_gae_by_hand(subtests):
    for terminated, truncated, expected in [
        # γ = λ = ½, so γλ = ¼. δ = (1+.5−.5, 2+.75−1, 3+1−1.5) = (1, 1.75, 2.5).
        ([0, 0, 0], [0, 0, 0], [1.59375, 2.375, 2.5]),  # 1.75+2.5/4 = 2.375; 1+2.375/4 = 1.59375
        ([0, 1, 0], [0, 0, 0], [1.25, 1.0, 2.5]),  # δ₁ = 2−1 = 1, cut; 1+1/4 = 1.25
        ([0, 0, 0], [0, 1, 0], [1.4375, 1.75, 2.5]),  # δ₁ keeps its bootstrap, cut; 1+1.75/4
        ([0, 1, 0], [0, 1, 0], [1.25, 1.0, 2.5]),  # both: it really ended
        ([0, 0, 1], [0, 0, 0], [1.53125, 2.125, 1.5]),  # δ₂ = 3−1.5; 1.75+1.5/4; 1+2.125/4
    ]:
        with subtests.test(f"{terminated} {truncated}"):
            advantage = gae(
                jnp.array([1.0, 2.0, 3.0]),
                jnp.array([0.5, 1.0, 1.5]),
                jnp.array([1.0, 1.5, 2.0]),
                jnp.array(terminated, bool),
                jnp.array(truncated, bool),
                0.5,
                0.5,
            )
            np.testing.assert_array_equal(advantage, expected)


def test_lambda_zero_is_the_one_step_residual(x64):
    reward, value, next_value, terminated, truncated = make_trajectory(0)
    delta = reward + DISCOUNT * (1 - terminated) * next_value - value
    advantage = gae(reward, value, next_value, terminated, truncated, DISCOUNT, 0.0)
    np.testing.assert_allclose(advantage, delta, atol=1e-14)


def test_lambda_one_is_the_return_minus_the_value(x64):
    reward, value, _, terminated, truncated = make_trajectory(1, (12,))
    # Inside an episode the successor's value is the next value: then the sum telescopes.
    cut_value = jnp.asarray(np.random.default_rng(2).normal(size=12))
    done = terminated | truncated
    next_value = jnp.where(done.at[-1].set(True), cut_value, jnp.roll(value, -1))
    advantage = gae(reward, value, next_value, terminated, truncated, DISCOUNT, 1.0)

    expected = np.zeros(12)
    for t in range(12):
        factor = 1.0
        for u in range(t, 12):
            expected[t] += factor * reward[u]
            factor *= DISCOUNT
            if done[u] or u == 11:
                expected[t] += factor * cut_value[u] * (not terminated[u])
                break
    np.testing.assert_allclose(advantage + value, expected, atol=1e-12)


def test_gae_is_the_exponential_mean_of_n_step_advantages(x64):
    """(1−λ)Σ λⁿ⁻¹ Â⁽ⁿ⁾ over n-step advantages; the last one takes all the weight that is left."""
    horizon = 8
    reward, value, _, _, _ = make_trajectory(3, (horizon + 1,))
    next_value, never = value[1:], jnp.zeros(horizon, bool)
    advantage = gae(reward[:-1], value[:-1], next_value, never, never, DISCOUNT, LAMBDA)

    def n_step(t, n):
        rewards = sum(DISCOUNT**i * reward[t + i] for i in range(n))
        return rewards + DISCOUNT**n * value[t + n] - value[t]

    for t in range(horizon):
        most = horizon - t
        mean = sum((1 - LAMBDA) * LAMBDA ** (n - 1) * n_step(t, n) for n in range(1, most))
        mean += LAMBDA ** (most - 1) * n_step(t, most)
        np.testing.assert_allclose(advantage[t], mean, atol=1e-12)


def test_terminated_and_truncated_differ_and_terminated_wins(x64):
    reward, value, next_value, _, _ = make_trajectory(4, (6,))
    never, at_three = jnp.zeros(6, bool), jnp.arange(6) == 3

    def advantage(terminated, truncated):
        return gae(reward, value, next_value, terminated, truncated, DISCOUNT, LAMBDA)

    terminated, truncated = advantage(at_three, never), advantage(never, at_three)
    np.testing.assert_array_equal(advantage(at_three, at_three), terminated)
    np.testing.assert_allclose(truncated[3] - terminated[3], DISCOUNT * next_value[3], atol=1e-12)
    assert (abs(truncated[:4] - terminated[:4]) > 1e-3).all()
    # What follows the end is another episode, alike in both.
    np.testing.assert_array_equal(truncated[4:], terminated[4:])
    assert (abs(advantage(never, never)[:4] - truncated[:4]) > 1e-6).all()


def test_the_value_of_a_terminated_successor_is_never_read():
    reward, value, next_value, _, _ = make_trajectory(5, (4,))
    terminated, never = jnp.array([False, True, False, False]), jnp.zeros(4, bool)
    poisoned = jnp.where(terminated, jnp.nan, next_value)
    np.testing.assert_array_equal(
        gae(reward, value, poisoned, terminated, never, DISCOUNT, LAMBDA),
        gae(reward, value, next_value, terminated, never, DISCOUNT, LAMBDA),
    )


def test_a_chain_cut_by_a_time_limit_keeps_its_value():
    """Reward 1 at every step for ever: V = 1/(1−γ), whatever the time limit of the simulation."""
    discount, limit, horizon = 0.9, 5, 20
    true_value = 1.0 / (1.0 - discount)
    reward, value = jnp.ones(horizon), jnp.full(horizon, true_value)
    cut, never = (jnp.arange(horizon) + 1) % limit == 0, jnp.zeros(horizon, bool)
    advantage = gae(reward, value, value, never, cut, discount, 0.95)
    np.testing.assert_allclose(advantage, 0.0, atol=1e-5)
    # Taken for a termination, the cut makes the last step look worse by γV = 9.
    mistaken = gae(reward, value, value, cut, never, discount, 0.95)
    np.testing.assert_allclose(mistaken[limit - 1], -discount * true_value, rtol=1e-5)
    first = -discount * true_value * (discount * 0.95) ** (limit - 1)
    np.testing.assert_allclose(mistaken[0], first, rtol=1e-5)
    # Fixed point of regression on the λ-return: 1/(1−γ) against (1−γᵗ)/(1−γ).
    np.testing.assert_allclose(advantage + value, true_value, rtol=1e-6)


def test_gae_refuses_wrong_shapes_and_types():
    x, flag = jnp.zeros((3, 2)), jnp.zeros((3, 2), bool)
    with pytest.raises(AssertionError, match="shape"):
        gae(x, x, x[:2], flag, flag, 0.9, 0.9)
    with pytest.raises(AssertionError, match="type"):
        gae(x, x, x, flag.astype(jnp.float32), flag, 0.9, 0.9)


def test_gae_over_a_batch_is_gae_of_each_trajectory():
    trajectory = make_trajectory(6)
    together = gae(*trajectory, DISCOUNT, LAMBDA)
    for n in range(3):
        alone = gae(*(x[:, n] for x in trajectory), DISCOUNT, LAMBDA)
        np.testing.assert_allclose(together[:, n], alone, rtol=1e-6)


# --- weighted statistics -------------------------------------------------------------------------


def test_normalize_gives_mean_zero_and_deviation_one(x64):
    advantage = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (50, 4))
    normalized = normalize(advantage, jnp.ones_like(advantage))
    np.testing.assert_allclose(normalized.mean(), 0.0, atol=1e-12)
    np.testing.assert_allclose(normalized.std(), 1.0, rtol=1e-7)


def test_normalize_leaves_out_samples_of_weight_zero():
    advantage = jnp.array([1.0, 3.0, 5.0, 1e6])
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    expected = normalize(advantage[:3], jnp.ones(3))
    np.testing.assert_allclose(normalize(advantage, weight)[:3], expected, rtol=1e-6)
    np.testing.assert_allclose(expected, [-np.sqrt(1.5), 0.0, np.sqrt(1.5)], rtol=1e-6)
    poisoned = normalize(advantage.at[3].set(jnp.nan), weight)
    np.testing.assert_allclose(poisoned[:3], expected, rtol=1e-6)


def test_epsilon_stands_outside_the_root():
    # Deviation 1e-4 and ε = 1e-4: outside, ±1e-4/2e-4 = ±½; inside it would be ±0.00995….
    advantage = jnp.array([-1e-4, 1e-4])
    np.testing.assert_allclose(normalize(advantage, jnp.ones(2), 1e-4), [-0.5, 0.5], rtol=1e-5)


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_advantages_without_spread_stay_finite(weight):
    normalized = normalize(jnp.full(5, 2.5), jnp.full(5, weight))
    assert np.isfinite(normalized).all()
    if weight:
        np.testing.assert_array_equal(normalized, np.zeros(5))


def test_weighted_mean():
    x = jnp.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(weighted_mean(x, jnp.array([1.0, 1.0, 2.0])), 2.75)
    np.testing.assert_allclose(weighted_mean(x, jnp.ones(3)), x.mean(), rtol=1e-6)
    assert weighted_mean(x, jnp.zeros(3)) == 0.0


def test_weighted_mean_never_reads_weight_zero():
    weight = jnp.array([1.0, 0.0, 1.0])
    for poison in (jnp.nan, jnp.inf):
        x = jnp.array([1.0, poison, 3.0])
        assert weighted_mean(x, weight) == 2.0
        np.testing.assert_array_equal(jax.grad(weighted_mean)(x, weight), [0.5, 0.0, 0.5])


def test_explained_variance():
    target, ones = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.ones(4)
    assert explained_variance(target, target, ones) == 1.0
    np.testing.assert_allclose(explained_variance(target + 7.0, target, ones), 1.0, atol=1e-6)
    np.testing.assert_allclose(explained_variance(jnp.full(4, 9.0), target, ones), 0.0, atol=1e-6)
    np.testing.assert_allclose(explained_variance(-target, target, ones), -3.0, rtol=1e-6)
    # Half the target: the residual has a quarter of its variance.
    np.testing.assert_allclose(explained_variance(target / 2, target, ones), 0.75, rtol=1e-6)
    assert explained_variance(target, ones, ones) == 0.0  # nothing to explain
    weight = ones.at[3].set(0.0)
    np.testing.assert_allclose(
        explained_variance(target.at[3].set(-50.0), target, weight), 1.0, atol=1e-6
    )


# --- the other weights ---------------------------------------------------------------------------


def loop_returns(reward, terminated, truncated, discount):
    """Whole return and reward-to-go of every step, one sum each."""
    whole, to_go = np.zeros(reward.shape), np.zeros(reward.shape)
    for n in np.ndindex(reward.shape[1:]):
        start = 0
        for t in range(len(reward)):
            end = t
            while end + 1 < len(reward) and not (terminated[end][n] or truncated[end][n]):
                end += 1
            to_go[t][n] = sum(discount ** (u - t) * reward[u][n] for u in range(t, end + 1))
            whole[t][n] = sum(discount ** (u - start) * reward[u][n] for u in range(start, end + 1))
            start = t + 1 if terminated[t][n] or truncated[t][n] else start
    return whole, to_go


@pytest.mark.parametrize("seed", range(3))
def test_monte_carlo_weights_equal_the_sums(seed, x64):
    evidence = Evidence(*make_trajectory(seed), DISCOUNT)
    ends = np.asarray(evidence.terminated), np.asarray(evidence.truncated)
    whole, to_go = loop_returns(np.asarray(evidence.reward), *ends, DISCOUNT)
    close = functools.partial(np.testing.assert_allclose, atol=1e-12)
    close(advantages.total_return(evidence), whole)
    close(advantages.reward_to_go(evidence), to_go)
    close(advantages.baseline(evidence), to_go - evidence.value)


@pytest.mark.parametrize("seed", range(3))
def test_gae_is_the_td_residual_at_lambda_zero_and_the_baseline_where_nothing_is_cut(seed, x64):
    reward, value, next_value, terminated, _ = make_trajectory(seed)
    terminated = terminated.at[-1].set(True)
    never = jnp.zeros_like(terminated)
    consistent = jnp.concatenate([value[1:], next_value[-1:]])
    of = Evidence(reward, value, consistent, terminated, never, DISCOUNT)
    delta = advantages.td_residual(of)
    np.testing.assert_allclose(gae(*of._replace(gae_lambda=0.0)), delta, atol=1e-12)
    np.testing.assert_allclose(delta + value, advantages.q_value(of), atol=1e-12)
    np.testing.assert_allclose(gae(*of), advantages.baseline(of), atol=1e-12)


# What each weight must not look at: anything there leaves it what it is.
UNUSED = {
    "total_return": {"value", "next_value", "gae_lambda"},
    "reward_to_go": {"value", "next_value", "gae_lambda"},
    "baseline": {"next_value", "gae_lambda"},
    "q_value": {"value", "truncated", "gae_lambda"},
    "td_residual": {"truncated", "gae_lambda"},
    "advantage": set(),
}


def test_the_weights_look_at_what_they_need_and_at_nothing_else(x64):
    evidence = Evidence(*make_trajectory(0), jnp.float64(DISCOUNT), jnp.float64(LAMBDA))
    others = Evidence(*make_trajectory(1), jnp.float64(0.5), jnp.float64(0.3))
    assert advantages.ESTIMATORS.keys() == UNUSED.keys()
    for name, estimate in advantages.ESTIMATORS.items():
        for field, other in others._asdict().items():
            same = np.array_equal(estimate(evidence._replace(**{field: other})), estimate(evidence))
            assert same == (field in UNUSED[name]), (name, field)


def test_the_weights_refuse_shapes_that_would_broadcast(subtests):
    for name in list(advantages.ESTIMATORS):
        with subtests.test(name):
            x, other, ends = jnp.ones((3, 1)), jnp.ones(3), jnp.zeros(3, bool)
            with pytest.raises(AssertionError, match="shape"):
                advantages.ESTIMATORS[name](Evidence(x, other, other, ends, ends, DISCOUNT, LAMBDA))
