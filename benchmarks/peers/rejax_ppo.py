"""rejax's PPO, vmapped over seeds; its evaluations during training are turned off."""

import functools
import json
import time

import gymnax
import jax
import jax.numpy as jnp
from rejax import PPO
from rejax.evaluate import evaluate
from serve import serve


class FiveValues:
    """A gymnax ≥ 1 environment whose step returns the five values that rejax expects."""

    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        if name == "env":  # while it is copied, and has none yet
            raise AttributeError(name)
        return getattr(self.env, name)

    def step(self, key, state, action, params):
        obs, state, reward, terminated, truncated, info = self.env.step(key, state, action, params)
        return obs, state, reward, jnp.logical_or(terminated, truncated), info


@functools.cache
def compiled(env_name, num_seeds, steps, settings, episodes):
    settings = json.loads(settings)
    hyperparams, network = settings["hyperparams"], settings["network"]
    env, env_params = gymnax.make(env_name)
    env = FiveValues(env)
    algorithm = PPO.create(
        env=env,
        env_params=env_params,
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
        num_envs=settings["num_envs"],
        num_steps=settings["num_steps"],
        num_epochs=settings["num_epochs"],
        num_minibatches=settings["num_minibatches"],
        learning_rate=hyperparams["learning_rate"],
        gamma=hyperparams["discount"],
        gae_lambda=hyperparams["gae_lambda"],
        clip_eps=hyperparams["clip_eps"],
        ent_coef=hyperparams["entropy_coef"],
        vf_coef=hyperparams["value_coef"],
        max_grad_norm=hyperparams["max_grad_norm"],
        agent_kwargs={
            "activation": network["activation"],
            "hidden_layer_sizes": tuple(network["hidden"]),
        },
    ).replace(eval_callback=lambda *_: ())

    def final_return(key, state):
        act = algorithm.make_act(state)
        length = int(env_params.max_steps_in_episode)
        return evaluate(act, key, env, env_params, episodes, length)[1].mean()

    start = time.perf_counter()
    keys = jax.vmap(jax.random.key)(jnp.arange(num_seeds))
    train = jax.jit(jax.vmap(lambda key: algorithm.train(key)[0])).lower(keys).compile()
    return train, jax.jit(jax.vmap(final_return)), time.perf_counter() - start


def run(job):
    job["settings"] = json.dumps(job["settings"])
    num_seeds, steps = len(job["seeds"]), job["steps"]
    train, final_return, compile_seconds = compiled(
        job["env"], num_seeds, steps, job["settings"], job["episodes"]
    )
    keys = jax.vmap(jax.random.key)(jnp.asarray(job["seeds"]))
    start = time.perf_counter()
    states = jax.block_until_ready(train(keys))
    seconds = time.perf_counter() - start
    return {
        "steps_per_second": num_seeds * steps / seconds,
        "compile_seconds": compile_seconds,
        "returns": final_return(keys, states).tolist(),
    }


if __name__ == "__main__":
    serve(run, "rejax", "jax", "jaxlib", "gymnax")
