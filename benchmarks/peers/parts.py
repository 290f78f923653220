"""Parts of an update as programs of their own: a job names one, and how many updates it runs.

Two workers share this file: ours, and Brax's in its own virtual environment.
"""

import itertools
import sys
import time

import jax
import jax.numpy as jnp
from serve import serve


class Part:
    """A compiled `(key, state) → (state, kept)`, which goes on from where it stopped."""

    def __init__(self, program, state, **options):
        self.state = state
        self.program = jax.jit(program, **options).lower(jax.random.key(0), state).compile()
        self(0)
        print("compiled a part", file=sys.stderr, flush=True)

    def __call__(self, i):
        self.state, _ = jax.block_until_ready(self.program(jax.random.key(i), self.state))


def stepping(step, num_envs, num_steps, action_size):
    """Return `(key, state) → (state, kept)`: steps with actions of a new policy, N(0, 1).

    Args:
        step: `(key, state, action) → (state, kept)`, of all environments.
    """

    def run(key, state):
        def body(state, given):
            return step(given[0], state, jnp.clip(given[1], -1.0, 1.0))

        keys = jax.random.split(key, num_steps)
        actions = jax.random.normal(key, (num_steps, num_envs, action_size))
        return jax.lax.scan(body, state, (keys, actions))

    return run


def serve_parts(make, *packages):
    """Answer jobs: the seconds that an update's share of a part takes.

    Args:
        make: `job → (parts, timed)`, each by name. It compiles. A part is a function of the call's
            number, called once an update; one that is timed returns the seconds of an update.
    """
    made, calls = [], itertools.count(1)

    def run(job):
        made[:] = made or make(job)
        parts, timed = made
        if job["part"] in timed:
            return {"seconds": timed[job["part"]]()}
        start = time.perf_counter()
        for _ in range(job["updates"]):
            parts[job["part"]](next(calls))
        return {"seconds": (time.perf_counter() - start) / job["updates"]}

    serve(run, *packages)
