"""A trainer compiled for K lanes, once for each kind of program in a process.

A lane is one (seed, hyperparams, env_params). The program holds K lanes and runs on a single
device; a program partitioned over a mesh would be compiled to other instructions, and to other last
bits, for each number of devices. So a lane's result depends on K, never on its neighbours, its
place, or the number of lanes, blocks and workers.
"""

import gc
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, Protocol, Self, TypeVar

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from purejax_po._xla import switch
from purejax_po.experiment.run import memory
from purejax_po.experiment.run.compilation import compiler_options, with_deep_stack
from purejax_po.metrics import Log
from purejax_po.training import run_window
from purejax_po.types import Array, Device, EnvParams, Hyperparams, PyTree, Shapes, Trainer
from purejax_po.update import TrainState

MOST_PROGRAMS = 2
"""Compiled programs that a process keeps, for runs of the same shape: in a notebook, say."""

SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_disable_most_optimizations",
    "jax_debug_nans",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
"""Of JAX's own: those that a program depends on."""


class Lanes(NamedTuple):
    """What tells lanes apart; every leaf `[L, ...]`."""

    seed: np.ndarray
    hyperparams: Hyperparams
    env_params: EnvParams


class Program(NamedTuple):
    """A trainer compiled for K lanes."""

    workers: list[Device]
    """Each worker's device."""
    lanes_per_worker: int
    init: Callable[..., TrainState]
    """`(seed, hyperparams, env_params) → TrainState`, leaves `[K, ...]`, on the first device."""
    window: dict[Device | None, Callable[..., tuple[TrainState, Log]]]
    """By device, `(hyperparams, TrainState, env_params, length) → (TrainState, Log)`; consumes the
    state that it is given."""
    state_shapes: Shapes
    """Shapes and dtypes of the TrainState, leaves `[K, ...]`."""
    log_shapes: Shapes
    """Shapes and dtypes of a window's log, leaves `[K]`."""
    bytes_per_worker: int
    """Memory that the window's program takes while it runs."""
    compile_seconds: float


def jit_window(trainer: Trainer) -> jax.stages.Wrapped:
    """`run_window` over lanes, for compilation; the state's buffers are used for the new state."""

    def window(
        hyperparams: Hyperparams, state: TrainState, env_params: EnvParams, length: Array
    ) -> tuple[TrainState, Log]:
        return run_window(trainer, hyperparams, state, env_params, length)

    return jax.jit(jax.vmap(window, in_axes=(0, 0, 0, None)), donate_argnums=1)


def compile_once(
    key: Hashable, trainer: Trainer, lanes: Lanes, num_updates: float, workers: list[Device]
) -> Program:
    """As `compile_program`, unless a trainer with the same key was compiled for as many lanes.

    Args:
        key: what tells trainers apart whose programs differ; None for one that has no equal.
    """

    def compile_() -> Program:
        return compile_program(trainer, lanes, num_updates, workers)

    program = once(_compiled, key, (len(lanes.seed), num_updates), workers, compile_)
    return program._replace(workers=workers)


_compiled: dict[Hashable, Program] = {}


class _Timed(Protocol):
    """A named tuple with the field `compile_seconds`."""

    def _replace(self, *, compile_seconds: float) -> Self: ...


Compiled = TypeVar("Compiled", bound=_Timed)


def once(
    kept: dict[Hashable, Compiled],
    key: Hashable,
    shape: Hashable,
    devices: Sequence[Device],
    compile_: Callable[[], Compiled],
) -> Compiled:
    """Return what was compiled for the same key, shape, devices and settings of JAX, or compile it.

    Args:
        kept: what is there; of more than `MOST_PROGRAMS` that which was used longest ago goes.
        key, shape: what tells apart what differs; without a key it is compiled each time.
        devices: that it is compiled for.
        compile_: compiles it.
    """
    if key is None:
        return compile_()
    settings = (*map(setting, SETTINGS), switch.on())
    whole = key, shape, tuple(dict.fromkeys(map(str, devices))), settings
    found = kept.pop(whole)._replace(compile_seconds=0.0) if whole in kept else compile_()
    kept[whole] = found
    while len(kept) > MOST_PROGRAMS:
        del kept[next(iter(kept))]
    return found


def setting(name: str) -> Hashable:
    """A setting of JAX's, whichever way it is read."""
    return getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name)


@with_deep_stack
def compile_program(
    trainer: Trainer, lanes: Lanes, num_updates: float, workers: list[Device]
) -> Program:
    """Compile `init` once and `window` for each device; it is traced once.

    Args:
        trainer: what to compile.
        lanes: one block's lanes; their values do not matter.
        num_updates: what schedules run against; infinite for none.
        workers: each worker's device.
    """

    def init(seed: Array, hyperparams: Hyperparams, env_params: EnvParams) -> TrainState:
        return trainer.init(jax.random.key(seed), hyperparams, env_params, num_updates)

    start = time.perf_counter()
    devices = list(dict.fromkeys(workers))
    inputs = jax.device_put(tuple(lanes), devices[0])
    jitted_init = jax.jit(jax.vmap(init))
    jitted = jit_window(trainer)
    with _garbage_kept():
        lowered_init = jitted_init.lower(*inputs)

    def lower(device: Device) -> jax.stages.Lowered:
        state = shapes_on(device, lowered_init.out_info)
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


def shapes_on(device: Device | None, tree: PyTree) -> PyTree:
    """Shapes and dtypes of what will be on a device."""
    on = SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on), tree)


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
