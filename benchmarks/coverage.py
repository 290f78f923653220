"""How often the 95 % intervals of `po.statistics` hold the true value, in simulations.

Run: python benchmarks/coverage.py [--keep]
"""

import measure
import numpy as np
import tables
from scipy import stats

from purejax_po import statistics

SIMULATIONS = 5000
DISTRIBUTIONS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed": lambda rng, size: -rng.exponential(size=size),
    "long tails": lambda rng, size: rng.standard_t(3, size=size),
}
ONE_SAMPLE = {name: getattr(statistics, name) for name in ("iqm", "mean", "median")}


def one_sample(draw, statistic, num_seeds):
    """Coverage of `bootstrap_interval`; the simulations are a trailing axis."""
    rng = np.random.default_rng(num_seeds)
    truth = statistic(draw(rng, 4_000_000))
    low, high = statistics.bootstrap_interval(draw(rng, (num_seeds, SIMULATIONS)), statistic)
    return np.mean((low <= truth) & (truth <= high))


def aggregate(draw, num_seeds, num_tasks=5):
    """Coverage of `aggregate`'s IQM over tasks whose scores are shifted against each other."""
    rng = np.random.default_rng(num_seeds)
    shift = np.linspace(0, 1, num_tasks)[:, None]
    truth = statistics.iqm(np.ravel(shift + draw(rng, (num_tasks, 1_000_000))))
    found = [
        statistics.aggregate(shift + draw(rng, (num_tasks, num_seeds)), num_resamples=1000)
        for _ in range(SIMULATIONS // 5)
    ]
    _, low, high = np.transpose(found)
    return np.mean((low <= truth) & (truth <= high))


def improvement(draw, num_seeds):
    """Coverage of `probability_of_improvement` of X = Y + 1/2 in distribution."""
    rng = np.random.default_rng(num_seeds)
    x, y = 0.5 + draw(rng, 50_000), draw(rng, 50_000)
    truth = stats.mannwhitneyu(x, y).statistic / 50_000**2
    found = [
        statistics.probability_of_improvement(
            [0.5 + draw(rng, num_seeds)], [draw(rng, num_seeds)], num_resamples=1000
        )
        for _ in range(SIMULATIONS // 5)
    ]
    _, low, high = np.transpose(found)
    return np.mean((low <= truth) & (truth <= high))


def main():
    header = ["seeds", *ONE_SAMPLE, "IQM of 5 tasks", "P(X > Y)"]
    rows = []
    for kind, draw in DISTRIBUTIONS.items():
        print(f"{kind}: {', '.join(header)}")
        for num_seeds in (5, 8, 16, 32):
            found = [one_sample(draw, statistic, num_seeds) for statistic in ONE_SAMPLE.values()]
            found += [aggregate(draw, num_seeds), improvement(draw, num_seeds)]
            print(f"{num_seeds:5d} ", "  ".join(f"{100 * x:5.1f} %" for x in found), flush=True)
            rows.append([kind, str(num_seeds), *(f"{100 * x:.1f}%" for x in found)])
    if measure.kept_as("coverage"):
        names = ["distribution", "seeds", "IQM", "mean", "median", *header[-2:]]
        measure.keep("coverage", {"intervals": tables.structured(names, rows)})


if __name__ == "__main__":
    main()
