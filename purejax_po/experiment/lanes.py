"""Running many lanes: one compiled program of fixed width, run on every device.

A lane is one (seed, hyperparams, env_params). The program holds K lanes; lanes run in chunks of
K × devices, the last one padded. Every device runs the same single-device program on its K lanes: a
program partitioned over a mesh would be compiled to other instructions, and to other last bits, for
each number of devices. So a lane's result depends on K, never on its neighbours, its place, or the
number of lanes, chunks and devices.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
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


class Program(NamedTuple):
    """A trainer compiled for a fixed number of lanes."""

    devices: list[Any]
    lanes_per_device: int
    init: Callable[..., Any]
    """`(seed, hyperparams, env_params) → TrainState`, leaves `[K, ...]`, on the first device."""
    window: list[Callable[..., Any]]
    """Per device `(hyperparams, TrainState, env_params, length) → (TrainState, Log)`; consumes the
    state that it is given."""
    compile_seconds: float

    @property
    def width(self) -> int:
        """Lanes of one chunk."""
        return self.lanes_per_device * len(self.devices)


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
    """Choose devices and K: as few chunks as the best width allows, evenly filled.

    Returns:
        The devices to use, and K.
    """
    devices = jax.local_devices()[:num_devices]
    if lanes_per_device is None:
        best = BEST_LANES_PER_DEVICE.get(devices[0].platform, 8)
        chunks = math.ceil(num_lanes / (best * len(devices)))
        lanes_per_device = math.ceil(num_lanes / (chunks * len(devices)))
    return devices[: math.ceil(num_lanes / lanes_per_device)], lanes_per_device


def compile_program(
    trainer: Trainer, lanes: Lanes, num_updates: int, devices: list[Any], lanes_per_device: int
) -> Program:
    """Compile `init` once and `window` for each device; it is traced once."""

    def init(seed: Any, hyperparams: Any, env_params: Any) -> Any:
        return trainer.init(jax.random.key(seed), hyperparams, env_params, num_updates)

    def window(hyperparams: Any, state: Any, env_params: Any, length: Any) -> Any:
        return run_window(trainer, hyperparams, state, env_params, length)

    start = time.perf_counter()
    seed, hyperparams, env_params = jax.device_put(
        tuple(next(chunks(lanes, lanes_per_device))), devices[0]
    )
    compiled_init = jax.jit(jax.vmap(init)).lower(seed, hyperparams, env_params).compile()
    state = compiled_init(seed, hyperparams, env_params)
    jitted = jax.jit(jax.vmap(window, in_axes=(0, 0, 0, None)), donate_argnums=1)
    arguments = hyperparams, state, env_params, np.int32(0)
    lowered = [jitted.lower(*jax.device_put(arguments, device)) for device in devices]
    with ThreadPoolExecutor() as pool:
        windows = list(pool.map(lambda program: program.compile(), lowered))
    return Program(devices, lanes_per_device, compiled_init, windows, time.perf_counter() - start)


def chunks(lanes: Lanes, width: int) -> Iterator[Lanes]:
    """Cut lanes into chunks of `width`; copies of the last lane fill the last chunk."""
    for begin in range(0, len(lanes.seed), width):
        index = np.minimum(np.arange(begin, begin + width), len(lanes.seed) - 1)
        yield jax.tree.map(lambda x, i=index: x[i], lanes)


def start_chunk(program: Program, lanes: Lanes) -> list[list[Any]]:
    """Initialise a chunk; returns each device's `[hyperparams, state, env_params]`."""
    placed = []
    for device, part in zip(program.devices, chunks(lanes, program.lanes_per_device), strict=True):
        seed, hyperparams, env_params = jax.device_put(tuple(part), program.devices[0])
        state = program.init(seed, hyperparams, env_params)
        placed.append(list(jax.device_put((hyperparams, state, env_params), device)))
    return placed


def run_window_on_devices(program: Program, placed: list[list[Any]], length: int) -> list[Any]:
    """Start one window on every device and return at once.

    Returns:
        For each device the log and the divergence marks, leaves `[K]`, still on the device; the
        states in `placed` are replaced.
    """
    outputs = []
    for window, part, device in zip(program.window, placed, program.devices, strict=True):
        steps = jax.device_put(np.int32(length), device)
        part[1], log = window(*part, steps)
        outputs.append((log, jnp.copy(part[1].diverged_at)))
    return outputs


def gather(outputs: list[Any]) -> Any:
    """Fetch every device's output and join their lanes."""
    return jax.tree.map(lambda *x: np.concatenate(x), *jax.device_get(outputs))


def run_chunk(program: Program, lanes: Lanes, lengths: list[int]) -> Iterator[tuple[Log, Any]]:
    """Run one chunk window by window.

    Yields:
        The log of each window (NumPy leaves `[lanes]`) and the divergence marks `[lanes]`. The next
        window runs on the devices while the caller works on this one.
    """
    placed = start_chunk(program, lanes)
    pending = None
    for length in lengths:
        latest = run_window_on_devices(program, placed, length)
        if pending is not None:
            yield gather(pending)
        pending = latest
    if pending is not None:
        yield gather(pending)
