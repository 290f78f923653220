"""What the table will cost: a few updates of each algorithm on each task, scaled up."""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from purejax_po.experiment.config import sweep
from purejax_po.experiment.run import lanes as lanes_module
from purejax_po.experiment.run import study as runner
from purejax_po.studies.ppo_table1.protocol import GROUPS, Job


class Probe(NamedTuple):
    """What a few updates of a job's program cost."""

    compile_seconds: float
    steps_per_second: float


class Cost(NamedTuple):
    """What a job will take from its beginning."""

    job: Job
    steps: int
    """Of all lanes; 0 if it is complete."""
    seconds: float


def build(job: Job) -> tuple[lanes_module.Program, list[lanes_module.Block], int]:
    """Compile a job's program, which the compilation cache keeps.

    Returns:
        The program, a block of lanes for every worker, and environment steps of all of them in an
        update.
    """
    trainer = runner.prepare(job.config).trainer
    config = job.config
    everything = sweep.make_lanes(config, trainer.algorithm.hyperparams, trainer.env_params)
    workers, width = lanes_module.plan(
        config.num_lanes,
        config.lanes_per_device,
        config.num_devices,
        config.algorithm.lanes_per_core,
    )
    blocks = lanes_module.make_blocks(everything, width)[: len(workers)]
    program = lanes_module.compile_program(trainer, blocks[0].lanes, config.num_updates, workers)
    return program, blocks, sum(block.num_real for block in blocks) * trainer.steps_per_update


def probe(job: Job) -> Probe:
    """Compile a job's program and time one update of it."""
    program, blocks, steps = build(job)
    times = []
    for _ in lanes_module.run_blocks(program, blocks, [1, 1, 1], lambda: True):
        times.append(time.perf_counter())
    return Probe(program.compile_seconds, steps / min(np.diff(times)))


def probed(all_jobs: Sequence[Job]) -> dict[str, dict[str, Probe]]:
    """Probe one job of each algorithm on each task, unless all of them are complete."""
    found: dict[str, dict[str, Probe]] = {}
    for job in all_jobs:
        of_task = found.setdefault(job.task, {})
        if not job.is_complete() and GROUPS[job.group].algorithm not in of_task:
            of_task[GROUPS[job.group].algorithm] = probe(job)
    return found


def plan(all_jobs: Sequence[Job], probes: Mapping[str, Mapping[str, Probe]]) -> list[Cost]:
    """Return what every job will cost, by the probes of its task; nothing if it is complete."""
    found = []
    for job in all_jobs:
        if job.is_complete():
            found.append(Cost(job, 0, 0.0))
            continue
        one = probes[job.task][GROUPS[job.group].algorithm]
        steps = lane_steps(job)
        found.append(Cost(job, steps, one.compile_seconds + steps / one.steps_per_second))
    return found


def lane_steps(job: Job) -> int:
    """Environment steps of all lanes of a job."""
    config = job.config
    per_update = config.algorithm.num_envs * config.algorithm.num_steps
    return config.num_lanes * config.num_updates * per_update
