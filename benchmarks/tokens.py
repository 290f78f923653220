"""What GRPO learns of the token tasks, how fast: greedy exact match on fresh prompts, per seed.

    python benchmarks/tokens.py [--tasks copy sort …] [--policies transformer gru] [--seeds 16]
                                [--num-heads H] [--mlp-ratio M]

Each row is one run of a task's preset over the seeds, with the transformer or with a GRU of 32
units in its place; the last two flags change the transformer's size. Mean and minimum over seeds:
an interquartile mean would hide one that is stuck. Tokens per second count every position of every
rollout, sampled and trained on, compile time apart.
"""

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path

import measure
import tables

import purejax_po as po
from purejax_po.experiment.config import PRESETS, NetworkConfig

TASKS = ("copy", "reverse", "sort", "addition")
NUM_PROMPTS = 1024
COLUMNS = (
    *("task", "policy", "exact match, mean", "worst seed", "tokens/s"),
    *("compile (s)", "run (s)"),
)
GRU = {
    "addition": {"learning_rate": 3e-3, "entropy_coef": 0.02},
    "copy": {"learning_rate": 5e-3, "entropy_coef": 0.05},
    "reverse": {"learning_rate": 5e-3, "entropy_coef": 0.05},
    "sort": {"learning_rate": 5e-3, "entropy_coef": 0.05},
}
"""The GRU's hyperparameters where they are not the preset's."""


def configuration(
    task: str, policy: str, num_seeds: int, first_seed: int, size: dict[str, int]
) -> po.ExperimentConfig:
    """The preset of a task, with the policy asked for; `size` changes the transformer's."""
    preset = PRESETS[f"grpo-{task}"]
    algorithm = preset.algorithm
    if policy == "gru":
        algorithm = dataclasses.replace(
            algorithm,
            network=NetworkConfig(hidden=(32,), memory="gru"),
            hyperparams=algorithm.hyperparams.replace(**GRU[task]),
        )
    elif size:
        network = dataclasses.replace(algorithm.network, **size)
        algorithm = dataclasses.replace(algorithm, network=network)
    return po.ExperimentConfig(
        algorithm=algorithm,
        env=preset.env,
        total_steps=preset.total_steps,
        num_seeds=num_seeds,
        first_seed=first_seed,
    )


def main() -> None:
    """Print one row per task and policy, as soon as it is known."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--policies", nargs="+", default=("transformer", "gru"))
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--num-heads", type=int)
    parser.add_argument("--mlp-ratio", type=int)
    measure.add_keep(parser)
    arguments = parser.parse_args()
    given = {"num_heads": arguments.num_heads, "mlp_ratio": arguments.mlp_ratio}
    size = {name: value for name, value in given.items() if value is not None}
    print(f"seeds {arguments.first_seed} … {arguments.first_seed + arguments.seeds - 1}")
    print("task      policy        mean     min    tokens/s  compile + run    load")
    rows = []
    for policy in arguments.policies:
        for task in arguments.tasks:
            config = configuration(task, policy, arguments.seeds, arguments.first_seed, size)
            with tempfile.TemporaryDirectory() as folder:
                summary = po.summarize(po.run(config, Path(folder) / "run", progress=False))
                returns = po.evaluate_run(Path(folder) / "run", num_episodes=NUM_PROMPTS)
            # An exact output earns its whole share of right tokens, 1, and the bonus, 1.
            exact = (returns["episode_return"] > 2.0 - 1e-3).mean("episode").values
            seconds = f"{summary['compile_seconds']:.0f} + {summary['run_seconds']:.0f} s"
            rate, load = summary["env_steps_per_second"], os.getloadavg()[0]
            found = f"{exact.mean():6.3f}  {exact.min():6.3f}  {rate:10,.0f}  {seconds:>13}"
            print(f"{task:9} {policy:11} {found}  {load:6.1f}", flush=True)
            numbers = (f"{exact.mean():.3f}", f"{exact.min():.3f}", f"{rate:,.0f}")
            rows.append([task, policy, *numbers, *seconds.removesuffix(" s").split(" + ")])
    if arguments.keep is not None:
        measure.keep("tokens", {"tasks": tables.structured(COLUMNS, rows)})


if __name__ == "__main__":
    main()
