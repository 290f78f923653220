"""What the host layer costs: a run with progress, log and checkpoints beside a bare jitted scan.

    python benchmarks/overhead.py [--seeds 16] [--steps 4000000] [--rounds 3] [--keep]

Both train the same seeds on as many threads with the same number of lanes in each program; the bare
one is `jax.jit(jax.vmap(train))` and nothing else. Runs are interleaved; the ratio is that of the
medians, beside its smallest and largest value.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
from measure import Figure, add_keep, interleave, ratios, table, write

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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint-every", type=float, default=1.0, help="minutes")
    add_keep(parser)
    arguments = parser.parse_args()
    config = po.ExperimentConfig(num_seeds=arguments.seeds, total_steps=arguments.steps)
    workers, width = devices.share(arguments.seeds)
    bare = bare_scan(config, width, len(workers))

    def run():
        with tempfile.TemporaryDirectory() as out:
            dataset = po.run(config, Path(out) / "run", checkpoint_every=arguments.checkpoint_every)
        return dataset.attrs["run_seconds"]

    found = interleave({"bare": bare, "run": run}, arguments.rounds)
    row = {
        "seeds × steps": f"{arguments.seeds} × {arguments.steps:,}",
        "lanes on each worker": f"{width} on {len(workers)}",
        "checkpoints every, min": f"{arguments.checkpoint_every:g}",
        "bare scan, s": Figure.of(found["bare"]).show(".1f"),
        "run, s": Figure.of(found["run"]).show(".1f"),
        "run / bare scan": ratios(found["run"], found["bare"]).show(".3f"),
    }
    write("overhead", {"rows": [row]}, table([row]), {"cost": [row]})


if __name__ == "__main__":
    main()
