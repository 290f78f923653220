"""The devices of a machine: how many workers it has, and how many lanes suit each of them."""

import math
import os

import jax

from purejax_po.algorithms.natural import NaturalOptions
from purejax_po.experiment.config import AlgorithmConfig, ExperimentConfig
from purejax_po.types import Device

BEST_LANES_PER_ACCELERATOR = 4096
LANES_PER_CORE = 8
"""Of small networks: with more the working set leaves a core's cache."""
NATURAL_LANES_PER_CORE = 4
"""Of natural gradients, whose products are over whole batches."""

SHARED_PRODUCT = 2**23
"""Multiplications of a product of matrices from which on two cores are faster at it than one."""
SPLIT_PRODUCT = 2**21
"""Up to which the bits of such a product were seen not to depend on the number of threads."""


def local_workers() -> list[Device]:
    """Return one device per worker: the accelerators, or the CPU once for each core."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices
    return devices[:1] * _num_cores()


def _num_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # no such notion on this system
        return os.cpu_count() or 1


def xla_threads() -> int:
    """Return how many threads XLA splits a large product of matrices among on a CPU."""
    for name in ("PJRT_NPROC", "NPROC"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return _num_cores()


def lanes_per_core(algorithm: AlgorithmConfig) -> int:
    """Return the best number of lanes on a core of a CPU; images of a single one fill its cache."""
    if algorithm.network.channels:
        return 1
    is_natural = isinstance(algorithm, NaturalOptions)
    return NATURAL_LANES_PER_CORE if is_natural else LANES_PER_CORE


def choose_width(num_lanes: int, num_workers: int, platform: str, on_a_core: int) -> int:
    """Choose K: as few rounds as the best width allows, evenly filled.

    Args:
        num_lanes: lanes to run.
        num_workers: that run them.
        platform: of their devices.
        on_a_core: the best width on a CPU's core.
    """
    best = on_a_core if platform == "cpu" else BEST_LANES_PER_ACCELERATOR
    rounds = math.ceil(num_lanes / (best * num_workers))
    return math.ceil(num_lanes / (rounds * num_workers))


def share(
    num_lanes: int,
    lanes_per_device: int | None = None,
    num_devices: int | None = None,
    on_a_core: int = LANES_PER_CORE,
) -> tuple[list[Device], int]:
    """Share lanes among this machine's workers.

    Args:
        num_lanes: lanes to run.
        lanes_per_device: K, if it is not to be chosen.
        num_devices: workers to use.
        on_a_core: as `choose_width`.

    Returns:
        Each worker's device, and K.
    """
    found = workers(num_devices)
    platform = found[0].platform
    width = lanes_per_device or choose_width(num_lanes, len(found), platform, on_a_core)
    return found[: math.ceil(num_lanes / width)], width


def workers(num_devices: int | None = None) -> list[Device]:
    """Return the device of each worker; more than there are devices or cores share them."""
    found = local_workers()
    if num_devices is not None:
        found = [found[i % len(found)] for i in range(num_devices)]
    return found


def keeps_one_core_busy(config: ExperimentConfig) -> bool:
    """Whether it is a single small lane, on an environment that is no other library's."""
    return (
        config.num_lanes == 1
        and not config.algorithm.network.channels
        and _largest_product(config.algorithm) <= SHARED_PRODUCT
        and not {"/", ":"} & set(config.env_name)
    )


def depends_on_threads(algorithm: AlgorithmConfig) -> bool:
    """Whether last bits may depend on how many threads XLA shares a product among on a CPU."""
    return bool(algorithm.network.channels) or _largest_product(algorithm) > SPLIT_PRODUCT


def _largest_product(algorithm: AlgorithmConfig) -> int:
    """Multiplications of the product of a batch and a hidden layer."""
    batch = algorithm.num_envs * algorithm.num_steps // getattr(algorithm, "num_minibatches", 1)
    return batch * max(algorithm.network.hidden, default=1) ** 2


def leave_accelerators() -> None:
    """Let this process use JAX on the CPU alone, unless it has used it already."""
    from jax._src import xla_bridge

    if not xla_bridge.backends_are_initialized():
        jax.config.update("jax_platforms", "cpu")
