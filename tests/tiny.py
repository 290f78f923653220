"""Every algorithm as an experiment so small that compiling it is all it costs."""

import dataclasses

import purejax_po as po
from purejax_po.experiment import config

SMALL = {
    "num_envs": 2,
    "num_steps": 16,
    "network": po.NetworkConfig(hidden=(8,)),
    "num_epochs": 1,
    "num_minibatches": 2,
    "group_size": 2,
    "cg_iterations": 2,
    "critic_epochs": 1,
    "critic_minibatch_size": 16,
}
"""What makes an algorithm small, where it has the option."""


def small(algorithm):
    """A configuration class with the options of `SMALL` that it knows."""
    known = {field.name for field in dataclasses.fields(algorithm)}
    return algorithm(**{name: value for name, value in SMALL.items() if name in known})


ALGORITHMS = {name: small(algorithm) for name, algorithm in config.ALGORITHMS.items()}


def experiment(name="ppo", **changes):
    """Ten updates on CartPole-v1, two lanes on each device."""
    whole = po.ExperimentConfig(
        algorithm=ALGORITHMS[name],
        num_seeds=5,
        total_steps=320,
        num_windows=10,
        lanes_per_device=2,
    )
    return dataclasses.replace(whole, **changes)
