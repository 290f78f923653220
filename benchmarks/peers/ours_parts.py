"""Parts of our PPO's update on one of Brax's environments (`parts.py`), one seed."""

import functools
import sys
from pathlib import Path

import jax
from ours import configured
from parts import Part, serve_parts, stepping

import purejax_po as po
from purejax_po import rollout

sys.path.insert(0, str(Path(__file__).parents[1]))
from timed import Timed


def make(job):
    config = configured(job["algorithm"], job["settings"])
    timed = Timed(config, job["env"], range(1), job["updates"], 1)
    env, env_params, trainer = timed.env, timed.env_params, timed.trainer
    size = config.num_envs, config.num_steps, env.brax_env.action_size
    keys = jax.random.split(jax.random.key(0), config.num_envs)
    begin = jax.jit(trainer.init)(jax.random.key(0), trainer.algorithm.hyperparams)

    def physics(key, state, action):
        state = jax.vmap(env.brax_env.step)(state, action)
        return state, (state.obs, state.reward, state.done)

    def advance(key, state, action, step):
        steps = jax.vmap(step, in_axes=(0, 0, 0, None))
        obs, state, *kept, _ = steps(
            jax.random.split(key, config.num_envs), state, action, env_params
        )
        return state, (obs, *kept)

    def collect(key, state):
        kept = trainer.env, env_params, trainer.actor, begin.acting_params
        state, *transitions = rollout.collect(key, *kept, state, config.num_steps)
        return state, transitions

    part = functools.partial(Part, compiler_options=po.compiler_options())
    states = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, env_params)[1]
    without = functools.partial(advance, step=env.step_env)
    parts = {
        "physics": part(stepping(physics, *size), jax.jit(jax.vmap(env.brax_env.reset))(keys)),
        "steps": part(stepping(without, *size), states),
        "resets": part(stepping(functools.partial(advance, step=env.step), *size), states),
        "rollout": part(collect, begin.rollout),
    }
    timed.run()
    return parts, {"whole": lambda: trainer.steps_per_update / timed.run()}


if __name__ == "__main__":
    serve_parts(make, "purejax-po", "jax", "jaxlib")
