"""Every algorithm as an experiment so small that compiling it is all it costs."""

import dataclasses

import purejax_po as po

SHAPE = {"num_envs": 2, "num_steps": 16, "network": po.NetworkConfig(hidden=(8,))}
ALGORITHMS = {
    "reinforce": po.REINFORCEConfig(critic_epochs=1, critic_minibatch_size=16, **SHAPE),
    "a2c": po.A2CConfig(**SHAPE),
    "ppo": po.PPOConfig(num_epochs=1, num_minibatches=2, **SHAPE),
    "trpo": po.TRPOConfig(cg_iterations=2, critic_epochs=1, critic_minibatch_size=16, **SHAPE),
    "npg": po.NPGConfig(cg_iterations=2, critic_epochs=1, critic_minibatch_size=16, **SHAPE),
}


def experiment(name="ppo", **changes):
    """Ten updates on CartPole-v1, two lanes on each device."""
    whole = po.ExperimentConfig(
        algorithm=ALGORITHMS[name],
        num_seeds=5,
        total_steps=320,
        num_windows=10,
        lanes_per_device=2,
        num_devices=2,
    )
    return dataclasses.replace(whole, **changes)
