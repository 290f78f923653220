"""How many lanes a program takes at once: as many as are best, and as memory holds."""

import math
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.run import devices, memory
from purejax_po.experiment.run import plan as plans
from purejax_po.experiment.run.compilation import compiler_options, with_deep_stack
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.program import Lanes, Program, compile_once, jit_window
from purejax_po.types import Device, Trainer

SMALL = 8
"""Up to this width (on an accelerator: always) a program is compiled first and its memory read
afterwards. Wider programs of a CPU are extrapolated: compiling them to find out takes too long."""

PROBE_WIDTHS = (2, 8)
"""Of the two small programs whose memory is extrapolated."""


def fit(
    config: ExperimentConfig,
    trainer: Trainer,
    host: Host,
    key: Hashable,
    width: int | None,
    limit: int | None = None,
    num_workers: int | None = None,
) -> Program:
    """Compile an experiment's program for K lanes on each worker; K is chosen unless it is fixed.

    Args:
        config, trainer, host: the experiment, and where it runs.
        key: as `compile_once`.
        width: K, if it is not to be chosen.
        limit: K at most: with more the memory was exhausted.
        num_workers: that share the lanes, if not this machine's alone.

    Raises:
        ValueError: if the memory does not hold K lanes, or not even one.
    """
    workers, is_fixed = devices.workers(host.num_devices), width is not None
    if width is None:
        best = devices.lanes_per_core(config.algorithm)
        number = num_workers or len(workers)
        width = devices.choose_width(config.num_lanes, number, workers[0].platform, best)
        width = min(width, limit or width)
    used = workers[: math.ceil(config.num_lanes / width)]
    numbers = np.minimum(np.arange(max(width, *PROBE_WIDTHS)), config.num_lanes - 1)
    lanes = plans.make_lanes(config, numbers, trainer)
    if not is_fixed:
        return compile_to_fit(trainer, lanes, config.num_updates, used, width, host.memory_gib, key)
    program = compile_once(key, trainer, _first(lanes, width), config.num_updates, used)
    check_fit(program, host.memory_gib)
    return program


def compile_to_fit(
    trainer: Trainer,
    lanes: Lanes,
    num_updates: int,
    workers: list[Device],
    lanes_per_device: int,
    budget_gib: float | None = None,
    key: Hashable = None,
) -> Program:
    """Compile for `lanes_per_device` lanes, or for as many as the memory holds.

    Arguments as `compile_once` and `memory.available`.

    Raises:
        ValueError: if not even one lane fits.
    """

    def widest() -> int:
        share = memory.available(workers[0], budget_gib) / workers.count(workers[0])
        need = memory_need(trainer, lanes, num_updates, workers[0])
        fitting = need.most_lanes(share)
        if fitting < 1:
            raise ValueError(
                f"memory_gib must hold a lane on each of {len(workers)} workers: a lane takes "
                f"{memory.in_words(need.fixed + need.per_lane)}, and there are "
                f"{memory.in_words(share)} for it"
            )
        return min(lanes_per_device, fitting)

    def compile_for(width: int) -> Program:
        return compile_once(key, trainer, _first(lanes, width), num_updates, workers)

    if lanes_per_device > SMALL and workers[0].platform == "cpu":
        return compile_for(widest())
    try:
        program = compile_for(lanes_per_device)
    except jax.errors.JaxRuntimeError as error:  # some compilers say so
        if not memory.is_exhausted(error):
            raise
        return compile_for(widest())
    share = memory.available(workers[0], budget_gib) / workers.count(workers[0])
    if program.bytes_per_worker <= share:
        return program
    width = widest()
    return program if width == lanes_per_device else compile_for(width)


def check_fit(program: Program, budget_gib: float | None = None) -> None:
    """Raise `ValueError` if the memory does not hold a program whose width is fixed."""
    workers = program.workers
    share = memory.available(workers[0], budget_gib) / workers.count(workers[0])
    if program.bytes_per_worker > share:
        limit = "is free" if budget_gib is None else f"memory_gib {budget_gib:g} leaves"
        raise ValueError(
            f"lanes_per_device must fit the memory: {program.lanes_per_worker} lanes take "
            f"{memory.in_words(program.bytes_per_worker)} on each of {len(workers)} workers, and "
            f"{limit} {memory.in_words(share)}"
        )


def memory_need(trainer: Trainer, lanes: Lanes, num_updates: int, device: Device) -> memory.Need:
    """Extrapolate a worker's memory from two small programs; their code is not optimised."""

    @with_deep_stack
    def probe(width: int) -> tuple[int, int]:
        few = _first(lanes, width)
        state = jax.eval_shape(
            jax.vmap(lambda seed, *rest: trainer.init(jax.random.key(seed), *rest, num_updates)),
            *few,
        )
        inputs = jax.device_put((few.hyperparams, few.env_params, np.int32(0)), device)
        lowered = jit_window(trainer).lower(inputs[0], state, *inputs[1:])
        cheap = {"xla_backend_optimization_level": 0} if device.platform == "cpu" else {}
        options = {**compiler_options(device.platform), **cheap}
        return width, memory.program_bytes(lowered.compile(compiler_options=options))

    with ThreadPoolExecutor() as pool:
        few, more = pool.map(probe, PROBE_WIDTHS)
    return memory.extrapolate(few, more)


def _first(lanes: Lanes, width: int) -> Lanes:
    """The first `width` of at least as many lanes."""
    return jax.tree.map(lambda x: x[:width], lanes)
