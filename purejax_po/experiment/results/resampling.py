"""Resamples of seeds, and the ends of an interval that make up for few of them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from purejax_po.checks import Range, check_number

Floats = NDArray[np.floating]

CONFIDENCE = Range(0.0, 1.0, includes_low=False, includes_high=False)
CHUNK = 2_000_000
"""Numbers held at a time while resampling: 16 MB."""


def resampled(
    strata: Sequence[Floats], statistic: Callable[..., np.ndarray], num_resamples: int, seed: int
) -> Floats:
    """Statistics `[resamples, ...]` of resampled seeds, of strata `[resamples, seeds, ...]`."""
    rng = np.random.default_rng(seed)
    each = max(1, CHUNK // max(sum(x.size for x in strata), 1))
    numbers = [min(each, num_resamples - begin) for begin in range(0, num_resamples, each)]
    drawn = ([x[rng.integers(len(x), size=(n, len(x)))] for x in strata] for n in numbers)
    return np.concatenate([statistic(tasks) for tasks in drawn])


def ends(
    resampled: Floats, confidence: float, strata: Sequence[Floats], *, is_expanded: bool = True
) -> tuple[Floats, Floats]:
    """Quantiles of resampled statistics `[resamples, ...]` that make up for few seeds.

    The tails are Φ(−a·t), t Student's quantile with a degree of freedom less than seeds in each
    stratum, a = √(n/(n−1)) if expanded, for a resampled stratum of n varies by (n−1)/n too little.
    """
    from scipy import special

    check_number("confidence", confidence, CONFIDENCE)
    freedom = sum(len(x) - 1 for x in strata)
    factor = np.sqrt(np.mean([len(x) / (len(x) - 1) for x in strata])) if is_expanded else 1.0
    tail = special.ndtr(factor * special.stdtrit(freedom, (1 - confidence) / 2))
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return low, high


def weights(rng: np.random.Generator, num_resamples: int, n: int) -> Floats:
    """Draw how often each of n seeds is in each resample, over n: `[resamples, n]`."""
    return rng.multinomial(n, np.full(n, 1 / n), size=num_resamples) / n
