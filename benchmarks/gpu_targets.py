"""Descriptions of NVIDIA cards from their data sheets, and programs compiled for them without one.

What is needed of JAX beside its public interface stands here: the plugin's topology of a card that
is not there. The extra `gpu-program` brings the plugin; neither driver nor card is asked for.
"""

from typing import Any, NamedTuple

RUNTIME = "13.0.0"
"""Of CUDA: by its version the compiler decides which loops may become graphs."""


class Card(NamedTuple):
    """What a data sheet says of a card."""

    name: str
    capability: tuple[int, int]
    cores: int
    """Streaming multiprocessors."""
    fpus: int
    """Float32 units of each."""
    clock: float
    """GHz, the highest."""
    bandwidth: float
    """Bytes a second."""
    memory: int
    """Bytes."""
    cache: int
    """Bytes, of the second level."""
    shared: int
    """Bytes of shared memory of a multiprocessor."""
    tf32: float
    """Operations a second in dense products."""

    @property
    def fp32(self) -> float:
        """Operations a second outside products: a multiplication and an addition each turn."""
        return 2e9 * self.cores * self.fpus * self.clock


CARDS = {
    "a100": Card(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, 2.039e12,
        80 << 30, 40 << 20, 164 << 10, 156e12,
    ),
    "h100": Card(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 3.35e12,
        80 << 30, 50 << 20, 228 << 10, 495e12,
    ),
    "h200": Card(
        "NVIDIA H200", (9, 0), 132, 128, 1.98, 4.8e12,
        141 << 30, 50 << 20, 228 << 10, 495e12,
    ),
}  # fmt: skip


def describe(card: Card) -> str:
    """The card as the text that XLA reads as a target's description."""
    major, minor = card.capability
    feature = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {card.shared}
  shared_memory_per_block_optin: {card.shared - 1024}
  threads_per_core_limit: 2048
  core_count: {card.cores}
  fpus_per_core: {card.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {card.bandwidth:.0f}
  l2_cache_size: {card.cache}
  clock_rate_ghz: {card.clock}
  device_memory_size: {card.memory}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation"
  device_address_bits: 64
  name: "{card.name}"
  driver_version: "{RUNTIME}"
  runtime_version: "{RUNTIME}"
  compile_time_toolkit_version: "{RUNTIME}"
  dnn_version: "9.10.0"
  cuda_compute_capability {{ major: {major} minor: {minor} {feature} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{card.name}"
"""


def device_of(card: Card) -> Any:
    """A device to compile for; programs for it cannot run.

    Raises:
        SystemExit: the plugin is not installed, or JAX would look for a card.
    """
    import os

    from jax.experimental import topologies

    if os.environ.get("JAX_PLATFORMS") != "cpu":
        raise SystemExit("compiling without a card needs JAX_PLATFORMS=cpu in the environment")
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=describe(card), topology="1x1x1"
        )
    except Exception as error:
        raise SystemExit(
            f"no compiler for {card.name}: pip install 'purejax_po[gpu-program]' ({error})"
        ) from None
    return topology.devices[0]
