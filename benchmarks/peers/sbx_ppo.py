"""sbx-rl's PPO (stable-baselines3 with JAX updates): one seed after the other."""

import flax.linen as nn
import sb3
from sbx import PPO
from serve import serve


def run(job):
    arguments = sb3.arguments(job)
    network = job["settings"]["network"]
    arguments["policy_kwargs"]["activation_fn"] = getattr(nn, network["activation"])
    one_update = job["settings"]["num_envs"] * job["settings"]["num_steps"]
    return sb3.train(job, PPO, arguments, warm_steps=one_update)


if __name__ == "__main__":
    serve(run, "sbx-rl", "stable-baselines3", "jax", "jaxlib", "gymnasium")
