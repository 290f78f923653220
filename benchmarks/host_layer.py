"""What a user runs beside what a benchmark calls, and a cluster beside threads; interleaved rounds.

    python benchmarks/host_layer.py [--steps 100000 500000] [--seeds 16] [--rounds 5]
    unshare --net sh -c 'ip link set lo up && exec python benchmarks/host_layer.py --cluster'

The first compares the steps per second that `purejax-po train ppo` reports with those of the same
program called window by window (`throughput.py`). The second compares the wall time of whole
commands, with and without `--cluster auto`: 64 seeds × 500,000 steps by default.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def beside_the_program(seeds: int, steps: int, rounds: int) -> str:
    """One row: the command's speed over that of its program."""
    from timed import Timed

    config = po.PPOConfig()
    experiment = po.ExperimentConfig(num_seeds=seeds, total_steps=steps)
    timed = Timed(config, "CartPole-v1", range(seeds), experiment.log_every, planned=1e9)
    timed.windows = -(-experiment.num_updates // experiment.log_every)
    timed.run()
    ratios, speeds = [], []
    for i in range(rounds):
        timed.restart(range(seeds))
        pair = {}
        for name in ("program", "command")[:: 1 if i % 2 else -1]:
            if name == "program":
                pair[name] = timed.run()
            else:
                pair[name] = command(seeds, steps)[1]["env_steps_per_second"]
        speeds.append(pair)
        ratios.append(pair["command"] / pair["program"])
    middle = {k: statistics.median(pair[k] for pair in speeds) for k in speeds[0]}
    return (
        f"| {seeds} × {steps:,} | {middle['command']:,.0f} | {middle['program']:,.0f} | "
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f}) |"
    )


def beside_threads(seeds: int, steps: int, rounds: int) -> str:
    """One row: the wall time of a run on a cluster of this machine over that on threads."""
    ratios, times = [], []
    for i in range(rounds):
        pair = {}
        for name in ("cluster", "threads")[:: 1 if i % 2 else -1]:
            flags = ("--cluster", "auto") if name == "cluster" else ()
            pair[name] = command(seeds, steps, *flags)[0]
        times.append(pair)
        ratios.append(pair["cluster"] / pair["threads"])
    middle = {k: statistics.median(pair[k] for pair in times) for k in times[0]}
    return (
        f"| {seeds} × {steps:,} | {middle['cluster']:.1f} s | {middle['threads']:.1f} s | "
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f}) |"
    )


def main() -> None:
    """Print the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--cluster", action="store_true")
    chosen = parser.parse_args()
    if chosen.cluster:
        print("| seeds × steps | --cluster auto | threads | cluster / threads |")
        print("| --- | --- | --- | --- |")
        for steps in chosen.steps or [500_000]:
            print(beside_threads(chosen.seeds or 64, steps, chosen.rounds or 3), flush=True)
        return
    print("| seeds × steps | purejax-po train, steps/s | its program | ratio |")
    print("| --- | --- | --- | --- |")
    for steps in chosen.steps or [100_000, 500_000]:
        print(beside_the_program(chosen.seeds or 16, steps, chosen.rounds or 5), flush=True)


if __name__ == "__main__":
    main()
