"""Policies of Brax's Hopper on Gymnasium's, whose engine is MuJoCo, beside random actions.

    python benchmarks/transfer.py [--seeds 8] [--total-steps 1000000] [--out runs/transfer] [--keep]

First the layout: both engines are put into the same random positions and velocities, and what they
observe is compared entry by entry. Then policies are trained on Brax and evaluated on both, as
`purejax-po evaluate runs/transfer --env gymnasium/Hopper-v5` does. Needs the extras `brax` and
`gymnasium`.
"""

import argparse
from pathlib import Path
from typing import Any

import adapters_cells as cells
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from measure import add_keep, data, keep, kept_as, table

import purejax_po as po
from purejax_po.environments.brax import repaired

EPISODES, STATES = 16, 256
NAMES = ("z", "angle", "thigh", "leg", "foot")
ENTRIES = (*NAMES, "x'", *(f"{name}'" for name in NAMES))
"""Of an observation of Hopper: positions, and velocities."""
ORIGINAL = "gymnasium/Hopper-v5"
NOTE = (
    "Means over seeds (16 episodes each, greedy) with a 95 % bootstrap interval; of random actions "
    "over as many groups of 16 episodes."
)


def layouts(name: str) -> list[dict[str, str]]:
    """Each entry of an observation in both engines, at the same positions and velocities."""
    theirs: Any = gymnasium.make(ORIGINAL.partition("/")[2]).unwrapped
    ours = po.make_env(name)[0].brax_env
    rng = np.random.default_rng(0)
    q = rng.uniform(-0.5, 0.5, (STATES, 6)).astype(np.float32)
    q[:, 1] = rng.uniform(0.0, 0.5, STATES)  # above the ground, from the height it stands at
    qd = rng.uniform(-5.0, 5.0, (STATES, 6)).astype(np.float32)

    @jax.jit
    @jax.vmap
    def see(q: Any, qd: Any) -> Any:
        with repaired():
            return ours._get_obs(ours.pipeline_init(q, qd))

    # Gymnasium counts heights from the ground, Brax's joint from where Hopper stands.
    standing = np.asarray(theirs.init_qpos) - np.asarray(ours.sys.init_q)
    seen = np.asarray(see(jnp.asarray(q), jnp.asarray(qd)))
    other = []
    for position, velocity in zip(q + standing, qd, strict=True):
        theirs.set_state(position.astype(float), velocity.astype(float))
        other.append(theirs._get_obs())
    difference = np.abs(seen - np.array(other)).max(axis=0)
    spread = np.array(other).std(axis=0)
    return [
        {"entry": entry, "largest difference": f"{x:.1g}", "spread of the states": f"{y:.2f}"}
        for entry, x, y in zip(ENTRIES, difference, spread, strict=True)
    ]


def trained(args: argparse.Namespace) -> Path:
    """The folder of the run, which is trained or resumed unless it is complete."""
    if (args.out / "config.json").exists():
        po.resume(args.out, progress=False)
        return args.out
    algorithm = po.PPOConfig(
        num_envs=8,
        num_steps=256,
        num_epochs=10,
        num_minibatches=32,
        hyperparams=po.PPOHyperparams(learning_rate=3e-4, entropy_coef=0.0),
    )
    config = po.ExperimentConfig(
        algorithm=algorithm,
        env=args.env,
        num_seeds=args.seeds,
        total_steps=args.total_steps,
        normalize_observations=True,
        normalize_rewards=True,
    )
    po.run(config, args.out, progress=False)
    return args.out


def interval(values: Any) -> str:
    """The mean over seeds with its interval, and how many they are."""
    low, high = po.statistics.bootstrap_interval(np.asarray(values), po.statistics.mean)
    return f"{np.mean(values):.0f} ({low:.0f} … {high:.0f}; {len(values)})"


def main() -> None:
    """Compare layouts, train, evaluate, and print both tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--env", default="brax/hopper:spring")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--total-steps", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    add_keep(parser)
    args = parser.parse_args()
    layout = layouts(args.env)
    print(table(layout), flush=True)
    out = trained(args)
    rows = []
    for name in (args.env, ORIGINAL):
        found = po.evaluate_run(out, env=name, num_episodes=EPISODES)
        random = cells.random_returns(name, range(args.seeds))
        rows.append(
            {
                "evaluated on": f"`{name}`",
                "return": interval(found["episode_return"].mean("episode").values),
                "random actions": interval(random),
                "steps of an episode": f"{float(found['episode_length'].mean()):.0f}",
            }
        )
    print(table(rows))
    if given := kept_as("transfer"):
        keep(given, {"layout": data(layout), "returns": data(rows)}, NOTE)


if __name__ == "__main__":
    main()
