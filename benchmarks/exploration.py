"""Where chance finds no reward: restarts, demonstrations and shaping, each against plain training.

    python benchmarks/exploration.py            # a table, and docs/exploration.png
    python benchmarks/exploration.py --quick    # two seeds and few steps, to see that it works

Every policy is evaluated greedily in the true environment: its own start, its own rewards.
The settings were chosen on seeds below 100; the figures come from seeds that played no part in it.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import tables
from scipy import stats

import purejax_po as po
from purejax_po import minibatch, rollout
from purejax_po.experiment.results import statistics
from purejax_po.networks import softmax_linear_policy
from purejax_po.training import run_window

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito: told apart by everybody
OUT = Path(__file__).parent.parent / "docs" / "exploration.png"
FIRST_SEED = 1000
CHAIN_LENGTH = 16
MOUNTAIN_CAR_SOLVED = -130.0


class Run(NamedTuple):
    """Mean returns in the true environment, `[seeds, windows + 1]`, before and during training."""

    episode_return: Any
    steps: Any
    """Environment steps per seed, `[windows + 1]`."""
    seconds: float
    """Compiling included."""


def keys(num_seeds: int) -> Any:
    return po.seed_keys(FIRST_SEED + np.arange(num_seeds))


def train(
    train_env: Any,
    env: Any,
    env_params: Any,
    algorithm: po.Algorithm,
    *,
    num_seeds: int,
    num_steps: int,
    num_envs: int,
    rollout_steps: int,
    num_windows: int,
    num_episodes: int,
    clones: Any = None,
) -> Run:
    """Train all seeds in `train_env`, and evaluate them in `env` after every window."""
    updates = num_steps // (num_envs * rollout_steps * num_windows)

    def one(key: Any, params: Any) -> Any:
        start = algorithm if params is None else po.warm_start(algorithm, params)
        trainer = po.make_trainer(
            train_env, env_params, start, num_envs=num_envs, num_steps=rollout_steps
        )

        def evaluate(state: Any) -> Any:
            return po.evaluate(
                jax.random.key(0),
                env,
                env_params,
                algorithm.actor,
                state.algorithm.params,
                num_episodes=num_episodes,
                num_steps=env_params.max_steps_in_episode,
            ).episode_return.mean()

        def window(state: Any, _: Any) -> Any:
            length = jnp.int32(updates)
            state, _ = run_window(trainer, algorithm.hyperparams, state, env_params, length)
            return state, evaluate(state)

        state = trainer.init(key, algorithm.hyperparams, env_params, updates * num_windows)
        before = evaluate(state)
        _, during = jax.lax.scan(window, state, length=num_windows)
        return jnp.concatenate([before[None], during])

    start = time.perf_counter()
    found = jax.device_get(jax.jit(jax.vmap(one))(keys(num_seeds), clones))
    steps = updates * num_envs * rollout_steps * np.arange(num_windows + 1)
    return Run(found, steps, time.perf_counter() - start)


# --- the chain -----------------------------------------------------------------------------------


def demonstrations(key: Any, env: Any, env_params: Any, num_steps: int) -> tuple[Any, Any]:
    """What a demonstrator sees and does who takes the right action in nine steps of ten."""
    policy = softmax_linear_policy(env, env_params)
    right = env.advancing_action(jnp.arange(env.length + 1))
    logits = jnp.log(jnp.where(jax.nn.one_hot(right, env.num_actions) > 0, 0.9, 0.05))
    start = rollout.reset(key, env, env_params, policy, 1)
    _, seen, _ = rollout.collect(key, env, env_params, policy, logits, start, num_steps)
    return minibatch.flatten_time((seen.obs, seen.action))


def chain(num_seeds: int, num_steps: int, num_windows: int) -> dict[str, Run]:
    """PPO with its defaults on the chain: from scratch, and with either remedy."""
    env, env_params = po.make_env("Chain-v0", length=CHAIN_LENGTH)
    policy, critic = po.mlp_actor_critic(env, env_params)

    def clone(key: Any) -> Any:
        shown = demonstrations(jax.random.fold_in(key, 1), env, env_params, num_steps=256)
        return po.behaviour_clone(key, env, env_params, policy, *shown).params

    cases = {
        "from scratch": (env, None),
        "uniform resets": (po.reset_from(env, env.states()), None),
        "cloned start": (env, jax.jit(jax.vmap(clone))(keys(num_seeds))),
    }
    return {
        name: train(
            train_env,
            env,
            env_params,
            po.ppo(policy, critic),
            num_seeds=num_seeds,
            num_steps=num_steps,
            num_envs=4,
            rollout_steps=128,
            num_windows=num_windows,
            num_episodes=1,  # a greedy policy on the chain leaves nothing to chance
            clones=clones,
        )
        for name, (train_env, clones) in cases.items()
    }


# --- MountainCar ---------------------------------------------------------------------------------


def standardized(network: Any, box: Any) -> Any:
    """The network, seeing observations shifted and scaled from the bounds of their space to ±1."""
    middle, half = (box.high + box.low) / 2, (box.high - box.low) / 2

    def step(params: Any, carry: Any, obs: Any, start: Any) -> Any:
        return network.step(params, carry, (obs - middle) / half, start)

    def unroll(params: Any, carry: Any, obs: Any, start: Any) -> Any:
        return network.unroll(params, carry, (obs - middle) / half, start)

    return network._replace(step=step, unroll=unroll)


def mountain_car(num_seeds: int, num_steps: int, num_windows: int) -> dict[str, Run]:
    """TRPO with its defaults on MountainCar-v0: as it is, and with a height potential."""
    env, env_params = po.make_env("MountainCar-v0")
    box = env.observation_space(env_params)
    networks = po.mlp_actor_critic(env, env_params, hidden=(32, 32))
    algorithm = po.trpo(*(standardized(network, box) for network in networks))

    def height(state: Any) -> Any:
        return 10.0 * jnp.sin(3.0 * state.position)

    cases = {
        "unshaped": env,
        "height potential": po.shape_reward(env, height, algorithm.hyperparams.discount),
    }
    return {
        name: train(
            train_env,
            env,
            env_params,
            algorithm,
            num_seeds=num_seeds,
            num_steps=num_steps,
            num_envs=8,
            rollout_steps=128,
            num_windows=num_windows,
            num_episodes=50,
        )
        for name, train_env in cases.items()
    }


# --- what comes out ------------------------------------------------------------------------------


def share(solved: Any) -> tuple[Any, Any, Any]:
    """Share of seeds `[seeds, ...] → [...]`, with its 95 % interval (Clopper and Pearson)."""
    count, size = solved.sum(axis=0), solved.shape[0]
    low, high = stats.beta.ppf(
        [[0.025], [0.975]], [count, count + 1], [size - count + 1, size - count]
    )
    return count / size, np.where(count == 0, 0.0, low), np.where(count == size, 1.0, high)


def print_table(on_chain: dict[str, Run], on_car: dict[str, Run]) -> None:
    print(f"Chain-v0, length {CHAIN_LENGTH}: share of seeds that reach the end from its start")
    for name, run in on_chain.items():
        value, low, high = (100.0 * x for x in share(run.episode_return == 1.0))
        print(
            f"  {name:<17} {value[-1]:5.1f} %  (95 % CI {low[-1]:.1f} … {high[-1]:.1f})"
            f"  before training {value[0]:5.1f} %"
            f"  {len(run.episode_return)} seeds, {run.steps[-1]:,} steps, {run.seconds:.0f} s"
        )
    print("MountainCar-v0: IQM over seeds of the true return")
    for name, run in on_car.items():
        final = run.episode_return[:, -1]
        low, high = statistics.bootstrap_interval(final)
        print(
            f"  {name:<17} {statistics.iqm(final):6.1f}  (95 % CI {low:.1f} … {high:.1f})"
            f"  min {final.min():.1f}, max {final.max():.1f}"
            f"  {len(final)} seeds, {run.steps[-1]:,} steps, {run.seconds:.0f} s"
        )


def keep(on_chain: dict[str, Run], on_car: dict[str, Run]) -> None:
    """Write the table as data."""
    chain, car = [], []
    for name, run in on_chain.items():
        value, low, high = (100.0 * x for x in share(run.episode_return == 1.0))
        spread = f"{value[-1]:.1f}% ({low[-1]:.1f}% … {high[-1]:.1f}%)"
        chain.append([name, spread, f"{value[0]:.1f}%"])
    for name, run in on_car.items():
        final = run.episode_return[:, -1]
        low, high = statistics.bootstrap_interval(final)
        spread = f"{statistics.iqm(final):.1f} ({low:.1f} … {high:.1f})"
        car.append([name, spread, f"{final.min():.1f}", f"{final.max():.1f}"])
    measure.keep(
        "exploration",
        {
            "chain": tables.structured(
                ["PPO, training", "seeds that solve it", "before training"], chain
            ),
            "mountain_car": tables.structured(
                ["TRPO, rewards", "true return, IQM", "min", "max"], car
            ),
        },
    )


def draw(on_chain: dict[str, Run], on_car: dict[str, Run], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = ((BLUE, "-"), (GREEN, "--"), (ORANGE, "-"))
    for (name, run), (color, line) in zip(on_chain.items(), styles, strict=True):
        value, low, high = (100.0 * x for x in share(run.episode_return == 1.0))
        curve(left, run.steps, value, low, high, name, color, line)
    left.set_title(f"PPO on Chain-v0, {len(run.episode_return)} seeds")
    left.set_ylabel("seeds that solve it from the true start (%)")
    left.set_ylim(-4, 104)
    left.legend(loc="center right", frameon=False)
    for (name, run), (color, line) in zip(on_car.items(), styles[::2], strict=True):
        low, high = statistics.bootstrap_interval(run.episode_return, num_resamples=500)
        middle = statistics.iqm(run.episode_return)
        curve(right, run.steps, middle, low, high, name, color, line)
    right.axhline(MOUNTAIN_CAR_SOLVED, color="0.4", lw=1, ls=":")
    right.annotate(
        f"solved: −{-MOUNTAIN_CAR_SOLVED:.0f}",
        (0, MOUNTAIN_CAR_SOLVED),
        (2, 3),
        textcoords="offset points",
        color="0.3",
    )
    right.set_title(f"TRPO on MountainCar-v0, {len(run.episode_return)} seeds")
    right.set_ylabel("true return (IQM over seeds)")
    right.set_ylim(-204, -96)
    right.legend(loc="upper left", frameon=False)
    for ax in (left, right):
        ax.set_xlabel("thousand environment steps per seed")
        ax.grid(alpha=0.3)
    figure.supxlabel("bands: 95 % intervals over seeds", fontsize=9, color="0.3")
    figure.savefig(path, dpi=150)
    print(f"picture: {path}")


def curve(ax: Any, steps: Any, middle: Any, low: Any, high: Any, *style: Any) -> None:
    name, color, line = style
    ax.plot(steps / 1000, middle, color=color, ls=line, lw=2, label=name)
    ax.fill_between(steps / 1000, low, high, color=color, alpha=0.2, lw=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds and few steps")
    parser.add_argument("--chain-seeds", type=int, default=64, help="seeds on the chain")
    parser.add_argument("--car-seeds", type=int, default=64, help="seeds on MountainCar")
    parser.add_argument("--out", type=Path, default=None, help=f"picture (default: {OUT})")
    measure.add_keep(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        runs = chain(2, 2_048, 2), mountain_car(2, 4_096, 2)
    else:
        runs = (
            chain(arguments.chain_seeds, 102_400, 20),
            mountain_car(arguments.car_seeds, 131_072, 16),
        )
    print_table(*runs)
    if arguments.keep is not None:
        keep(*runs)
    if arguments.out or not arguments.quick:
        draw(*runs, arguments.out or OUT)


if __name__ == "__main__":
    main()
