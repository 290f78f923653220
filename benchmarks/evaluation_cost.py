"""What evaluation in training costs: the same run with and without it, in interleaved rounds.

    python benchmarks/evaluation_cost.py [--seeds 16] [--steps 500000] [--rounds 5] [--keep]

PPO on CartPole; 16 episodes at every tenth window of a hundred. The time is that of a run without
compilation; each round trains both. Training results are compared to the bit.
"""

import argparse

import numpy as np
from measure import add_keep, interleave, ratios, table, write

import purejax_po as po

EPISODES = 16
EVERY = 10


def main() -> None:
    """Measure, and print a table of one row."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=500_000, help="environment steps per seed")
    parser.add_argument("--rounds", type=int, default=5)
    add_keep(parser)
    args = parser.parse_args()
    plain = po.ExperimentConfig(num_seeds=args.seeds, total_steps=args.steps)
    judged = po.ExperimentConfig(
        num_seeds=args.seeds,
        total_steps=args.steps,
        evaluate_every=EVERY,
        evaluation_episodes=EPISODES,
    )
    cases = {
        "with": lambda: po.run(judged, progress=False),
        "without": lambda: po.run(plain, progress=False),
    }
    found = interleave(cases, args.rounds)
    for ours, theirs in zip(found["with"], found["without"], strict=True):
        np.testing.assert_array_equal(ours["episode_return"], theirs["episode_return"])
    seconds = {k: [x.attrs["run_seconds"] for x in runs] for k, runs in found.items()}
    ratio = ratios(seconds["with"], seconds["without"])
    rows = [
        {
            "task": "PPO on CartPole-v1",
            "seeds × steps": f"{args.seeds} × {args.steps:,}",
            "with / without evaluation": ratio.show(".3f"),
        }
    ]
    write("evaluation_cost", {"seconds": seconds}, table(rows), {"cost": rows})


if __name__ == "__main__":
    main()
