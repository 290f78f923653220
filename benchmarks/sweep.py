"""One sweep beside separate runs of its points, compile time included.

    python benchmarks/sweep.py [--seeds 16] [--steps 20480] [--repeats 3] [--quick]

The sweep is 5 learning rates × 3 clip ranges; the separate runs are 15 calls of `po.run` in one
process, which spares them the start of Python and the imports that 15 commands would pay. Neither
keeps compiled programs from before. Both take turns, the runs' order is shuffled, and their results
are compared to the bit. `--quick` is one repeat of 2 × 2 points.
"""

import argparse
import random
import statistics
import time

import jax

import purejax_po as po
from purejax_po.experiment.config import sweep
from purejax_po.experiment.run import devices

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
RANGES = (0.1, 0.2, 0.3)


def timed(config):
    jax.clear_caches()
    start = time.perf_counter()
    dataset = po.run(config, progress=False)
    return time.perf_counter() - start, dataset


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=16, help="at each point")
    parser.add_argument("--steps", type=int, default=20480, help="environment steps per seed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one repeat of 2 × 2 points")
    arguments = parser.parse_args()
    axes = {"learning_rate": RATES, "clip_eps": RANGES}
    if arguments.quick:
        axes = {name: values[:2] for name, values in axes.items()}
    repeats = 1 if arguments.quick else arguments.repeats
    _, width = devices.share(arguments.seeds)
    config = po.ExperimentConfig(
        num_seeds=arguments.seeds,
        total_steps=arguments.steps,
        lanes_per_device=width,  # the same for both, so that they agree to the bit
        sweep=axes,
    )
    points = sweep.points(config)
    times = []
    for _ in range(repeats):
        together, dataset = timed(config)
        compiling = dataset.attrs["compile_seconds"]
        order = random.sample(points, len(points))
        apart = 0.0
        for point in order:
            seconds, single = timed(config.at(point))
            apart += seconds
            part = dataset["final_return"].sel(point)
            assert part.values.tobytes() == single["final_return"].values.tobytes(), point
        times.append((together, apart))
        print(
            f"sweep {together:.1f} s (compiling {compiling:.1f} s), "
            f"{len(points)} runs {apart:.1f} s, ratio {apart / together:.1f}"
        )
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [apart / together for together, apart in times]
    print(
        f"{config.algorithm.name} on {config.env}, {len(points)} points × {arguments.seeds} seeds "
        f"× {int(dataset['step'][-1]):,} steps, "
        f"{width} lanes on each of {dataset.attrs['device']}: "
        f"{second:.1f} s apart / {first:.1f} s together = {second / first:.1f} "
        f"(min {min(ratios):.1f}, max {max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()
