"""What a user runs beside what a benchmark calls, and a cluster beside threads; interleaved rounds.

    python benchmarks/host_layer.py [--steps 100000 500000] [--seeds 16] [--rounds 5] [--keep]
    unshare --net sh -c 'ip link set lo up && exec python benchmarks/host_layer.py --cluster'

The first compares the steps per second that `purejax-po train ppo` reports with those of the same
program called window by window (`throughput.py`). The second compares the wall time of whole
commands, with and without `--cluster auto`: 64 seeds × 500,000 steps by default.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Figure, Rows, add_keep, interleave, ratios, table, write

import purejax_po as po

PROGRAM = (sys.executable, "-m", "purejax_po", "train", "ppo")


def command(seeds: int, steps: int, *flags: str) -> tuple[float, dict]:
    """Run a command as a user does; returns its wall time (s) and its summary."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        given = ("--seeds", str(seeds), "--total-steps", str(steps), "--out", str(out), *flags)
        start = time.perf_counter()
        subprocess.run([*PROGRAM, *given], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        return seconds, json.loads((out / "summary.json").read_text())


def beside_the_program(seeds: int, steps: int, rounds: int) -> dict[str, str]:
    """One row: the command's speed over that of its program."""
    from timed import Timed

    config = po.PPOConfig()
    experiment = po.ExperimentConfig(num_seeds=seeds, total_steps=steps)
    timed = Timed(config, "CartPole-v1", range(seeds), experiment.log_every, planned=1e9)
    timed.windows = -(-experiment.num_updates // experiment.log_every)
    timed.run()

    def program() -> float:
        timed.restart(range(seeds))
        return timed.run()

    def train() -> float:
        return command(seeds, steps)[1]["env_steps_per_second"]

    found = interleave({"program": program, "command": train}, rounds)
    return {
        "seeds × steps": f"{seeds} × {steps:,}",
        "purejax-po train, steps/s": Figure.of(found["command"]).show(),
        "its program, steps/s": Figure.of(found["program"]).show(),
        "ratio": ratios(found["command"], found["program"]).show(".3f"),
    }


def beside_threads(seeds: int, steps: int, rounds: int) -> dict[str, str]:
    """One row: the wall time of a run on a cluster of this machine over that on threads."""
    cases = {
        "cluster": lambda: command(seeds, steps, "--cluster", "auto")[0],
        "threads": lambda: command(seeds, steps)[0],
    }
    found = interleave(cases, rounds)
    return {
        "seeds × steps": f"{seeds} × {steps:,}",
        "--cluster auto, s": Figure.of(found["cluster"]).show(".1f"),
        "threads, s": Figure.of(found["threads"]).show(".1f"),
        "cluster / threads": ratios(found["cluster"], found["threads"]).show(".3f"),
    }


def main() -> None:
    """Print the rows that are asked for."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--cluster", action="store_true")
    add_keep(parser)
    args = parser.parse_args()
    if args.cluster:
        name, measure, seeds, steps, rounds = "cluster", beside_threads, 64, [500_000], 3
    else:
        name, measure, seeds, steps = "host_layer", beside_the_program, 16, [100_000, 500_000]
        rounds = 5
    rows: Rows = [
        measure(args.seeds or seeds, count, args.rounds or rounds) for count in args.steps or steps
    ]
    write(name, {"rows": rows}, table(rows), {"cost": rows})


if __name__ == "__main__":
    main()
