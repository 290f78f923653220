"""purejax_po, through the same protocol as its peers."""

import functools
import json
import sys
import time
from pathlib import Path

import jax
from serve import serve

import purejax_po as po
from purejax_po.experiment.config import ALGORITHMS

sys.path.insert(0, str(Path(__file__).parents[1]))
from timed import Timed


def configured(algorithm, options):
    """Return the algorithm's configuration that a job's settings are."""
    hyperparams = ALGORITHMS[algorithm]().hyperparams.replace(**options["hyperparams"])
    network = {**options["network"], "hidden": tuple(options["network"]["hidden"])}
    given = {**options, "hyperparams": hyperparams, "network": po.NetworkConfig(**network)}
    return ALGORITHMS[algorithm](**given)


@functools.cache
def compiled(algorithm, env, num_seeds, steps, settings, episodes, env_options):
    """Compile training and evaluation once for all rounds."""
    config = configured(algorithm, json.loads(settings))
    updates = steps // (config.num_envs * config.num_steps)
    env_options = json.loads(env_options)
    timed = Timed(config, env, range(num_seeds), updates, planned=updates, **env_options)

    def evaluate(seed, params):
        length = int(timed.env_params.max_steps_in_episode)
        return po.evaluate(
            jax.random.key(seed),
            timed.env,
            timed.env_params,
            timed.trainer.actor,
            params,
            num_episodes=episodes,
            num_steps=length,
            greedy=False,
        ).episode_return.mean()

    return timed, jax.jit(jax.vmap(evaluate))


def run(job):
    timed, evaluate = compiled(
        job["algorithm"],
        job["env"],
        len(job["seeds"]),
        job["steps"],
        json.dumps(job["settings"]),
        job["episodes"],
        json.dumps(job["our_env_options"]),
    )
    timed.restart(job["seeds"])
    rate = timed.run()
    start = time.perf_counter()
    returns = []
    for lanes, state in zip(timed.blocks, timed.states, strict=True):
        returns += evaluate(lanes.seed, state.acting_params).tolist()
    print(f"evaluation: {time.perf_counter() - start:.1f} s")
    return {
        "steps_per_second": rate,
        "compile_seconds": timed.compile_seconds,
        "returns": returns[: len(job["seeds"])],  # the last block is filled up
    }


if __name__ == "__main__":
    serve(run, "purejax-po", "jax", "jaxlib")
