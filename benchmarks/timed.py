"""Training in the host layer's own compiled program, to be timed window by window."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

import purejax_po as po
from purejax_po.experiment.config import AlgorithmConfig
from purejax_po.experiment.run import devices, plan
from purejax_po.experiment.run.block import new_state, place, run_window
from purejax_po.experiment.run.program import Lanes, compile_program


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
        best = devices.lanes_per_core(config)
        self.workers, self.width = devices.share(len(seeds), width, on_a_core=best)
        self.updates = updates
        self.windows = 1
        self.restart(seeds)
        self.program = compile_program(self.trainer, self.blocks[0], planned, self.workers)
        self.compile_seconds = self.program.compile_seconds

    @property
    def steps(self) -> int:
        """Environment steps of one `run`."""
        return self.num_seeds * self.windows * self.updates * self.trainer.steps_per_update

    def restart(self, seeds: Any) -> None:
        """Begin anew with as many seeds as before, or other values of them."""
        seeds = np.asarray(seeds)
        self.num_seeds = len(seeds)
        everything = plan.repeat(seeds, self.hyperparams, self.env_params)
        begins = range(0, self.num_seeds, self.width)
        self.blocks = [_cut(everything, begin, self.width) for begin in begins]
        self.states: list[Any] = [None for _ in begins]

    def run(self) -> float:
        """Make `windows` times `updates` updates of every seed; returns env steps per second."""
        start = time.perf_counter()
        with ThreadPoolExecutor(len(self.workers)) as pool:
            list(pool.map(self._serve, range(len(self.workers))))
        jax.block_until_ready(self.states)
        return self.steps / (time.perf_counter() - start)

    def _serve(self, worker: int) -> None:
        """Run a worker's share of the blocks, one after the other."""
        device = self.workers[worker]
        for i in range(worker, len(self.blocks), len(self.workers)):
            state = self.states[i]
            if state is None:
                state = new_state(self.program, self.blocks[i])
            hyperparams, state, env_params = place(self.blocks[i], state, device)
            for _ in range(self.windows):
                window = self.program.window[device]
                state, _ = run_window(window, hyperparams, state, env_params, self.updates, device)
            self.states[i] = state


def _cut(lanes: Lanes, begin: int, width: int) -> Lanes:
    """Lanes from one on, the last one repeated where there are fewer than `width`."""
    index = np.minimum(begin + np.arange(width), len(lanes.seed) - 1)
    return jax.tree.map(lambda x: x[index], lanes)
