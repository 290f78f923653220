"""The cells of `adapters.py`: an environment's speed beside its library's, and what is learned."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import purejax_po as po
from purejax_po import spaces
from purejax_po.environments.adapters import raw
from purejax_po.experiment.config import algorithm_config

KINDS = ("speed", "random", "ppo", "trpo")
EPISODES = 16
"""Of random actions, for each seed."""


class Task(NamedTuple):
    """An environment, and the settings of each algorithm on it."""

    threshold: float | None
    """A seed whose evaluation reaches it has solved the task; None: it has to beat chance."""
    steps: int
    """Of each seed."""
    ppo: Mapping[str, Any]
    """Options of PPO; `hyperparams` by field; `run`: fields of the experiment that differ."""
    trpo: Mapping[str, Any]
    run: Mapping[str, Any] = {}
    """Fields of the experiment."""


GRID_PPO = {
    "num_envs": 16,
    "num_steps": 64,
    "num_minibatches": 8,
    "hyperparams": {"learning_rate": 1e-3, "entropy_coef": 0.01},
}
EMPTY_PPO = {**GRID_PPO, "normalize_advantage": "off"}
"""Normalised, the critic's noise ended the exploration of one seed of the table's eight before it
had found the goal once, with entropy_coef 0.01 and with 0.03; this was tried on seeds 1000 to 1015.
"""
GRID_TRPO = {"num_envs": 16, "num_steps": 64, "hyperparams": {"max_kl": 0.02}}
GRID = {"evaluation_actions": "sampled"}
"""Policies without memory see a part of the grid: without chance they can go in circles."""
CONTROL = {"normalize_observations": True, "normalize_rewards": True}
CONTROL_PPO = {
    "num_envs": 8,
    "num_steps": 256,
    "num_epochs": 8,
    "num_minibatches": 16,
    "hyperparams": {"learning_rate": 1e-3, "entropy_coef": 0.0, "discount": 0.99},
}
CHEETAH_PPO = {
    "num_envs": 32,
    "num_steps": 64,
    "num_epochs": 10,
    "num_minibatches": 8,
    "hyperparams": {"learning_rate": 1e-3, "entropy_coef": 0.005, "discount": 0.99},
}
"""Tried on seeds 1000 and 1001."""
CHEETAH_TRPO = {"num_envs": 32, "num_steps": 128, "hyperparams": {"max_kl": 0.02}}
"""Not tried before the table's seeds."""
BALANCE_TRPO = {
    "num_envs": 8,
    "num_steps": 1024,  # whole episodes: batches of parts of them make it forget how to balance
    "critic_minibatch_size": 256,
    "hyperparams": {"max_kl": 0.02},
    # With nothing left to learn its steps stay as long, and can lose what it knows.
    "run": {
        "total_steps": 1_048_576,
        "num_windows": 40,
        "evaluate_every": 1,
        "stop_when_solved": 950.0,
    },
}
"""With half the steps two of the table's eight seeds stayed below 900. Only the number of steps was
changed after that look; with it all of the seeds 1000 to 1007 reach 950."""

TASKS = {
    "navix/Navix-Empty-8x8-v0": Task(0.95, 131_072, EMPTY_PPO, GRID_TRPO, GRID),
    "navix/Navix-DoorKey-5x5-v0": Task(0.95, 262_144, GRID_PPO, GRID_TRPO, GRID),
    "xminigrid/MiniGrid-Empty-8x8": Task(0.9, 131_072, GRID_PPO, GRID_TRPO, GRID),
    "xminigrid/MiniGrid-DoorKey-5x5": Task(0.9, 262_144, GRID_PPO, GRID_TRPO, GRID),
    "playground/CartpoleBalance": Task(
        900.0, 262_144, CONTROL_PPO, BALANCE_TRPO, {**CONTROL, "evaluation_episodes": 8}
    ),
    "playground/CheetahRun": Task(
        None, 524_288, CHEETAH_PPO, CHEETAH_TRPO, {**CONTROL, "evaluation_episodes": 4}
    ),
}
"""On grids of navix the return is 1 at the goal, so 0.95 is all of 16 episodes; on those of
XLand-MiniGrid it is 1 − 0.9·t/limit, so 0.9 is the goal within a ninth of the limit on average."""


def config_of(name: str, kind: str, seeds: Sequence[int]) -> po.ExperimentConfig:
    """The experiment of a cell, with one evaluation, after training, unless it says otherwise."""
    task = TASKS[name]
    options = dict(getattr(task, kind))
    default = algorithm_config(kind)()
    options["hyperparams"] = default.hyperparams.replace(**options.get("hyperparams", {}))
    fields = {"total_steps": task.steps, "num_windows": 20, "evaluate_every": 20}
    fields |= {**task.run, **options.pop("run", {})}
    return po.ExperimentConfig(
        algorithm=dataclasses.replace(default, **options),
        env=name,
        num_seeds=len(seeds),
        first_seed=seeds[0],
        **fields,
    )


def learn(name: str, kind: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Train all seeds and evaluate them: returns, curves and speed."""
    config = config_of(name, kind, seeds)
    found = po.run(config, progress=False)
    curve = found["episode_return"].values
    told = {
        "steps": int(found["step"].values[-1]),
        "returns": np.asarray(found["final_evaluation"].values, float).tolist(),
        "training_returns": np.asarray(found["final_return"].values, float).tolist(),
        "steps_per_second": float(found.attrs["env_steps_per_second"]),
        "compile_seconds": float(found.attrs["compile_seconds"]),
        "run_seconds": float(found.attrs["run_seconds"]),
        "config": config.to_dict(),
    }
    print(f"{name}, {kind}: compiled in {told['compile_seconds']:.0f} s", end=", ")
    print(f"run {told['run_seconds']:.0f} s, {told['steps_per_second']:,.0f} steps/s")
    for seed, line, last in zip(seeds, curve.reshape(len(seeds), -1), told["returns"], strict=True):
        print(f"  {seed}:", *(f"{x:.2f}" for x in line[::2]), f"| evaluated {last:.2f}", flush=True)
    return told


def random_returns(name: str, seeds: Sequence[int]) -> list[float]:
    """Mean return of uniformly random actions over the episodes of each seed."""
    env, env_params = po.make_env(name)
    draw = drawing(env, EPISODES)

    @jax.jit
    def one(key: Any) -> Any:
        reset_key, key = jax.random.split(key)
        keys = jax.random.split(reset_key, EPISODES)
        _, state = jax.vmap(env.reset, in_axes=(0, None))(keys, env_params)

        def body(carry: Any, key: Any) -> Any:
            state, total, running = carry
            act_key, step_key = jax.random.split(key)
            keys = jax.random.split(step_key, EPISODES)
            _, state, reward, terminated, truncated, _ = jax.vmap(
                env.step, in_axes=(0, 0, 0, None)
            )(keys, state, draw(act_key), env_params)
            return (state, total + running * reward, running & ~(terminated | truncated)), None

        start = state, jnp.zeros(EPISODES), jnp.ones(EPISODES, bool)
        keys = jax.random.split(key, env_params.max_steps_in_episode)
        return jax.lax.scan(body, start, keys)[0][1].mean()

    return [float(one(key)) for key in po.seed_keys(np.asarray(seeds))]


def drawing(env: Any, num_envs: int) -> Any:
    """Return `key → actions`, uniformly random ones."""
    space = env.action_space(None)

    def draw(key: Any) -> Any:
        if spaces.kind(space) == "discrete":
            return jax.random.randint(key, (num_envs,), 0, space.n)
        return jax.random.uniform(key, (num_envs, *space.shape), minval=-1.0)

    return draw


def library_step(env: Any) -> Any:
    """`(reset, step)` of the library itself, `key → state` and `(key, state, action) → state`.

    With resets as the library offers them: a select between reset and step where it has none.
    """
    library, game = env.name.partition("/")[0], env.game
    if library == "navix":
        return lambda key: game.reset(raw(key)), lambda key, state, action: game.step(state, action)
    if library == "xminigrid":
        import xminigrid
        from xminigrid.wrappers import GymAutoResetWrapper

        game, rules = xminigrid.make(env.name.partition("/")[2])
        game = GymAutoResetWrapper(game)
        return (
            lambda key: game.reset(rules, raw(key)),
            lambda key, state, action: game.step(rules, state, action),
        )

    def step(key: Any, state: Any, action: Any) -> Any:
        new, count = game.step(state[0], action), state[1] + 1
        ended = (new.done > 0) | (count >= env.default_params.max_steps_in_episode)
        # As Playground's own training wrapper: back to the episode's first state.
        first = state[2]
        data, obs = jax.tree.map(lambda x, y: jnp.where(ended, x, y), first, (new.data, new.obs))
        return new.replace(data=data, obs=obs), jnp.where(ended, 0, count), first

    def reset(key: Any) -> Any:
        state = game.reset(raw(key))
        return state, jnp.int32(0), (state.data, state.obs)

    return reset, step


def adapter_step(env: Any, env_params: Any) -> Any:
    """The same of the adapter."""
    return (
        lambda key: env.reset(key, env_params)[1],
        lambda key, state, action: env.step(key, state, action, env_params)[1],
    )


def rounds_of(pair: Any, env: Any, num_envs: int, num_steps: int) -> Any:
    """Return a function that makes `num_envs` × `num_steps` random steps: steps per second."""
    reset, step = pair
    draw = drawing(env, num_envs)

    @jax.jit
    def run(key: Any, state: Any) -> Any:
        def body(state: Any, key: Any) -> Any:
            act_key, step_key = jax.random.split(key)
            keys = jax.random.split(step_key, num_envs)
            return jax.vmap(step)(keys, state, draw(act_key)), None

        return jax.lax.scan(body, state, jax.random.split(key, num_steps))[0]

    state = jax.jit(jax.vmap(reset))(jax.random.split(jax.random.key(0), num_envs))
    state = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)
    state = jax.block_until_ready(run(jax.random.key(1), state))

    def timed(i: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(run(jax.random.key(i), state))
        return num_envs * num_steps / (time.perf_counter() - start)

    return timed


def speed(name: str, *, num_envs: int, num_steps: int, rounds: int) -> dict[str, Any]:
    """Steps per second of the library's own stepping and of the adapter's, in turns."""
    env, env_params = po.make_env(name)
    pairs = library_step(env), adapter_step(env, env_params)
    sides = [rounds_of(pair, env, num_envs, num_steps) for pair in pairs]
    # In turns, since the machine may be at other work meanwhile.
    rates = np.array([[side(i) for side in sides] for i in range(rounds)])
    library, adapter = rates.max(axis=0).tolist()
    ratio = float(np.median(rates[:, 1] / rates[:, 0]))
    print(f"{name}: library {library:,.0f}, adapter {adapter:,.0f} steps/s; ratio {ratio:.2f}")
    return {"library": library, "adapter": adapter, "ratio": ratio}
