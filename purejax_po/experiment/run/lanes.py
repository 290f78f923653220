"""Running many lanes: one compiled program of fixed width, run on every device.

A lane is one (seed, hyperparams, env_params). The program holds K lanes; lanes run in blocks of K,
the last one padded, and every worker takes the next block when it is done with one. A worker is a
thread with a device: one for each accelerator, and on a CPU one for each core, since the CPU is a
single device that runs as many programs at once as threads ask for. All workers run the same
single-device program; a program partitioned over a mesh would be compiled to other instructions,
and to other last bits, for each number of devices. So a lane's result depends on K, never on its
neighbours, its place, or the number of lanes, blocks and workers.
"""

import dataclasses
import gc
import math
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from purejax_po._xla import switch
from purejax_po.experiment.run import memory
from purejax_po.experiment.run.compilation import compiler_options, with_deep_stack
from purejax_po.metrics import Log
from purejax_po.training import run_window
from purejax_po.types import Trainer

BEST_LANES_PER_ACCELERATOR = 4096
"""The best number of lanes on a CPU's core depends on the algorithm; 8 unless it is known."""

SMALL = 8
"""On a CPU up to this width a program is compiled first and measured then; on an accelerator, where
the programs to extrapolate from take as long to compile as the wide one, any program is."""

MOST_PROGRAMS = 2
"""Compiled programs that a process keeps, for runs of the same shape: in a notebook, say."""

SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_disable_most_optimizations",
    "jax_debug_nans",
)
"""Of JAX's own: those that a program depends on."""

PROBE_WIDTHS = (2, 8)
"""Of the two small programs whose memory is extrapolated."""


class Lanes(NamedTuple):
    """What tells lanes apart; every leaf `[L, ...]`."""

    seed: Any
    hyperparams: Any
    env_params: Any


@dataclasses.dataclass
class Block:
    """K lanes on their way through training."""

    index: int
    lanes: Lanes
    num_real: int
    """The lanes beyond are padding."""
    num_windows: int = 0
    """Windows started."""
    state: Any = None
    """The TrainState after them, leaves `[K, ...]`; `None` before the first."""
    logs: list[Log] = dataclasses.field(default_factory=list)
    """One per finished window, NumPy leaves `[num_real]`."""

    @property
    def numbers(self) -> Any:
        """Where its lanes stand among all lanes, `[num_real]`."""
        return self.index * len(self.lanes.seed) + np.arange(self.num_real)


class Program(NamedTuple):
    """A trainer compiled for K lanes."""

    workers: list[Any]
    """Each worker's device."""
    lanes_per_worker: int
    init: Callable[..., Any]
    """`(seed, hyperparams, env_params) → TrainState`, leaves `[K, ...]`, on the first device."""
    window: dict[Any, Callable[..., Any]]
    """By device, `(hyperparams, TrainState, env_params, length) → (TrainState, Log)`; consumes the
    state that it is given."""
    state_shapes: Any
    """Shapes and dtypes of the TrainState, leaves `[K, ...]`."""
    log_shapes: Any
    """Shapes and dtypes of a window's log, leaves `[K]`."""
    bytes_per_worker: int
    """Memory that the window's program takes while it runs."""
    compile_seconds: float


class Tick(NamedTuple):
    """One window on every device."""

    finished: list[tuple[Block, Log]]
    """Blocks and the logs of their windows."""
    synced: bool
    """Nothing runs on the devices: every block's state is that after its last log."""


def local_workers() -> list[Any]:
    """Return one device per worker: the accelerators, or the CPU once for each core."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # no such notion on this system
        cores = os.cpu_count() or 1
    return devices[:1] * cores


def make_lanes(seeds: Any, hyperparams: Any, env_params: Any) -> Lanes:
    """Give every seed the same hyperparameters and environment parameters."""
    seeds = np.asarray(seeds)

    def repeat(x: Any) -> Any:
        x = np.asarray(jnp.asarray(x))
        return np.broadcast_to(x, (len(seeds), *x.shape))

    return Lanes(seeds, jax.tree.map(repeat, hyperparams), jax.tree.map(repeat, env_params))


def plan(
    num_lanes: int,
    lanes_per_device: int | None = None,
    num_devices: int | None = None,
    lanes_per_core: int = 8,
) -> tuple[list[Any], int]:
    """Choose workers and K: as few rounds as the best width allows, evenly filled.

    Args:
        num_lanes: lanes to run.
        lanes_per_device: K, if it is not to be chosen.
        num_devices: workers to use; more than there are devices or cores share them.
        lanes_per_core: the best width on a CPU.

    Returns:
        Each worker's device, and K.
    """
    workers = local_workers()
    if num_devices is not None:
        workers = [workers[i % len(workers)] for i in range(num_devices)]
    if lanes_per_device is None:
        is_cpu = workers[0].platform == "cpu"
        best = lanes_per_core if is_cpu else BEST_LANES_PER_ACCELERATOR
        rounds = math.ceil(num_lanes / (best * len(workers)))
        lanes_per_device = math.ceil(num_lanes / (rounds * len(workers)))
    return workers[: math.ceil(num_lanes / lanes_per_device)], lanes_per_device


def make_blocks(lanes: Lanes, lanes_per_device: int) -> list[Block]:
    """Cut lanes into blocks of K; copies of the last lane fill the last block."""
    blocks = []
    total = len(lanes.seed)
    for i, begin in enumerate(range(0, total, lanes_per_device)):
        rest = jax.tree.map(lambda x, begin=begin: x[begin:], lanes)
        part = _first(rest, lanes_per_device)
        blocks.append(Block(i, part, min(lanes_per_device, total - begin)))
    return blocks


def compile_to_fit(
    trainer: Trainer,
    lanes: Lanes,
    num_updates: int,
    workers: list[Any],
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


def memory_need(trainer: Trainer, lanes: Lanes, num_updates: int, device: Any) -> memory.Need:
    """Extrapolate a worker's memory from two small programs; their code is not optimised."""

    @with_deep_stack
    def probe(width: int) -> tuple[int, int]:
        few = _first(lanes, width)
        state = jax.eval_shape(
            jax.vmap(lambda seed, *rest: trainer.init(jax.random.key(seed), *rest, num_updates)),
            *few,
        )
        inputs = jax.device_put((few.hyperparams, few.env_params, np.int32(0)), device)
        lowered = _jit_window(trainer).lower(inputs[0], state, *inputs[1:])
        cheap = {"xla_backend_optimization_level": 0} if device.platform == "cpu" else {}
        options = {**compiler_options(device.platform), **cheap}
        return width, memory.program_bytes(lowered.compile(compiler_options=options))

    with ThreadPoolExecutor() as pool:
        few, more = pool.map(probe, PROBE_WIDTHS)
    return memory.extrapolate(few, more)


def _jit_window(trainer: Trainer) -> Any:
    """`run_window` over lanes, for compilation; the state's buffers are used for the new state."""

    def window(hyperparams: Any, state: Any, env_params: Any, length: Any) -> Any:
        return run_window(trainer, hyperparams, state, env_params, length)

    return jax.jit(jax.vmap(window, in_axes=(0, 0, 0, None)), donate_argnums=1)


def _first(lanes: Lanes, width: int) -> Lanes:
    """The first `width` lanes, the last one repeated if there are fewer."""
    index = np.minimum(np.arange(width), len(lanes.seed) - 1)
    return jax.tree.map(lambda x: x[index], lanes)


def compile_once(
    key: Hashable, trainer: Trainer, lanes: Lanes, num_updates: float, workers: list[Any]
) -> Program:
    """As `compile_program`, unless a trainer with the same key was compiled for as many lanes.

    Args:
        key: what tells trainers apart whose programs differ; None for one that has no equal.
    """
    if key is None:
        return compile_program(trainer, lanes, num_updates, workers)
    settings = (*map(_setting, SETTINGS), switch.on())
    whole = key, len(lanes.seed), num_updates, tuple(map(str, workers)), settings
    start = time.perf_counter()
    if whole in _compiled:
        program = _compiled.pop(whole)._replace(
            workers=workers, compile_seconds=time.perf_counter() - start
        )
    else:
        program = compile_program(trainer, lanes, num_updates, workers)
    _compiled[whole] = program
    while len(_compiled) > MOST_PROGRAMS:
        del _compiled[next(iter(_compiled))]  # that was used longest ago
    return program


_compiled: dict[Hashable, Program] = {}


def _setting(name: str) -> Any:
    """A setting of JAX's, whichever way it is read."""
    return getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name)


@with_deep_stack
def compile_program(
    trainer: Trainer, lanes: Lanes, num_updates: float, workers: list[Any]
) -> Program:
    """Compile `init` once and `window` for each device; it is traced once.

    Args:
        trainer: what to compile.
        lanes: one block's lanes; their values do not matter.
        num_updates: what schedules run against; infinite for none.
        workers: each worker's device.
    """

    def init(seed: Any, hyperparams: Any, env_params: Any) -> Any:
        return trainer.init(jax.random.key(seed), hyperparams, env_params, num_updates)

    start = time.perf_counter()
    devices = list(dict.fromkeys(workers))
    inputs = jax.device_put(tuple(lanes), devices[0])
    jitted_init = jax.jit(jax.vmap(init))
    jitted = _jit_window(trainer)
    with _garbage_kept():
        lowered_init = jitted_init.lower(*inputs)

    def lower(device: Any) -> Any:
        state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(device)),
            lowered_init.out_info,
        )
        hyperparams, env_params, length = jax.device_put((*lanes[1:], np.int32(0)), device)
        return jitted.lower(hyperparams, state, env_params, length)

    with ThreadPoolExecutor() as pool:
        compiling = pool.submit(lowered_init.compile)  # while the window is traced
        with _garbage_kept():
            lowered = [lower(device) for device in devices]
        options = compiler_options(devices[0].platform)
        windows = list(pool.map(lambda program: program.compile(options), lowered))
        compiled_init = compiling.result()
    return Program(
        workers=workers,
        lanes_per_worker=len(lanes.seed),
        init=compiled_init,
        window=dict(zip(devices, windows, strict=True)),
        state_shapes=lowered_init.out_info,
        log_shapes=lowered[0].out_info[1],
        bytes_per_worker=max(map(memory.program_bytes, windows)),
        compile_seconds=time.perf_counter() - start,
    )


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """No garbage collection meanwhile: tracing makes many objects, few of them garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def run_blocks(
    program: Program,
    blocks: Iterable[Block],
    lengths: list[int],
    pause: Callable[[], bool] = lambda: False,
) -> Iterator[Tick]:
    """Run blocks through windows of `lengths` updates, one block at a time on each worker.

    While the caller works on one tick the workers are at the next, unless `pause()` was true: then
    the tick is `synced`, and the blocks may be saved.
    """
    queue = iter(blocks)
    current: list[_Run | None] = [None] * len(program.workers)
    with ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in program.workers]

        def launch() -> list[tuple[Block, Future[Log]]]:
            """Start a window on every worker that still has a block."""
            running = []
            for i, thread in enumerate(threads):
                run = current[i]
                if run is None or run.block.num_windows == len(lengths):
                    block = next(queue, None)
                    run = current[i] = None if block is None else _place(program, i, block)
                if run is not None:
                    length = lengths[run.block.num_windows]
                    run.block.num_windows += 1
                    running.append((run.block, thread.submit(_run_window, run, length)))
            return running

        running = launch()
        while running:
            synced = pause()
            following = [] if synced else launch()
            finished = []
            for block, future in running:
                log = future.result()
                block.logs.append(jax.tree.map(lambda x, n=block.num_real: x[:n], log))
                finished.append((block, block.logs[-1]))
            yield Tick(finished, synced)
            running = launch() if synced else following


class _Run(NamedTuple):
    """A block on a device."""

    block: Block
    hyperparams: Any
    env_params: Any
    window: Callable[..., Any]
    device: Any


def _place(program: Program, worker: int, block: Block) -> _Run:
    """Put a block on a worker's device, initialising it if it is new."""
    device = program.workers[worker]
    if block.state is None:
        block.state = program.init(*jax.device_put(tuple(block.lanes), program.workers[0]))
    block.state, hyperparams, env_params = jax.device_put(
        (block.state, block.lanes.hyperparams, block.lanes.env_params), device
    )
    return _Run(block, hyperparams, env_params, program.window[device], device)


def _run_window(run: _Run, length: int) -> Log:
    """Run one window to its end, in the worker's thread; returns its log, leaves `[K]`."""
    steps = jax.device_put(np.int32(length), run.device)
    run.block.state, log = run.window(run.hyperparams, run.block.state, run.env_params, steps)
    return jax.device_get(log)
