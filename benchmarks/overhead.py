"""What the host layer costs: a run with progress, log and checkpoints beside a bare jitted scan.

    python benchmarks/overhead.py [--seeds 16] [--steps 4000000] [--repeats 3]

Both train the same seeds on as many threads with the same number of lanes in each program; the bare
one is `jax.jit(jax.vmap(train))` and nothing else. Runs are interleaved; the ratio is that of the
medians, beside its smallest and largest value.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

import purejax_po as po
from purejax_po.experiment.run import devices
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.trainer import build_trainer


def bare_scan(config, width, num_workers):
    """Compile the training of a block; returns a function that runs all blocks and times them."""
    trainer = build_trainer(config)
    train = po.make_train(trainer, num_updates=config.num_updates, log_every=config.log_every)
    plan = Plan(config, width, "")
    blocks = [plan.lanes(block, trainer) for block in range(plan.num_blocks)]

    def run(seed, hyperparams, env_params):
        return train(jax.random.key(seed), hyperparams, env_params)

    compiled = jax.jit(jax.vmap(run)).lower(*blocks[0]).compile()

    def timed():
        start = time.perf_counter()
        with ThreadPoolExecutor(num_workers) as pool:
            list(pool.map(lambda b: jax.block_until_ready(compiled(*b)), blocks))
        return time.perf_counter() - start

    return timed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4_000_000, help="environment steps per seed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint-every", type=float, default=1.0, help="minutes")
    arguments = parser.parse_args()
    config = po.ExperimentConfig(num_seeds=arguments.seeds, total_steps=arguments.steps)
    workers, width = devices.share(arguments.seeds)
    bare = bare_scan(config, width, len(workers))
    ratios, times = [], []
    for _ in range(arguments.repeats):
        without = bare()
        with tempfile.TemporaryDirectory() as out:
            dataset = po.run(config, Path(out) / "run", checkpoint_every=arguments.checkpoint_every)
        times.append((without, dataset.attrs["run_seconds"]))
        ratios.append(times[-1][1] / times[-1][0])
        print(f"bare scan {times[-1][0]:.1f} s, run {times[-1][1]:.1f} s, ratio {ratios[-1]:.3f}")
    bare_median, run_median = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{config.algorithm.name} on {config.env}, {arguments.seeds} seeds × {arguments.steps:,} "
        f"steps, {width} lanes on each of {len(workers)} workers, checkpoints every "
        f"{arguments.checkpoint_every:g} min: median run / bare = {run_median / bare_median:.3f} "
        f"(min {min(ratios):.3f}, max {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
