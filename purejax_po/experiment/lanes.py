"""Running many lanes: one compiled program of fixed width, run on every device.

A lane is one (seed, hyperparams, env_params). The program holds K lanes; lanes run in blocks of K,
the last one padded, and every device takes the next block when it is done with one. All devices run
the same single-device program: one partitioned over a mesh would be compiled to other instructions,
and to other last bits, for each number of devices. So a lane's result depends on K, never on its
neighbours, its place, or the number of lanes, blocks and devices.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po.metrics import Log
from purejax_po.training import run_window
from purejax_po.types import Trainer

BEST_LANES_PER_DEVICE = {"cpu": 8, "gpu": 4096, "tpu": 4096}
"""Beyond 8 lanes the working set leaves a CPU core's cache."""


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


class Program(NamedTuple):
    """A trainer compiled for K lanes."""

    devices: list[Any]
    lanes_per_device: int
    init: Callable[..., Any]
    """`(seed, hyperparams, env_params) → TrainState`, leaves `[K, ...]`, on the first device."""
    window: list[Callable[..., Any]]
    """Per device `(hyperparams, TrainState, env_params, length) → (TrainState, Log)`; consumes the
    state that it is given."""
    state_shapes: Any
    """Shapes and dtypes of the TrainState, leaves `[K, ...]`."""
    log_shapes: Any
    """Shapes and dtypes of a window's log, leaves `[K]`."""
    compile_seconds: float


class Tick(NamedTuple):
    """One window on every device."""

    finished: list[tuple[Block, Log]]
    """Blocks and the logs of their windows."""
    synced: bool
    """Nothing runs on the devices: every block's state is that after its last log."""


def use_cpu_cores() -> None:
    """Make every CPU core a JAX device; no effect once JAX has been used in this process."""
    try:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    except (RuntimeError, AttributeError):
        return  # JAX is in use already, or the system has no affinities: one device, then


def make_lanes(seeds: Any, hyperparams: Any, env_params: Any) -> Lanes:
    """Give every seed the same hyperparameters and environment parameters."""
    seeds = np.asarray(seeds)

    def repeat(x: Any) -> Any:
        x = np.asarray(jnp.asarray(x))
        return np.broadcast_to(x, (len(seeds), *x.shape))

    return Lanes(seeds, jax.tree.map(repeat, hyperparams), jax.tree.map(repeat, env_params))


def plan(
    num_lanes: int, lanes_per_device: int | None = None, num_devices: int | None = None
) -> tuple[list[Any], int]:
    """Choose devices and K: as few rounds as the best width allows, evenly filled.

    Returns:
        The devices to use, and K.
    """
    devices = jax.local_devices()[:num_devices]
    if lanes_per_device is None:
        best = BEST_LANES_PER_DEVICE.get(devices[0].platform, 8)
        rounds = math.ceil(num_lanes / (best * len(devices)))
        lanes_per_device = math.ceil(num_lanes / (rounds * len(devices)))
    return devices[: math.ceil(num_lanes / lanes_per_device)], lanes_per_device


def make_blocks(lanes: Lanes, lanes_per_device: int) -> list[Block]:
    """Cut lanes into blocks of K; copies of the last lane fill the last block."""
    blocks = []
    total = len(lanes.seed)
    for i, begin in enumerate(range(0, total, lanes_per_device)):
        index = np.minimum(np.arange(begin, begin + lanes_per_device), total - 1)
        part = jax.tree.map(lambda x, index=index: x[index], lanes)
        blocks.append(Block(i, part, min(lanes_per_device, total - begin)))
    return blocks


def compile_program(
    trainer: Trainer, lanes: Lanes, num_updates: int, devices: list[Any]
) -> Program:
    """Compile `init` once and `window` for each device; it is traced once.

    Args:
        trainer: what to compile.
        lanes: one block's lanes; their values do not matter.
        num_updates: what schedules run against.
        devices: one program each.
    """

    def init(seed: Any, hyperparams: Any, env_params: Any) -> Any:
        return trainer.init(jax.random.key(seed), hyperparams, env_params, num_updates)

    def window(hyperparams: Any, state: Any, env_params: Any, length: Any) -> Any:
        return run_window(trainer, hyperparams, state, env_params, length)

    start = time.perf_counter()
    seed, hyperparams, env_params = jax.device_put(tuple(lanes), devices[0])
    compiled_init = jax.jit(jax.vmap(init)).lower(seed, hyperparams, env_params).compile()
    state = compiled_init(seed, hyperparams, env_params)
    jitted = jax.jit(jax.vmap(window, in_axes=(0, 0, 0, None)), donate_argnums=1)
    arguments = hyperparams, state, env_params, np.int32(0)
    lowered = [jitted.lower(*jax.device_put(arguments, device)) for device in devices]
    with ThreadPoolExecutor() as pool:
        windows = list(pool.map(lambda program: program.compile(), lowered))
    state_shapes, log_shapes = jax.eval_shape(jitted, *arguments)
    seconds = time.perf_counter() - start
    return Program(
        devices, len(lanes.seed), compiled_init, windows, state_shapes, log_shapes, seconds
    )


def run_blocks(
    program: Program,
    blocks: Iterable[Block],
    lengths: list[int],
    pause: Callable[[], bool] = lambda: False,
) -> Iterator[Tick]:
    """Run blocks through windows of `lengths` updates, one block at a time on each device.

    While the caller works on one tick the devices are at the next, unless `pause()` was true: then
    the tick is `synced`, and the blocks may be saved.
    """
    queue = iter(blocks)
    slots: list[_Slot | None] = [_Slot.take(program, i, queue) for i in range(len(program.devices))]

    def launch() -> list[tuple[Block, Log]]:
        for i, slot in enumerate(slots):
            if slot is not None and slot.block.num_windows == len(lengths):
                slots[i] = _Slot.take(program, i, queue)
        busy = [slot for slot in slots if slot is not None]
        return [(slot.block, slot.run(lengths[slot.block.num_windows])) for slot in busy]

    running = launch()
    while running:
        synced = pause()
        following = [] if synced else launch()
        logs = jax.device_get([log for _, log in running])
        finished = []
        for (block, _), log in zip(running, logs, strict=True):
            real = jax.tree.map(lambda x, n=block.num_real: x[:n], log)
            block.logs.append(real)
            finished.append((block, real))
        yield Tick(finished, synced)
        running = launch() if synced else following


class _Slot(NamedTuple):
    """A device and the block on it."""

    block: Block
    hyperparams: Any
    env_params: Any
    window: Callable[..., Any]
    device: Any

    @classmethod
    def take(cls, program: Program, i: int, queue: Iterator[Block]) -> "_Slot | None":
        """Put the next block of the queue on device i; `None` if there is none."""
        block = next(queue, None)
        if block is None:
            return None
        device = program.devices[i]
        hyperparams, env_params = block.lanes.hyperparams, block.lanes.env_params
        if block.state is None:
            arguments = jax.device_put(tuple(block.lanes), program.devices[0])
            block.state = program.init(*arguments)
        block.state, hyperparams, env_params = jax.device_put(
            (block.state, hyperparams, env_params), device
        )
        return cls(block, hyperparams, env_params, program.window[i], device)

    def run(self, length: int) -> Log:
        """Start one window and return its log at once, still on the device."""
        steps = jax.device_put(np.int32(length), self.device)
        self.block.state, log = self.window(
            self.hyperparams, self.block.state, self.env_params, steps
        )
        self.block.num_windows += 1
        return log
