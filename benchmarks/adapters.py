"""Steps per second of a library's own vmapped stepping, of its adapter, and of PPO on it.

    python benchmarks/adapters.py navix/Navix-Empty-8x8-v0 --total-steps 300000

Both sides step the same number of environments with random actions in one scan, with resets: the
library's by what it offers itself (a select between reset and step where it offers none).
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import purejax_po as po
from purejax_po import spaces
from purejax_po.environments.adapters import raw


def library_step(env: Any) -> Any:
    """`(reset, step)` of the library itself, `key → state` and `(key, state, action) → state`."""
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
    space = env.action_space(None)

    def draw(key: Any) -> Any:
        if spaces.kind(space) == "discrete":
            return jax.random.randint(key, (num_envs,), 0, space.n)
        return jax.random.uniform(key, (num_envs, *space.shape), minval=-1.0)

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


def learn(env: Any, env_params: Any, args: argparse.Namespace) -> None:
    """Train PPO with several seeds and print the learning curve."""
    continuous = spaces.kind(env.action_space(env_params)) == "box"
    chosen = {"action_distribution": "tanh_gaussian"} if continuous else {}
    networks = po.mlp_actor_critic(env, env_params, hidden=(64, 64), **chosen)
    algorithm = po.ppo(*networks, po.PPOOptions(num_epochs=4, num_minibatches=8))
    trainer = po.make_trainer(
        env, env_params, algorithm, num_envs=args.num_envs, num_steps=128,
        normalize_observations=continuous,
    )  # fmt: skip
    updates = args.total_steps // trainer.steps_per_update
    train = po.make_train(trainer, num_updates=updates, log_every=-(-updates // 6))
    run = jax.jit(jax.vmap(train, in_axes=(0, None)))
    keys = po.seed_keys(range(args.seeds))
    began = time.perf_counter()
    compiled = run.lower(keys, algorithm.hyperparams).compile()
    print(f"  compiled in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    result = jax.block_until_ready(compiled(keys, algorithm.hyperparams))
    seconds = time.perf_counter() - began
    returns = np.asarray(result.log.episode_return.mean)
    print(f"  PPO {args.seeds * updates * trainer.steps_per_update / seconds:,.0f} steps/s")
    for seed, curve in enumerate(returns):
        print(f"  seed {seed}: mean returns in sixths of training", *(f"{x:.3f}" for x in curve))


def main() -> None:
    """Print rates and curves of each environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=1000)
    parser.add_argument("--total-steps", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    for name in args.names:
        env, env_params = po.make_env(name)
        print(f"{name}, {args.num_envs} environments", flush=True)
        pairs = library_step(env), adapter_step(env, env_params)
        sides = [rounds_of(pair, env, args.num_envs, args.num_steps) for pair in pairs]
        # In turns, since the machine may be at other work meanwhile.
        rates = np.array([[side(i) for side in sides] for i in range(args.rounds)])
        (bare, ours), ratio = rates.max(axis=0), np.median(rates[:, 1] / rates[:, 0])
        print(
            f"  library {bare:,.0f}, adapter {ours:,.0f} steps/s (best); ratio {ratio:.2f} (median)"
        )
        if args.total_steps:
            learn(env, env_params, args)


if __name__ == "__main__":
    main()
