"""Does it still learn? The runs of the first table of docs/results.md, with intervals over seeds.

    python benchmarks/learning.py [--only trpo] [--keep]

Prints a table in Markdown; `--keep` writes it to benchmarks/results/ too.
"""

import argparse

import measure
import tables

import purejax_po as po
from purejax_po.cli import entry
from purejax_po.cli.arguments import normalize

RUNS = (
    "train ppo --env CartPole-v1 --seeds 64 --total-steps 500000",
    "train ppo --env Acrobot-v1 --seeds 16 --total-steps 500000",
    "train ppo --preset ppo-pendulum --seeds 16 --total-steps 1000000",
    "train trpo --env CartPole-v1 --seeds 32 --total-steps 100000",
    "train trpo --env Acrobot-v1 --seeds 32 --total-steps 100000",
    "train trpo --env Pendulum-v1 --seeds 32 --total-steps 200000 --hyperparams.discount 0.9",
    "train npg --env CartPole-v1 --seeds 32 --total-steps 100000",
    "train a2c --env CartPole-v1 --seeds 32 --total-steps 100000",
    "train reinforce --env CartPole-v1 --seeds 32 --total-steps 100000",
)
KEYS = ("iqm", "ci_low", "ci_high", "min", "max")


def main() -> None:
    """Run what is asked for, and print each row as it comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="what a command must contain")
    measure.add_keep(parser)
    arguments = parser.parse_args()
    rows = []
    print("| command | IQM | interval | min | max |\n|---|---|---|---|---|")
    for line in RUNS:
        if arguments.only not in line:
            continue
        config = entry.parse(normalize(line.split())).config()
        dataset = po.run(config, progress=False)
        summary = po.summarize(dataset)
        iqm, low, high, least, most = (f"{summary['final_return'][key]:.1f}" for key in KEYS)
        rows.append([f"`purejax-po {line}`", f"{iqm} ({low} … {high})", least, most])
        print(f"| `purejax-po {line}` | {iqm} | {low} … {high} | {least} | {most} |", flush=True)
    if arguments.keep is not None:
        names = ["command", "IQM", "min", "max"]
        measure.keep("learning", {"runs": tables.structured(names, rows)})


if __name__ == "__main__":
    main()
