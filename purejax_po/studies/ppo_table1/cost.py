"""What the table will cost: a few updates of each algorithm on each task, scaled up."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from purejax_po.experiment import train
from purejax_po.experiment.run import devices
from purejax_po.experiment.run.block import new_state, place, run_window
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.program import Program, compile_program
from purejax_po.studies.ppo_table1.protocol import GROUPS, Job
from purejax_po.types import Trainer


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


def build(job: Job, host: Host) -> tuple[Program, Plan, Trainer]:
    """Compile a job's program, which the compilation cache keeps.

    Returns:
        The program, the plan whose blocks it runs, and the trainer.
    """
    config, trainer = job.config, train.prepare(job.config).trainer
    best = devices.lanes_per_core(config.algorithm)
    workers, width = devices.share(
        config.num_lanes, config.lanes_per_device, host.num_devices, best
    )
    plan = Plan(config, width, workers[0].device_kind)
    lanes = plan.lanes(0, trainer)
    return compile_program(trainer, lanes, config.num_updates, workers), plan, trainer


def probe(job: Job, host: Host) -> Probe:
    """Compile a job's program and time one update of it, by all workers at once."""
    program, plan, trainer = build(job, host)
    start = threading.Barrier(len(program.workers))

    def three_updates(worker: int) -> list[float]:
        device, lanes = program.workers[worker], plan.lanes(worker, trainer)
        hyperparams, state, env_params = place(lanes, new_state(program, lanes), device)
        times = []
        for _ in range(3):
            start.wait()
            begun = time.perf_counter()
            state, _ = run_window(program.window[device], hyperparams, state, env_params, 1, device)
            times.append(time.perf_counter() - begun)
        return times

    with ThreadPoolExecutor(len(program.workers)) as pool:
        times = list(pool.map(three_updates, range(len(program.workers))))
    lanes = sum(plan.num_real(worker) for worker in range(len(program.workers)))
    seconds = min(max(together) for together in zip(*times, strict=True))
    return Probe(program.compile_seconds, lanes * plan.steps_per_update / seconds)


def probed(all_jobs: Sequence[Job], host: Host) -> dict[str, dict[str, Probe]]:
    """Probe one job of each algorithm on each task, unless all of them are complete."""
    found: dict[str, dict[str, Probe]] = {}
    for job in all_jobs:
        of_task = found.setdefault(job.task, {})
        if not job.is_complete() and GROUPS[job.group].algorithm not in of_task:
            of_task[GROUPS[job.group].algorithm] = probe(job, host)
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
