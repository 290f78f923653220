"""Running many lanes: one compiled program of fixed width, sharded over the devices.

A lane is one (seed, hyperparams, env_params). The program holds K lanes per device; lanes run in
chunks of K × devices, the last one padded. A lane's result depends on K, never on its neighbours,
its place, or the number of lanes, chunks and devices.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from purejax_po.metrics import Log
from purejax_po.training import run_window
from purejax_po.types import Trainer

AXIS = "lane"
BEST_LANES_PER_DEVICE = {"cpu": 8, "gpu": 4096, "tpu": 4096}
"""Beyond 8 lanes the working set leaves a CPU core's cache."""


class Lanes(NamedTuple):
    """What tells lanes apart; every leaf `[L, ...]`."""

    seed: Any
    hyperparams: Any
    env_params: Any


class Program(NamedTuple):
    """A trainer compiled for a fixed number of lanes."""

    mesh: Mesh
    lanes_per_device: int
    init: Callable[..., Any]
    """`(seed, hyperparams, env_params) → TrainState`, leaves `[K × devices, ...]`."""
    window: Callable[..., Any]
    """`(hyperparams, TrainState, env_params, length) → (TrainState, Log)`; consumes the state."""
    compile_seconds: float

    @property
    def width(self) -> int:
        """Lanes of one chunk."""
        return self.lanes_per_device * self.mesh.size


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


def plan(num_lanes: int, lanes_per_device: int | None = None) -> tuple[list[Any], int]:
    """Choose devices and K: as few chunks as the best width allows, evenly filled.

    Returns:
        The devices to use, and K.
    """
    devices = jax.local_devices()
    if lanes_per_device is None:
        best = BEST_LANES_PER_DEVICE.get(devices[0].platform, 8)
        chunks = math.ceil(num_lanes / (best * len(devices)))
        lanes_per_device = math.ceil(num_lanes / (chunks * len(devices)))
    return devices[: math.ceil(num_lanes / lanes_per_device)], lanes_per_device


def compile_program(
    trainer: Trainer, lanes: Lanes, num_updates: int, devices: list[Any], lanes_per_device: int
) -> Program:
    """Compile `init` and `window` for chunks of `lanes_per_device` × `devices` lanes."""
    mesh = Mesh(np.array(devices), (AXIS,))
    split, whole = PartitionSpec(AXIS), PartitionSpec()

    def init(seed: Any, hyperparams: Any, env_params: Any) -> Any:
        return trainer.init(jax.random.key(seed), hyperparams, env_params, num_updates)

    def window(hyperparams: Any, state: Any, env_params: Any, length: Any) -> Any:
        return run_window(trainer, hyperparams, state, env_params, length)

    def shard(function: Any, in_specs: Any) -> Any:
        # Lanes never communicate, so there is nothing for the replication check to check.
        return jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False
        )

    start = time.perf_counter()
    first = next(chunks(lanes, len(devices) * lanes_per_device))
    seed, hyperparams, env_params = place(first, mesh)
    init = jax.jit(shard(jax.vmap(init), split)).lower(seed, hyperparams, env_params).compile()
    state = init(seed, hyperparams, env_params)
    sharded = shard(jax.vmap(window, in_axes=(0, 0, 0, None)), (split, split, split, whole))
    compiled = (
        jax.jit(sharded, donate_argnums=1)
        .lower(hyperparams, state, env_params, jnp.int32(0))
        .compile()
    )
    return Program(mesh, lanes_per_device, init, compiled, time.perf_counter() - start)


def chunks(lanes: Lanes, width: int) -> Iterator[Lanes]:
    """Cut lanes into chunks of `width`; copies of the last lane fill the last chunk."""
    for begin in range(0, len(lanes.seed), width):
        index = np.minimum(np.arange(begin, begin + width), len(lanes.seed) - 1)
        yield jax.tree.map(lambda x, i=index: x[i], lanes)


def place(tree: Any, mesh: Mesh) -> Any:
    """Put leaves `[lanes, ...]` on the devices of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def run_chunk(program: Program, lanes: Lanes, lengths: list[int]) -> Iterator[tuple[Log, Any]]:
    """Run one chunk window by window.

    Yields:
        The log of each window (NumPy leaves `[lanes]`) and the divergence marks `[lanes]`. The next
        window runs on the devices while the caller works on this one.
    """
    seed, hyperparams, env_params = place(lanes, program.mesh)
    whole = NamedSharding(program.mesh, PartitionSpec())
    state = program.init(seed, hyperparams, env_params)
    pending = None
    for length in lengths:
        steps = jax.device_put(np.int32(length), whole)
        state, log = program.window(hyperparams, state, env_params, steps)
        latest = log, jnp.copy(state.diverged_at)
        if pending is not None:
            yield jax.device_get(pending)
        pending = latest
    yield jax.device_get(pending)
