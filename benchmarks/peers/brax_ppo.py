"""brax's PPO on its own environments, or on gymnax's with continuous actions; one seed at a time.

Its training runs in three equal parts: the first two may compile, the last is timed. A rollout is
one sequence per environment and a minibatch is whole sequences, so `num_minibatches` is the number
of environments at most. It has neither value clipping nor our ε of Adam; actions are Gaussian. It
resets an environment to the state that it first began in, where we draw a new one.
"""

import functools

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
from brax import envs
from brax.envs.base import Env, State
from brax.training.agents.ppo import networks, train
from serve import serve

PARTS = 3
EPISODE_LENGTH = 1000
"""As brax's own, and as our adapter's."""


class GymnaxEnv(Env):
    """A gymnax environment as brax's; brax ends and resets episodes itself."""

    backend = "gymnax"

    def __init__(self, name):
        self.env, self.params = gymnax.make(name)
        self.length = int(self.params.max_steps_in_episode)

    def reset(self, rng):
        obs, state = self.env.reset(rng, self.params)
        state = jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.asarray(x).dtype), state)
        return State(state, obs, jnp.float32(0), jnp.float32(0))

    def step(self, state, action):
        key = jax.random.key(0)  # the dynamics that are compared here have no noise
        obs, inner, reward, terminated, _ = self.env.step_env(
            key, state.pipeline_state, action, self.params
        )
        inner = jax.tree.map(lambda new, old: new.astype(old.dtype), inner, state.pipeline_state)
        done = jnp.float32(terminated)
        return state.replace(pipeline_state=inner, obs=obs, reward=jnp.float32(reward), done=done)

    @property
    def observation_size(self):
        return self.env.observation_space(self.params).shape[0]

    @property
    def action_size(self):
        return self.env.action_space(self.params).shape[0]


def make(name):
    """Return the environment, and the steps of its longest episode."""
    if not name.startswith("brax/"):
        env = GymnaxEnv(name)
        return env, env.length
    task, _, backend = name.removeprefix("brax/").partition(":")
    return envs.get_environment(task, **({"backend": backend} if backend else {})), EPISODE_LENGTH


def options(job, length):
    """Return the arguments of its training that our settings become."""
    settings, hyperparams = job["settings"], job["settings"]["hyperparams"]
    network = settings["network"]
    return {
        "episode_length": length,
        "num_envs": settings["num_envs"],
        "unroll_length": settings["num_steps"],
        "batch_size": settings["num_envs"] // settings["num_minibatches"],
        "num_minibatches": settings["num_minibatches"],
        "num_updates_per_batch": settings["num_epochs"],
        "learning_rate": hyperparams["learning_rate"],
        "discounting": hyperparams["discount"],
        "gae_lambda": hyperparams["gae_lambda"],
        "clipping_epsilon": hyperparams["clip_eps"],
        "entropy_cost": hyperparams["entropy_coef"],
        "vf_loss_coefficient": hyperparams["value_coef"],
        "max_grad_norm": hyperparams["max_grad_norm"],
        "network_factory": functools.partial(
            networks.make_ppo_networks,
            policy_hidden_layer_sizes=tuple(network["hidden"]),
            value_hidden_layer_sizes=tuple(network["hidden"]),
            activation=getattr(nn, network["activation"]),
            distribution_type="normal",
        ),
    }


def run(job):
    env, length = make(job["env"])
    rates, returns, compile_seconds = [], [], 0.0
    for seed in job["seeds"]:
        parts = []
        train.train(
            environment=env,
            num_timesteps=job["steps"],
            num_evals=1 + PARTS,
            num_eval_envs=job["episodes"],
            progress_fn=lambda _, metrics, parts=parts: parts.append(metrics),
            seed=seed,
            **options(job, length),
        )
        before, last = parts[-2:]
        rates.append(float(last["training/sps"]))
        walltime = last["training/walltime"]
        alone = walltime - before["training/walltime"]
        compile_seconds += float(walltime - PARTS * alone)
        returns.append(float(last["eval/episode_reward"]))
    return {
        "steps_per_second": len(rates) / sum(1 / rate for rate in rates),
        "compile_seconds": compile_seconds,
        "returns": returns,
    }


if __name__ == "__main__":
    serve(run, "brax", "jax", "jaxlib", "gymnax")
