"""What masks of actions and a critic of hidden fields are worth: same settings, with and without.

    python benchmarks/masks.py levers jumanji/Snake-v1 pgx/2048 disturbed --seeds 16 [--keep]

With masks every action of `--steps` steps is compared with its mask. Returns are means over
training, by seed; the interval is that of the paired differences (Student, 95 %). What stands in
`--out` is read.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measure import add_keep, data, keep, kept_as, table

import purejax_po as po
from purejax_po import rollout, spaces
from purejax_po.experiment import files as atomic
from purejax_po.testing.fields import Disturbed, masked_levers

HALF_WIDTH = {8: 2.365, 16: 2.131, 32: 2.040}
"""Student's 97.5 % quantile of a mean over so many seeds."""
WITH = "masks"
SNAKE, SNAKE_LIMIT = "jumanji/Snake-v1", 200
"""In steps: with masks Snake can go in circles for long, and only episodes that end are counted."""
NOTE = (
    "Returns of training (actions are sampled), means over seeds; differences are paired by seed, "
    "with a 95 % interval by Student's quantiles. Invalid actions: of the trained policy of seed "
    "0. Snake's episodes have 200 steps at most."
)


def make(name: str) -> Any:
    """An environment by name, and the options of its networks to compare."""
    masks = {WITH: {}, "no masks": {"mask_actions": False}}
    if name == "levers":
        env = masked_levers()
        return env, env.default_params, masks
    if name == "disturbed":
        critics = {"critic sees hidden fields": {}, "critic sees the policy's": ("state",)}
        return (
            Disturbed(),
            Disturbed().default_params,
            {label: {"critic_fields": fields or ()} for label, fields in critics.items()},
        )
    env, env_params = po.make_env(name)
    if name == SNAKE:
        env_params = env_params.replace(max_steps_in_episode=SNAKE_LIMIT)
    return env, env_params, masks


def trainer_of(
    env: Any, env_params: Any, name: str, args: argparse.Namespace, options: Any
) -> po.Trainer:
    """PPO or TRPO with the settings that both sides share."""
    networks = po.mlp_actor_critic(env, env_params, hidden=(args.hidden,) * 2, **options)
    if name == "trpo":
        algorithm = po.trpo(*networks, po.TRPOOptions(critic_minibatch_size=args.num_envs * 16))
    else:
        hyperparams = po.PPOHyperparams(learning_rate=3e-3)
        algorithm = po.ppo(*networks, po.PPOOptions(clip_value=False), hyperparams)
    return po.make_trainer(
        env, env_params, algorithm, num_envs=args.num_envs, num_steps=args.length
    )


def is_valid(env: Any, env_params: Any, transition: Any) -> Any:
    """Whether each action was valid, `[T, N]`."""
    mask, action = transition.obs["action_mask"], transition.action
    lead = action.shape[: mask.ndim - 1] if action.ndim < 3 else action.shape[:2]
    factors = spaces.choices(env.action_space(env_params))
    if factors is None:
        return jnp.take_along_axis(mask, action[..., None], axis=-1)[..., 0]
    flat = mask.reshape(*lead, -1)
    if mask.shape[2:] == factors.sizes:
        index = jnp.ravel_multi_index(
            tuple(jnp.moveaxis(action, -1, 0)), factors.sizes, mode="clip"
        )
        return jnp.take_along_axis(flat, index[..., None], axis=-1)[..., 0]
    starts = np.cumsum((0, *factors.sizes))[:-1]
    return jnp.take_along_axis(flat, action + starts, axis=-1).all(axis=-1)


def count_invalid(trainer: po.Trainer, params: Any, num_steps: int) -> tuple[int, int]:
    """Steps, and how many of their actions were not valid, sampled by one policy."""
    env, env_params, actor = trainer.env, trainer.env_params, trainer.actor

    @jax.jit
    def some(key: Any, state: Any) -> Any:
        state, transition, _ = rollout.collect(key, env, env_params, actor, params, state, 128)
        valid = is_valid(env, env_params, transition)
        return state, jnp.sum(
            ~valid
            & transition.obs["action_mask"].any(
                axis=tuple(range(2, transition.obs["action_mask"].ndim))
            )
        )

    state, wrong, steps = rollout.reset(jax.random.key(1), env, env_params, actor, 64), 0, 0
    while steps < num_steps:
        state, found = some(jax.random.key(steps), state)
        wrong, steps = wrong + int(found), steps + 64 * 128
    return steps, wrong


def measured(name: str, algorithm: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train both sides of an environment: curves, paired differences, invalid actions."""
    env, env_params, sides = make(name)
    print(f"{name}, {algorithm}, {args.total_steps} steps, {args.seeds} seeds", flush=True)
    found: dict[str, Any] = {"name": name, "algorithm": algorithm, "steps": args.total_steps}
    means = []
    for label, options in sides.items():
        trainer = trainer_of(env, env_params, algorithm, args, options)
        updates = args.total_steps // trainer.steps_per_update
        train = po.make_train(trainer, num_updates=updates, log_every=-(-updates // 6))
        run = jax.jit(jax.vmap(train, in_axes=(0, None)))
        began = time.perf_counter()
        result = run(po.seed_keys(args.seeds), trainer.algorithm.hyperparams)
        log = jax.device_get(result.log.episode_return)
        curve = " ".join(f"{x:.2f}" for x in log.mean.mean(axis=0))
        whole = (log.count * log.mean).sum(axis=1) / log.count.sum(axis=1)
        means.append(np.stack([whole, log.mean[:, -1]]))
        seconds = time.perf_counter() - began
        print(f"  {label}: mean return in sixths {curve} ({seconds:.0f} s)", flush=True)
        found[label] = {"all episodes": whole.tolist(), "last sixth": log.mean[:, -1].tolist()}
        if label == WITH:
            params = jax.tree.map(lambda x: x[0], result.state.acting_params)
            steps, wrong = count_invalid(trainer, params, args.steps)
            found["invalid"] = [wrong, steps]
            print(f"    invalid actions: {wrong} of {steps}", flush=True)
    return found


def row(found: dict[str, Any]) -> dict[str, str]:
    """One row of the table."""
    labels = [x for x in found if isinstance(found[x], dict)]
    one, other = (found[label] for label in labels)
    told = {
        "environment": f"`{found['name']}`",
        "algorithm": found["algorithm"].upper(),
        "steps × seeds": f"{found['steps']:,} × {len(one['all episodes'])}",
        "with / without": labels[0],
    }
    for label, side in (("with", one), ("without", other)):
        told[f"last sixth, {label}"] = f"{np.mean(side['last sixth']):.2f}"
    for what in one:
        difference = np.array(one[what]) - np.array(other[what])
        half = HALF_WIDTH[len(difference)] * difference.std(ddof=1) / np.sqrt(len(difference))
        mean = difference.mean()
        told[f"difference, {what}"] = f"{mean:.2f} ({mean - half:.2f} … {mean + half:.2f})"
    wrong, steps = found.get("invalid", (None, 0))
    told["invalid actions"] = "–" if wrong is None else f"{wrong} of {steps:,}"
    return told


def main() -> None:
    """Train both sides of each environment, and print curves and differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--algorithms", nargs="+", choices=("ppo", "trpo"), default=["ppo"])
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--total-steps", type=int, default=65_536)
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("runs/masks"))
    add_keep(parser)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.names:
        for algorithm in args.algorithms:
            path = args.out / f"{name.replace('/', '-')}.{algorithm}.json"
            if not path.exists():
                atomic.write_json(path, measured(name, algorithm, args))
            rows.append(row(json.loads(path.read_text())))
    print(table(rows))
    if given := kept_as("masks"):
        keep(given, {"gains": data(rows)}, NOTE)


if __name__ == "__main__":
    main()
