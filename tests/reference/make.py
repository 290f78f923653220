"""Make the reference arrays: what small runs of every algorithm give, bit by bit.

    PYTHONPATH=CHECKOUT python tests/reference/make.py tests/reference/7cb7458.npz

It uses nothing but `po.run`, so that it runs in any checkout. The arrays in this folder were made
at the commit that the file is named after. Where a change of results is meant, they are made again
in the commit that changes them.
"""

import dataclasses
import hashlib
import sys
from pathlib import Path
from platform import machine, processor

import jax
import numpy as np

import purejax_po as po

SMALL = po.NetworkConfig(hidden=(8,))
RECURRENT = po.NetworkConfig(hidden=(8,), memory="gru")
ATTENTIVE = po.NetworkConfig(hidden=(8,), memory="transformer", num_heads=1, mlp_ratio=1)


def experiments():
    """Return the configurations by name: three seeds in blocks of two lanes, ten windows each."""
    everywhere = {"num_seeds": 3, "lanes_per_device": 2, "num_windows": 10}
    small = {"network": SMALL}
    critic = {"critic_minibatch_size": 32, "critic_epochs": 2}
    natural = {"num_envs": 2, "num_steps": 64, "cg_iterations": 4, **critic, **small}
    ppo = {"num_envs": 2, "num_steps": 32, "num_minibatches": 2, "num_epochs": 2}
    grpo = {"group_size": 4, "kl_form": "off"}
    chosen = {
        "reinforce": po.REINFORCEConfig(
            num_envs=2, num_steps=500, critic_epochs=1, critic_minibatch_size=500, **small
        ),
        "a2c": po.A2CConfig(**small),
        "npg": po.NPGConfig(**natural),
        "trpo": po.TRPOConfig(**natural),
        "ppo": po.PPOConfig(**ppo, **small),
        "ppo-gru": po.PPOConfig(**ppo, network=RECURRENT),
    }
    found = {
        name: po.ExperimentConfig(
            algorithm=fast(algorithm),
            total_steps=20 * algorithm.num_envs * algorithm.num_steps,
            **everywhere,
        )
        for name, algorithm in chosen.items()
    }
    found["grpo"] = po.ExperimentConfig(
        algorithm=po.GRPOConfig(num_envs=4, num_steps=500, group_size=4, **small),
        total_steps=10 * 4 * 500,
        **everywhere,
    )
    found["grpo-tokens"] = po.ExperimentConfig(
        algorithm=po.GRPOConfig(num_envs=8, num_steps=7, network=ATTENTIVE, **grpo),
        env="tokens/copy",
        total_steps=20 * 8 * 7,
        **everywhere,
    )
    found["ppo-pendulum"] = po.ExperimentConfig(
        algorithm=fast(po.PPOConfig(**ppo, **small)),
        env="Pendulum-v1",
        total_steps=100 * 2 * 32,
        normalize_observations=True,
        normalize_rewards=True,
        **everywhere,
    )
    found["trpo-pendulum"] = po.ExperimentConfig(
        algorithm=fast(po.TRPOConfig(**natural)),
        env="Pendulum-v1",
        total_steps=20 * 2 * 64,
        **everywhere,
    )
    found["ppo-sweep"] = po.ExperimentConfig(
        algorithm=fast(po.PPOConfig(**ppo, **small)),
        total_steps=20 * 2 * 32,
        sweep={"learning_rate": (1e-3, 3e-3), "env_params.gravity": (9.8, 12.0)},
        **everywhere,
    )
    return found


def fast(algorithm):
    """Choose the permutations that commit 7cb7458 always drew; it has no such choice."""
    if hasattr(algorithm, "shuffle"):
        return dataclasses.replace(algorithm, shuffle="fast")
    return algorithm


def circumstances():
    """What the last bits depend on as well: jaxlib, and the CPU's instructions."""
    found = [machine(), processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    except OSError:
        pass
    kind = hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]
    return {"jaxlib": jax.lib.__version__, "cpu": kind}


def run(config):
    """Return every variable of a run's results by name."""
    dataset = po.run(config, progress=False)
    return {name: np.asarray(values) for name, values in dataset.variables.items()}


def main(path):
    """Write the arrays of all experiments into one file."""
    arrays = {
        f"{name}/{variable}": values
        for name, config in experiments().items()
        for variable, values in run(config).items()
    }
    np.savez_compressed(path, **arrays, **{f"made/{k}": v for k, v in circumstances().items()})


if __name__ == "__main__":
    main(sys.argv[1])
