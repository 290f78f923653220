"""Training in the host layer's own compiled program, to be timed window by window."""

import math
import time
from typing import Any

import jax
import numpy as np

import purejax_po as po
from purejax_po.experiment.config import AlgorithmConfig
from purejax_po.experiment.run import lanes


class Timed:
    """Some seeds of an algorithm, compiled: each `run` goes on from where the last one stopped."""

    def __init__(
        self,
        config: AlgorithmConfig,
        env: str,
        seeds: Any,
        updates: int,
        width: int | None = None,
        planned: float = math.inf,
        **env_options: Any,
    ) -> None:
        """Compile for K = `width` lanes per device, or as many as the package chooses.

        Schedules run against `planned` updates; with none planned they stay where they begin.
        """
        self.env, self.env_params = po.make_env(env, **env_options)
        algorithm = config.build(self.env, self.env_params)
        self.trainer = po.make_trainer(
            self.env,
            self.env_params,
            algorithm,
            num_envs=config.num_envs,
            num_steps=config.num_steps,
        )
        self.hyperparams = algorithm.hyperparams
        self.workers, self.width = lanes.plan(
            len(seeds), width, lanes_per_core=config.lanes_per_core
        )
        self.updates = updates
        self.windows = 1
        self.restart(seeds)
        self.program = lanes.compile_program(
            self.trainer, self.blocks[0].lanes, planned, self.workers
        )
        self.compile_seconds = self.program.compile_seconds

    @property
    def steps(self) -> int:
        """Environment steps of one `run`."""
        return self.num_seeds * self.windows * self.updates * self.trainer.steps_per_update

    def restart(self, seeds: Any) -> None:
        """Begin anew with as many seeds as before, or other values of them."""
        seeds = np.asarray(seeds)
        self.num_seeds = len(seeds)
        everything = lanes.make_lanes(seeds, self.hyperparams, self.env_params)
        self.blocks = lanes.make_blocks(everything, self.width)

    def run(self) -> float:
        """Make `windows` times `updates` updates of every seed; returns env steps per second."""
        for block in self.blocks:
            block.num_windows, block.logs = 0, []
        start = time.perf_counter()
        for _ in lanes.run_blocks(self.program, self.blocks, [self.updates] * self.windows):
            pass
        jax.block_until_ready([block.state for block in self.blocks])
        return self.steps / (time.perf_counter() - start)
