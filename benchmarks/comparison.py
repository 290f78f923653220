"""The first comparison of the documentation: the settings of the zoo, `make demo` with more seeds.

    python benchmarks/comparison.py [--out demo] [--keep]

Trains what the folder lacks. `--keep` writes the returns to benchmarks/results/, and the learning
curves to docs/comparison.png.
"""

import argparse
from pathlib import Path
from typing import Any

import measure
from matplotlib.figure import Figure

import purejax_po as po
from purejax_po.experiment.compare import is_comparison
from purejax_po.experiment.plots.curves import save_figure
from purejax_po.experiment.results import join

ALGORITHMS = ("reinforce", "a2c", "npg", "trpo", "ppo")
ENVS = ("CartPole-v1", "MountainCarContinuous-v0")
SETTINGS: dict[str, Any] = {"preset": "zoo", "num_seeds": 32}
NOTE = "IQM of final returns over 32 seeds with a 95 % bootstrap interval; settings of the zoo."
PICTURE = Path(__file__).parents[1] / "docs" / "comparison.png"


def returns(dataset: Any) -> measure.Rows:
    """Return a row for each algorithm: its final returns on every environment."""
    parts = join.split(dataset)
    rows = []
    for algorithm in dict.fromkeys(name for name, _ in parts):
        row = {"algorithm": str(algorithm)}
        for (name, env), run in parts.items():
            if name == algorithm:
                final = po.summarize(run)["final_return"]
                iqm, low, high = (f"{final[key]:.1f}" for key in ("iqm", "ci_low", "ci_high"))
                row[str(env)] = f"{iqm} ({low} … {high})"
        rows.append(row)
    return rows


def main() -> None:
    """Compare, print the table, and keep it and the picture if asked to."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=measure.OUT / "comparison")
    measure.add_keep(parser)
    out = parser.parse_args().out
    if is_comparison(out):
        dataset = po.resume_compare(out)
    else:
        dataset = po.compare(ALGORITHMS, ENVS, out, **SETTINGS)
    rows = returns(dataset)
    print(measure.table(rows))
    if given := measure.kept_as("comparison"):
        measure.keep(given, {"final": measure.data(rows)}, NOTE)
        figure = Figure(layout="constrained")
        po.plot_curves(dataset, figure=figure)
        save_figure(figure, PICTURE)


if __name__ == "__main__":
    main()
