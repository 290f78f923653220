"""Does it still learn? The runs of the first table of RESULTS.md, with intervals over seeds.

    python benchmarks/learning.py [--only trpo] [--out benchmarks/results/learning.json]

Prints a table in Markdown, and writes the figures with machine, versions and commit as JSON.
"""

import argparse
import json
import platform
import subprocess
from pathlib import Path

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


def commit() -> str:
    """The commit that is checked out, with a + if files differ from it."""

    def git(*arguments: str) -> str:
        found = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return found.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + "+" * bool(git("status", "--porcelain", "-uno"))


def main() -> None:
    """Run what is asked for, and print each row as it comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="what a command must contain")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {}
    print("| command | IQM | interval | min | max |\n|---|---|---|---|---|")
    for line in RUNS:
        if arguments.only not in line:
            continue
        config = entry.parse(normalize(line.split())).config()
        dataset = po.run(config, progress=False)
        summary = po.summarize(dataset)
        final = found[line] = {key: summary["final_return"][key] for key in KEYS}
        iqm, low, high, least, most = (f"{final[key]:.1f}" for key in KEYS)
        print(f"| `purejax-po {line}` | {iqm} | {low} … {high} | {least} | {most} |", flush=True)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        machine = {"processor": platform.processor() or platform.machine(), "commit": commit()}
        content = {**machine, "versions": summary["versions"], "final_return": found}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
