"""Statistics over seeds, on scipy: seeds are the sample, never episodes.

One task's scores are an array whose first axis is the seeds. Scores of several tasks are a sequence
of such arrays, which may differ in length, each a stratum of its own for the bootstrap. Functions
of several tasks take one task's `[seeds]` as well; functions of one task refuse several, by name.
"""

import bisect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from purejax_po.checks import Range, check_number
from purejax_po.experiment.results import resampling

Floats = NDArray[np.floating]
Statistic = Callable[..., np.ndarray]
"""`(x, axis=...) → x` without that axis."""

WIDTH = Range(0.0, includes_low=False)
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A statistic and the ends of its interval; all of one shape."""

    value: Any
    low: Any
    high: Any
    """NaN, as `low`, where a task has fewer than two seeds."""


# Statistics of one sample


def iqm(x: ArrayLike, axis: int = 0) -> Floats:
    """Interquartile mean: the mean of the middle half.

    Source: Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical
    Precipice, section 4.3.

    Example:
        >>> import purejax_po as po
        >>> float(po.statistics.iqm([0.0, 1.0, 2.0, 100.0]))
        1.5
    """
    from scipy import stats

    return stats.trim_mean(np.asarray(x, float), 0.25, axis=axis)


def mean(x: ArrayLike, axis: int = 0) -> Floats:
    """Mean, x̄ = Σ x / n: one outlier can move it far."""
    return np.mean(np.asarray(x, float), axis=axis)


def median(x: ArrayLike, axis: int = 0) -> Floats:
    """Median: it ignores nearly half of the scores, and has the widest interval."""
    return np.median(np.asarray(x, float), axis=axis)


def optimality_gap(x: ArrayLike, axis: int = 0, target: float = 1.0) -> Floats:
    """Optimality gap: the mean of max(target − x, 0), by which the scores miss a target.

    Scores beyond the target count as the target. In units of the scores; lower is better.

    Source: Agarwal et al. 2021, section 4.3.
    """
    return np.mean(np.maximum(target - np.asarray(x, float), 0.0), axis=axis)


def is_mean(statistic: Statistic) -> bool:
    """Whether a statistic is a mean over seeds, of the scores or of some function of each.

    It is if the statistic of two samples of one size together is the mean of both statistics. The
    resamples of such a statistic vary by (n − 1)/n too little.
    """
    samples = np.random.default_rng(0).normal(0.5, 1.0, size=(8, 2, 7))
    parts = np.mean([statistic(samples[:, i], axis=1) for i in (0, 1)], axis=0)
    whole = statistic(samples.reshape(8, 14), axis=1)
    return bool(np.allclose(whole, parts, rtol=1e-9, atol=1e-9))


def bootstrap_interval(
    x: ArrayLike,
    statistic: Statistic = iqm,
    *,
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Percentile bootstrap interval of a statistic over seeds, with Student's quantiles.

    The ends are the q and 1 − q quantiles of the resampled statistic, q = Φ(t_{n−1}((1 − c)/2)) in
    place of (1 − c)/2: plain percentiles cover too little for few seeds. The mean of few seeds of a
    skewed distribution is still covered too rarely, the IQM is not (docs/intervals.md).

    Args:
        x: `[seeds, ...]`; whole seeds are resampled, so a curve keeps its shape.
        statistic: e.g. `iqm`, `mean`, `median`.
        confidence: probability content c of the interval, in (0, 1).
        num_resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        Lower and upper ends `[...]`; NaN for fewer than two seeds.

    Source: Agarwal et al. 2021, section 4.1 (one task: the strata are a single one); the quantiles
    are those of the expanded percentile interval of Hesterberg 2015, What Teachers Should Know
    About the Bootstrap, without its factor √(n/(n−1)), which is for means: with it intervals of the
    IQM and of the median cover too much.

    Example:
        >>> import purejax_po as po
        >>> low, high = po.statistics.bootstrap_interval([0.0, 1.0, 2.0, 3.0])
        >>> bool(low < 1.5 < high)
        True
    """
    x = _one_task(x)
    if len(x) < 2:
        return np.full(x.shape[1:], np.nan), np.full(x.shape[1:], np.nan)
    resampled = resampling.resampled([x], lambda d: statistic(d[0], axis=1), num_resamples, seed)
    return resampling.ends(resampled, confidence, [x], is_expanded=is_mean(statistic))


# Several tasks


def normalize(x: ArrayLike, low: float, high: float) -> Floats:
    """Scale scores so that `low` becomes 0 and `high` 1: (x − low) / (high − low).

    Args:
        x: scores of one task, any shape.
        low, high: two reference scores of the task (a random and a good policy's), or the smallest
            and the largest score found. Where they are equal, every score becomes 1.
    """
    x = np.asarray(x, float)
    return np.ones_like(x) if high == low else (x - low) / (high - low)


def pooled(statistic: Statistic) -> Statistic:
    """Make a statistic of tasks `[..., seeds]`: that of all their scores together."""
    return lambda tasks: statistic(np.concatenate(tasks, axis=-1), axis=-1)


def median_of_means(tasks: Sequence[np.ndarray]) -> Floats:
    """Median over tasks of the mean over seeds: tasks `[..., seeds]` to `[...]`."""
    return np.median(np.stack([np.mean(x, axis=-1) for x in tasks]), axis=0)


AGGREGATES: dict[str, Statistic] = {
    "iqm": pooled(iqm),
    "mean": pooled(mean),
    "median": median_of_means,
    "optimality_gap": pooled(optimality_gap),
}
"""The aggregates of Agarwal et al. 2021, section 4.3, of tasks `[..., seeds]`."""


def aggregate(
    scores: Sequence[ArrayLike],
    statistic: Statistic = AGGREGATES["iqm"],
    *,
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Aggregate one algorithm's normalised scores over tasks, with a stratified interval.

    Args:
        scores: one `[seeds]` per task, scaled alike (see `normalize`).
        statistic: of tasks `[..., seeds]`, such as those of `AGGREGATES`.
        confidence, num_resamples, seed: as `bootstrap_interval`; the quantiles are expanded,
            with (all seeds − tasks) degrees of freedom.

    Raises:
        ValueError: for no tasks, or a task without seeds.

    Source: Agarwal et al. 2021, sections 4.1 and 4.3; the quantiles are those of the expanded
    percentile interval of Hesterberg 2015.
    """
    tasks = _tasks(scores)
    value = statistic(tasks)
    if min(map(len, tasks)) < 2:
        return Estimate(value, np.nan, np.nan)
    resampled = resampling.resampled(tasks, statistic, num_resamples, seed)
    return Estimate(value, *resampling.ends(resampled, confidence, tasks))


def performance_profile(
    scores: Sequence[ArrayLike],
    thresholds: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Fraction of runs that score above τ, F(τ) = mean over tasks and seeds of 1[x > τ].

    Args:
        scores: one `[seeds]` per task; tasks weigh alike.
        thresholds: τ `[T]`, in units of the scores.
        confidence, num_resamples, seed: as `aggregate`; the band is pointwise.

    Returns:
        Fractions `[T]`, with a stratified bootstrap band.

    Source: Agarwal et al. 2021, section 4.2.
    """
    tasks = _tasks(scores)
    above = [(x[:, None] > np.asarray(thresholds, float)).astype(float) for x in tasks]
    value = np.mean([x.mean(axis=0) for x in above], axis=0)
    if min(map(len, tasks)) < 2:
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    rng = np.random.default_rng(seed)
    shares = [resampling.weights(rng, num_resamples, len(x)) @ x for x in above]
    return Estimate(value, *resampling.ends(np.mean(shares, axis=0), confidence, tasks))


# Two algorithms


def probability_of_improvement(
    x: Sequence[ArrayLike],
    y: Sequence[ArrayLike],
    *,
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """P(X > Y) + P(X = Y)/2: how likely a run of X beats one of Y on a task drawn at random.

    The Mann-Whitney U statistic over n·m, averaged over tasks. If every run of one beats every run
    of the other, the interval is a point, which is too narrow.

    Args:
        x, y: scores of the two algorithms, one `[seeds]` per task, the same tasks in the same
            order; no normalisation is needed.
        confidence, num_resamples, seed: as `aggregate`; X and Y are resampled independently.

    Raises:
        ValueError: for different numbers of tasks.

    Source: Agarwal et al. 2021, section 4.3; the statistic is that of Mann and Whitney 1947.

    Example:
        >>> import purejax_po as po
        >>> float(po.statistics.probability_of_improvement([2.0, 3.0], [1.0, 1.5]).value)
        1.0
    """
    first, second = _tasks(x), _tasks(y)
    if len(first) != len(second):
        raise ValueError(f"x and y must hold the same tasks, got {len(first)} and {len(second)}")
    wins = [(a[:, None] > b) + 0.5 * (a[:, None] == b) for a, b in zip(first, second, strict=True)]
    value = np.mean([w.mean() for w in wins])
    if min(map(len, [*first, *second])) < 2:
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    resampled = []
    for w in wins:
        left, right = (resampling.weights(rng, num_resamples, n) for n in w.shape)
        resampled.append(np.sum((left @ w) * right, axis=1))
    strata = [*first, *second]
    return Estimate(value, *resampling.ends(np.mean(resampled, axis=0), confidence, strata))


def paired_difference(
    x: Any,
    y: Any,
    statistic: Statistic = mean,
    *,
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Difference of two algorithms, seed by seed, evaluated on the same episodes.

    dᵢ = mean over episodes of (x − y) for seed i. An easy or hard episode is the same for both and
    cancels. The interval resamples seeds and averages over episodes.

    Args:
        x, y: `[seeds, episodes]`: both algorithms trained with the same seeds and evaluated on the
            same episodes. Labelled arrays, as of `evaluate_run`, are matched by their labels.
        statistic: of d over seeds.
        confidence, num_resamples, seed: as `bootstrap_interval`.

    Raises:
        ValueError: for shapes or dims that differ, or labels without a common one.

    Source: common random numbers, Asmussen and Glynn 2007, Stochastic Simulation,
    chapter V.
    """
    if hasattr(x, "coords") and hasattr(y, "coords"):
        import xarray as xr

        x, y = xr.align(x, y, join="inner")
        y = y.transpose(*x.dims) if set(x.dims) == set(y.dims) else y
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 2 or x.size == 0:
        raise ValueError(
            f"x and y must be [seeds, episodes] of the same seeds and episodes, "
            f"got {x.shape} and {y.shape}"
        )
    difference = np.mean(x - y, axis=1)
    low, high = bootstrap_interval(
        difference, statistic, confidence=confidence, num_resamples=num_resamples, seed=seed
    )
    return Estimate(statistic(difference, axis=0), low, high)


def seeds_needed(
    x: ArrayLike,
    width: float,
    statistic: Statistic = iqm,
    *,
    confidence: float = 0.95,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> int:
    """How many seeds an interval of a given width needs, estimated from some seeds.

    The smallest m with 2 t_{m−1} σ/√m ≤ width, where σ/√n is the bootstrapped standard error of
    the statistic of the n seeds given. With few seeds σ is uncertain, and so is m.

    Args:
        x: `[seeds]`, at least two.
        width: high − low, in units of x, > 0.
        statistic, confidence, num_resamples, seed: as `bootstrap_interval`.

    Raises:
        ValueError: for a width that is not positive, fewer than two seeds, or values not finite.

    Source: `bootstrap_interval`'s width solved for n; on the question, Colas et al. 2018, How Many
    Random Seeds?

    Example:
        >>> import purejax_po as po
        >>> returns = [480.0, 490.0, 500.0, 470.0, 495.0, 488.0, 479.0, 500.0]
        >>> po.statistics.seeds_needed(returns, width=5) > len(returns)
        True
    """
    from scipy import stats

    check_number("width", width, WIDTH)
    check_number("confidence", confidence, resampling.CONFIDENCE)
    x = _one_task(x)
    if x.ndim != 1 or len(x) < 2 or not np.all(np.isfinite(x)):
        raise ValueError(f"x must be [seeds], at least two and all finite, got {x}")
    resampled = resampling.resampled([x], lambda d: statistic(d[0], axis=1), num_resamples, seed)
    sigma = np.std(resampled) * np.sqrt(len(x))

    def is_enough(m: int) -> bool:
        return 2 * stats.t.ppf((1 + confidence) / 2, m - 1) * sigma <= width * np.sqrt(m)

    candidates = range(2, 2**62)
    return candidates[bisect.bisect_left(candidates, True, key=is_enough)]


def _tasks(scores: Sequence[ArrayLike]) -> list[Floats]:
    """Scores of several tasks; one task's `[seeds]` is a list of one."""
    tasks = [np.asarray(x, float) for x in scores]
    if tasks and all(x.ndim == 0 for x in tasks):
        return [np.stack(tasks)]
    if not tasks or any(x.ndim != 1 or len(x) == 0 for x in tasks):
        shapes = ", ".join(str(list(x.shape)) for x in tasks) or "none"
        raise ValueError(
            "scores must be [seeds] of one task or a list of [seeds], one for each task, got "
            f"arrays {shapes}"
        )
    return tasks


def _one_task(x: ArrayLike) -> Floats:
    """Scores of one task, `[seeds, ...]`."""
    try:
        return np.asarray(x, float)
    except ValueError:
        sizes = ", ".join(str(len(np.atleast_1d(task))) for task in x)  # type: ignore[union-attr]
        raise ValueError(
            f"x must be [seeds] of one task, got tasks of {sizes} seeds; for several tasks there "
            "is statistics.aggregate"
        ) from None
