"""Other libraries' environments: what PPO and TRPO learn on them, and how fast they step.

    python benchmarks/adapters.py [NAME ...] [--only speed random ppo trpo] [--keep]

A cell is an environment's speed, random actions' returns, or one algorithm's training on it. Each
is a process of its own and a JSON file below `--out`; what is there already is read. Settings were
chosen on seeds from 1000 on; the table's seeds begin at 0. Needs the libraries' extras.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import adapters_cells as cells
import numpy as np
from measure import add_keep, data, keep, kept_as, save, table

import purejax_po as po
from purejax_po.experiment import files as atomic

NOTE = (
    "Returns: mean of the trained policies' over separate episodes (greedy actions on "
    "Playground, sampled ones on grids, of which policies see a part), with a 95 % bootstrap "
    "interval over seeds and their number; the same of uniformly random actions. Solved: the mean "
    "over a seed's episodes reaches the threshold. Training: updates and evaluation on one core, "
    "without compiling. Stepping: random actions in 16 environments, with resets, on all cores; "
    "best round, median ratio of interleaved rounds."
)


def path_of(out: Path, name: str, kind: str) -> Path:
    """The file of a cell."""
    return out / f"{name.replace('/', '-')}.{kind}.json"


def cell(out: Path, name: str, kind: str) -> dict[str, Any] | None:
    """What a cell's file holds, if it is there."""
    path = path_of(out, name, kind)
    return json.loads(path.read_text()) if path.exists() else None


def run(name: str, kind: str, args: argparse.Namespace) -> None:
    """Compute one cell, and write its file."""
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    if kind == "speed":
        found = cells.speed(name, num_envs=16, num_steps=args.num_steps, rounds=args.rounds)
    elif kind == "random":
        found = {"returns": cells.random_returns(name, seeds)}
    else:
        found = cells.learn(name, kind, seeds)
    atomic.write_json(path_of(args.out, name, kind), found)


def interval(values: list[float]) -> str:
    """The mean over seeds, its interval, and how many they are."""
    low, high = po.statistics.bootstrap_interval(np.array(values), po.statistics.mean)
    digits = 2 if max(map(abs, values)) < 10 else 0
    mean = float(np.mean(values))
    return f"{mean:.{digits}f} ({low:.{digits}f} … {high:.{digits}f}; {len(values)})"


def row(name: str, kind: str, out: Path) -> dict[str, str] | None:
    """One algorithm on one environment, a dash for a cell that is not there; None untrained."""
    found, random = cell(out, name, kind), cell(out, name, "random")
    if found is None:
        return None
    threshold = cells.TASKS[name].threshold
    solved = sum(x >= threshold for x in found["returns"]) if threshold is not None else None
    of = len(found["returns"])
    return {
        "environment": f"`{name}`",
        "algorithm": kind.upper(),
        "steps per seed": f"{found['steps']:,}",
        "return": interval(found["returns"]),
        "random actions": interval(random["returns"]) if random else "–",
        "seeds that solve it": "–" if solved is None else f"{solved} of {of} (≥ {threshold:g})",
        "training, steps/s": f"{found['steps_per_second']:,.0f}",
    }


def speed_row(name: str, out: Path) -> dict[str, str] | None:
    """How fast an environment steps; None if its cell is not there."""
    stepped = cell(out, name, "speed")
    if stepped is None:
        return None
    return {
        "environment": f"`{name}`",
        "library's own, steps/s": f"{stepped['library']:,.0f}",
        "adapter, steps/s": f"{stepped['adapter']:,.0f}",
        "ratio": f"{stepped['ratio']:.2f}",
    }


def main() -> None:
    """Run the cells that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"by default {' '.join(cells.TASKS)}")
    parser.add_argument("--only", nargs="+", choices=cells.KINDS, default=list(cells.KINDS))
    parser.add_argument("--out", type=Path, default=Path("runs/adapters"))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--num-steps", type=int, default=1000, help="of a round of stepping")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--here", action="store_true", help="one cell, in this process")
    add_keep(parser)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names = args.names or list(cells.TASKS)
    for name in names:
        for kind in args.only:
            if path_of(args.out, name, kind).exists():
                continue
            if args.here:
                run(name, kind, args)
                continue
            own = [name, "--only", kind, "--out", args.out, "--seeds", args.seeds, "--here"]
            own += ["--first-seed", args.first_seed, "--num-steps", args.num_steps]
            own += ["--rounds", args.rounds]
            subprocess.run([sys.executable, __file__, *map(str, own)], check=False)
    if args.here:
        return
    learned = [row(name, kind, args.out) for name in names for kind in cells.KINDS[2:]]
    found = {"learned": learned, "speed": [speed_row(name, args.out) for name in names]}
    tables = {key: [x for x in rows if x is not None] for key, rows in found.items()}
    tables = {key: rows for key, rows in tables.items() if rows}
    if not tables:
        return
    text = "\n\n".join(map(table, tables.values()))
    print(text)
    save("adapters", {"rows": tables}, text)
    if given := kept_as("adapters"):
        keep(given, {key: data(rows) for key, rows in tables.items()}, NOTE)


if __name__ == "__main__":
    main()
