"""Statistics over seeds: hand-computed values, then the coverage that simulations show."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from purejax_po.experiment.results import resampling, statistics

SIMULATIONS = 1000


def test_statistics_of_one_sample_by_hand():
    x = np.array([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0])
    assert statistics.iqm(x) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert statistics.mean(x) == pytest.approx(71 / 8)
    assert statistics.median(x) == pytest.approx(3.5)
    assert statistics.optimality_gap(x, target=4.0) == pytest.approx((3 + 2 + 1 + 54) / 8)
    assert statistics.optimality_gap([0.0, 0.5, 3.0]) == pytest.approx(1.5 / 3)


@pytest.mark.parametrize("name", ["iqm", "mean", "median", "optimality_gap"])
def test_statistics_take_an_axis(name):
    x = np.random.default_rng(0).normal(size=(7, 3))
    statistic = getattr(statistics, name)
    expected = [statistic(column) for column in x.T]
    np.testing.assert_allclose(statistic(x), expected)
    np.testing.assert_allclose(statistic(x.T, axis=1), expected)


def test_aggregates_over_tasks_by_hand():
    scores = [[0.0, 0.2, 0.4], [0.6, 0.8, 1.0, 2.0]]
    found = {
        name: statistics.aggregate(scores, statistic).value
        for name, statistic in statistics.AGGREGATES.items()
    }
    assert found["mean"] == pytest.approx(5.0 / 7)
    assert found["median"] == pytest.approx((0.2 + 1.1) / 2)
    assert found["iqm"] == pytest.approx((0.2 + 0.4 + 0.6 + 0.8 + 1.0) / 5)
    assert found["optimality_gap"] == pytest.approx((1 + 0.8 + 0.6 + 0.4 + 0.2) / 7)


def test_normalisation():
    np.testing.assert_allclose(statistics.normalize([-200, -150, -100], -200, -100), [0, 0.5, 1])
    np.testing.assert_array_equal(statistics.normalize([500, 500], 500, 500), [1, 1])


def test_performance_profile_by_hand():
    found = statistics.performance_profile([[1, 2, 3, 4], [3, 5]], [0, 2, 4.5, 5])
    np.testing.assert_allclose(found.value, [1, (0.5 + 1) / 2, 0.25, 0])
    assert np.all(found.low <= found.value)
    assert np.all(found.value <= found.high)


def test_probability_of_improvement_by_hand():
    found = statistics.probability_of_improvement([[1, 3], [5]], [[2, 3], [4]])
    assert found.value == pytest.approx(((0 + 0 + 1 + 0.5) / 4 + 1) / 2)
    assert np.isnan(found.low)  # one seed of a task says nothing on its spread
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    expected = stats.mannwhitneyu(x, y).statistic / 144
    there = statistics.probability_of_improvement([x], [y])
    back = statistics.probability_of_improvement([y], [x])
    assert there.value == pytest.approx(expected)
    assert there.value + back.value == pytest.approx(1)
    assert there.low < there.value < there.high


def test_the_strata_are_resampled_one_by_one():
    """Two tasks without spread of their own: whatever is drawn, the aggregate is the same."""
    found = statistics.aggregate([[0.0] * 5, [1.0] * 5], statistics.AGGREGATES["mean"])
    assert found == (0.5, 0.5, 0.5)


def test_paired_difference_by_hand():
    x = np.array([[1.0, 10.0], [2.0, 11.0], [3.0, 12.0]])
    found = statistics.paired_difference(x, x - [[1.0], [2.0], [3.0]])
    assert found.value == pytest.approx(2.0)
    assert 1.0 <= found.low < 2.0 < found.high <= 3.0


def test_paired_difference_matches_labels():
    x = xr.DataArray(np.arange(6.0).reshape(3, 2), coords={"seed": [0, 1, 2], "episode": [0, 1]})
    y = x.isel(seed=[2, 0]) - 1
    assert statistics.paired_difference(x, y) == (1, 1, 1)
    assert statistics.paired_difference(x, y.T) == (1, 1, 1)
    with pytest.raises(ValueError, match="same seeds and episodes"):
        statistics.paired_difference(x, y.assign_coords(seed=[7, 8]))


def test_mistakes():
    with pytest.raises(ValueError, match=r"confidence must be a number in \(0, 1\), got 95"):
        statistics.bootstrap_interval(np.arange(4.0), confidence=95)
    with pytest.raises(ValueError, match=r"scores must be \[seeds\] of one task or a list"):
        statistics.aggregate([])
    with pytest.raises(ValueError, match="same tasks, got 1 and 2"):
        statistics.probability_of_improvement([[1]], [[1], [2]])
    with pytest.raises(ValueError, match="same seeds and episodes"):
        statistics.paired_difference(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="width must be a finite number > 0"):
        statistics.seeds_needed([1.0, 2.0], 0)
    with pytest.raises(ValueError, match="at least two"):
        statistics.seeds_needed([1.0], 1.0)
    with pytest.raises(ValueError, match="all finite"):
        statistics.seeds_needed([1.0, np.nan], 1.0)


def test_resampling_in_pieces_changes_nothing(monkeypatch):
    x = np.random.default_rng(0).normal(size=(9, 4))
    whole = statistics.bootstrap_interval(x)
    monkeypatch.setattr(resampling, "CHUNK", 500)
    np.testing.assert_array_equal(statistics.bootstrap_interval(x), whole)


def test_intervals_of_few_seeds():
    assert np.isnan(statistics.bootstrap_interval([3.0])).all()
    low, high = statistics.bootstrap_interval([1.0, 2.0])
    assert (low, high) == (1.0, 2.0)
    assert statistics.bootstrap_interval([500.0] * 8) == (500.0, 500.0)


def coverage(low, high, truth):
    return np.mean((low <= truth) & (truth <= high))


DISTRIBUTIONS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed": lambda rng, size: -rng.exponential(size=size),
    "long tails": lambda rng, size: rng.standard_t(3, size=size),
}


@pytest.mark.parametrize("num_seeds", [8, 16, 32])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_intervals_of_the_iqm_cover(name, num_seeds):
    rng = np.random.default_rng(num_seeds)
    draw = DISTRIBUTIONS[name]
    truth = statistics.iqm(draw(rng, 2_000_000))
    # The simulations are a trailing axis: each is a sample of its own.
    low, high = statistics.bootstrap_interval(draw(rng, (num_seeds, SIMULATIONS)))
    assert 0.93 <= coverage(low, high, truth) <= 0.97


@pytest.mark.parametrize("num_tasks", [2, 5])
def test_intervals_of_aggregates_cover(num_tasks):
    rng = np.random.default_rng(num_tasks)
    shift = np.linspace(0, 1, num_tasks)[:, None]
    truth = statistics.iqm(np.ravel(shift + rng.normal(size=(num_tasks, 1_000_000))))
    found = [
        statistics.aggregate(shift + rng.normal(size=(num_tasks, 16)), num_resamples=500)
        for _ in range(SIMULATIONS)
    ]
    _, low, high = np.transpose(found)
    assert 0.93 <= coverage(low, high, truth) <= 0.97


def test_intervals_of_the_probability_of_improvement_cover():
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(0.5 / np.sqrt(2))  # X ~ N(0.5, 1), Y ~ N(0, 1)
    found = [
        statistics.probability_of_improvement(
            [0.5 + rng.normal(size=16)], [rng.normal(size=16)], num_resamples=500
        )
        for _ in range(SIMULATIONS)
    ]
    _, low, high = np.transpose(found)
    assert 0.93 <= coverage(low, high, truth) <= 0.97


def test_bands_of_profiles_cover():
    rng = np.random.default_rng(1)
    thresholds = np.array([-0.5, 0.0, 0.5])
    found = [
        statistics.performance_profile(
            [rng.normal(size=32), rng.normal(size=32)], thresholds, num_resamples=500
        )
        for _ in range(SIMULATIONS)
    ]
    low = np.stack([x.low for x in found])
    high = np.stack([x.high for x in found])
    assert 0.93 <= coverage(low, high, 1 - stats.norm.cdf(thresholds)) <= 0.97


def evaluations(rng, mean, episodes):
    """Returns `[16 seeds, 10 episodes]`: a seed's skill, an episode's ease, and noise."""
    return mean + rng.normal(size=(16, 1)) + episodes + 0.5 * rng.normal(size=(16, 10))


def test_paired_intervals_cover_and_are_narrower_on_common_episodes():
    rng = np.random.default_rng(0)
    common, apart = [], []
    for _ in range(SIMULATIONS):
        episodes = 3 * rng.normal(size=10)
        x = evaluations(rng, 0.7, episodes)
        common.append(
            statistics.paired_difference(x, evaluations(rng, 0, episodes), num_resamples=500)
        )
        others = 3 * rng.normal(size=10)
        apart.append(
            statistics.paired_difference(x, evaluations(rng, 0, others), num_resamples=500)
        )
    _, low, high = np.transpose(common)
    assert 0.93 <= coverage(low, high, 0.7) <= 0.97
    _, low, high = np.transpose(apart)
    assert coverage(low, high, 0.7) < 0.8  # as many seeds, but each has other episodes


def test_episodes_are_no_sample_of_seeds():
    """Why seeds are resampled: intervals over pooled episodes cover far too little."""
    rng = np.random.default_rng(0)
    episodes = rng.normal(size=(16, 1, SIMULATIONS)) + rng.normal(size=(16, 10, SIMULATIONS))
    seeds = statistics.bootstrap_interval(episodes.mean(axis=1), num_resamples=1000)
    pooled = statistics.bootstrap_interval(episodes.reshape(160, SIMULATIONS), num_resamples=1000)
    assert 0.93 <= coverage(*seeds, 0) <= 0.97
    assert coverage(*pooled, 0) < 0.7


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_seeds_needed_give_intervals_of_that_width(width):
    rng = np.random.default_rng(0)
    needed = statistics.seeds_needed(rng.normal(size=1000), width)
    low, high = statistics.bootstrap_interval(rng.normal(size=(needed, 200)), num_resamples=500)
    assert np.mean(high - low) == pytest.approx(width, rel=0.1)


def test_seeds_needed_of_seeds_that_agree():
    assert statistics.seeds_needed([500.0, 500.0, 500.0], 0.1) == 2
