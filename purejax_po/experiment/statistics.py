"""Statistics over seeds, on scipy: seeds are the sample, never episodes."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def iqm(x: ArrayLike, axis: int = 0) -> NDArray[np.floating]:
    """Interquartile mean: the mean of the middle half.

    Source: Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical
    Precipice, section 4.3.
    """
    from scipy import stats

    return stats.trim_mean(np.asarray(x, float), 0.25, axis=axis)


def bootstrap_interval(
    x: ArrayLike, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Percentile bootstrap interval of the IQM over seeds.

    Args:
        x: `[seeds, ...]`; whole seeds are resampled, so a curve keeps its shape.
        confidence: probability content of the interval.
        num_resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        Lower and upper ends `[...]`; NaN for fewer than two seeds.

    Source: Agarwal et al. 2021, section 4.1 (one task: the strata are a single one).
    """
    x = np.asarray(x, float)
    if len(x) < 2:
        return np.full(x.shape[1:], np.nan), np.full(x.shape[1:], np.nan)
    rng = np.random.default_rng(seed)
    resampled = [iqm(x[rng.integers(len(x), size=len(x))]) for _ in range(num_resamples)]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.stack(resampled), [tail, 100 - tail], axis=0)
    return low, high
