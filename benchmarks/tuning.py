"""What a search is worth: its result and time, beside trials one by one; halving beside none.

    python benchmarks/tuning.py [--parts search one_by_one halving] [--out runs/tuning] [--keep]

`search` runs `purejax-po tune ppo` on Acrobot-v1 as a user does, with an empty cache of programs.
`one_by_one` trains a sample of its trials by `purejax-po train`, each a command, the cache shared
among them, and scales their time to all trials. `halving` searches two tasks with the same trials,
with three rungs and with one. Returns are those of fresh seeds, with 95 % intervals.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measure import OUT, add_keep, table, write

from purejax_po.experiment.config import file
from purejax_po.experiment.tune import search, space

PARTS = ("search", "one_by_one", "halving")
TASK = ("ppo", "--env", "Acrobot-v1", "--total-steps", "100000")
HALVED = {"Acrobot-v1": 60_000, "CartPole-v1": 40_000}
WHOLE = ("--sampler", "random", "--trials", "24", "--batch", "24", "--finalists", "0")


def command(cache: Path, *arguments: str) -> float:
    """Run the command line as a user does; returns its wall time (s)."""
    begun = time.perf_counter()
    given = [sys.executable, "-m", "purejax_po", *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    subprocess.run(given, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def tuned(out: Path, cache: Path, *arguments: str) -> dict[str, Any]:
    """Search, unless the folder holds the search already; returns what it found, and its time."""
    timed = out.with_suffix(".seconds.json")
    if not (timed.exists() and (out / search.SUMMARY).exists()):
        seconds = command(cache, "tune", *arguments, "--out", str(out), "--overwrite")
        timed.write_text(json.dumps(seconds))
    told = json.loads((out / search.SUMMARY).read_text())
    return {**told, "seconds": json.loads(timed.read_text())}


def interval(returns: dict[str, Any]) -> str:
    """Write an IQM with its interval."""
    return f"{returns['iqm']:.1f} ({returns['ci_low']:.1f} … {returns['ci_high']:.1f})"


def row(name: str, told: dict[str, Any]) -> dict[str, str]:
    """Return the row of one search."""
    return {
        "search": name,
        "trials": f"{told['num_trials']}",
        "steps trained": f"{told['searched_steps'] + told['finalist_steps']:,}",
        "seconds": f"{told['seconds']:.0f}",
        "IQM in the search": f"{told['search']['iqm']:.1f}",
        "IQM of fresh seeds": interval(told["fresh"]),
    }


def one_by_one(out: Path, number: int) -> list[float]:
    """Train every n-th trial of a search by a command of its own; returns their times (s)."""
    tuning = search.read(out)
    folders = [search.batch_folder(out, i) for i in range(tuning.search.num_batches)]
    batches = [batch for folder in folders if (batch := search.read_batch(folder))]
    trials = [trial for batch in batches for trial in batch.trials]
    place, found = out.with_name("one_by_one"), []
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for i in range(0, len(trials), max(1, len(trials) // number)):
        settings = file.as_settings(space.at(tuning.config, trials[i].params))
        path = place / f"{i:03d}.toml"
        path.write_text(file.write_toml(settings))
        where = ("--out", str(place / f"{i:03d}"))
        found.append(command(place / "cache", "train", "--config", str(path), *where))
        print(f"trial {i}: {found[-1]:.1f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure the parts that are asked for, and print a table for each."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--out", type=Path, default=OUT / "tuning")
    parser.add_argument("--sample", type=int, default=8, help="trials that are trained one by one")
    add_keep(parser)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[dict[str, str]]] = {}
    acrobot, cache = args.out / "acrobot", args.out / "cache"
    if "search" in args.parts:
        shutil.rmtree(cache, ignore_errors=True)
        told = tuned(acrobot, cache, *TASK)
        tables["search"] = [row("PPO on Acrobot-v1, 100,000 steps", told)]
    if "one_by_one" in args.parts:
        told = tuned(acrobot, cache, *TASK)
        seconds = one_by_one(acrobot, args.sample)
        whole = sum(seconds) / len(seconds) * told["num_trials"]
        tables["one_by_one"] = [
            {
                "trials": f"{told['num_trials']}",
                "search, s": f"{told['seconds']:.0f}",
                "trials one by one, s": f"{whole:.0f}",
                "of which measured": f"{len(seconds)}",
                "ratio": f"{whole / told['seconds']:.1f}",
            }
        ]
    if "halving" in args.parts:
        tables["halving"] = []
        for env, steps in HALVED.items():
            for rungs in (3, 1):
                flags = ("ppo", "--env", env, "--total-steps", str(steps), "--rungs", str(rungs))
                told = tuned(args.out / f"{env}-{rungs}", cache, *flags, *WHOLE)
                tables["halving"].append(row(f"{env}, {rungs} rung" + "s" * (rungs > 1), told))
    text = "\n\n".join(map(table, tables.values()))
    write("tuning", {"tables": tables}, text, tables)


if __name__ == "__main__":
    main()
