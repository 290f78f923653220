"""How the normalisation by length moves the lengths of GRPO's outputs, over 32 seeds.

    python benchmarks/length_bias.py [--seeds 32] [--updates 40]

Reward 1 for a first token that repeats the prompt; what follows, and how much, earns nothing. So
nothing in the reward tells long from short, and the gradient of the expected reward leaves lengths
alone. Dividing an output's loss by its own length does not: a wrong output is pushed down the less
the longer it is, a right one is pushed up the more the shorter it is.
"""

import argparse
import os
from typing import Any, get_args

import jax
import jax.numpy as jnp
import measure
import tables

import purejax_po as po
from purejax_po.algorithms.group import LengthNormalization
from purejax_po.experiment.results import statistics

NUM_PROMPTS, GROUP_SIZE = 16, 8
COLUMNS = (
    *("normalisation", "length of wrong outputs", "of right ones", "wrong less right"),
    "share right",
)


def train_seeds(normalization: Any, num_seeds: int, first_seed: int, num_updates: int) -> Any:
    """Of each seed: mean length of wrong outputs, of right ones, and the share that is right."""
    task, env_params = po.make_env("tokens/length", longest=4, room=8)
    env = po.judge_outcome(task, lambda obs: jnp.float32(obs[1] == obs[0]))
    policy = po.gru_policy(env, env_params)
    hyperparams = po.GRPOHyperparams(learning_rate=3e-3, entropy_coef=0.0)
    algorithm = po.grpo(
        policy,
        po.GRPOOptions(
            group_size=GROUP_SIZE,
            advantage="centred",
            length_normalization=normalization,
            kl_form="off",
        ),
        hyperparams,
    )
    num_envs, num_steps = NUM_PROMPTS * GROUP_SIZE, task.max_tokens
    trainer = po.make_trainer(env, env_params, algorithm, num_envs=num_envs, num_steps=num_steps)
    train = po.make_train(trainer, num_updates=num_updates, log_every=num_updates)

    def run(key: jax.Array) -> Any:
        train_key, evaluate_key = jax.random.split(key)
        params = train(train_key, hyperparams).state.algorithm.params
        found = po.evaluate(
            evaluate_key,
            env,
            env_params,
            algorithm.actor,
            params,
            num_episodes=4096,
            num_steps=num_steps,
            greedy=False,
        )
        right, length = found.episode_return > 0.5, found.episode_length
        wrong_length, right_length = (
            jnp.sum(length * which) / jnp.maximum(jnp.sum(which), 1) for which in (~right, right)
        )
        return wrong_length - right_length, wrong_length, right_length, jnp.mean(right)

    seeds = po.seed_keys(jnp.arange(first_seed, first_seed + num_seeds))
    return jax.jit(jax.vmap(run))(seeds)


def interval(values: Any) -> str:
    """The mean over seeds, with a 95 % interval."""
    low, high = statistics.bootstrap_interval(values, statistics.mean)
    return f"{values.mean():6.2f} ({low:.2f} … {high:.2f})"


def main() -> None:
    """Print one row per normalisation."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=40)
    measure.add_keep(parser)
    given = parser.parse_args()
    kept = []
    print(f"{given.seeds} seeds, {given.updates} updates, load {os.getloadavg()[0]:.1f}")
    print("mean over seeds (95 % interval): length of wrong less right, wrong, right, share right")
    for name in get_args(LengthNormalization):
        rows = train_seeds(name, given.seeds, given.first_seed, given.updates)
        difference, wrong, right, share = (interval(x).strip() for x in jax.device_get(rows))
        print(f"{name:13}", difference, wrong, right, share, flush=True)
        kept.append([f"`{name}`", wrong, right, difference, share])
    if given.keep is not None:
        measure.keep("length_bias", {"lengths": tables.structured(COLUMNS, kept)})


if __name__ == "__main__":
    main()
