"""Memory: what a program of K lanes needs, what there is, and what was used at most."""

import math
import sys
from pathlib import Path
from typing import NamedTuple

import jax

from purejax_po.types import Device

GIB = 2**30
USABLE_SHARE = 0.8
"""Of the free memory, unless a budget is set: the rest is for what no analysis foresees."""
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class Need(NamedTuple):
    """What a program takes: `fixed + per_lane · K` bytes."""

    fixed: float
    per_lane: float

    def most_lanes(self, available: float) -> int:
        """Return the largest K that fits; 0 if not even one lane does, no bound if nothing is."""
        if math.isinf(available):  # the device has no memory statistics
            return sys.maxsize
        return max(0, math.floor((available - self.fixed) / self.per_lane))


def program_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes that a compiled program takes while it runs: inputs, outputs, temporaries, code."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.generated_code_size_in_bytes
    )


def extrapolate(few: tuple[int, int], more: tuple[int, int]) -> Need:
    """Draw a line through two programs, each given as (lanes, bytes)."""
    per_lane = max(1.0, (more[1] - few[1]) / (more[0] - few[0]))
    return Need(max(0.0, few[1] - per_lane * few[0]), per_lane)


def available(device: Device, budget_gib: float | None = None) -> float:
    """Bytes that programs may take on a device, besides what the process takes already.

    Args:
        device: an accelerator, or the CPU, whose memory this process shares with others.
        budget_gib: if it is set (GiB); by default four fifths of what is free.
    """
    if budget_gib is not None:
        return budget_gib * GIB
    if device.platform == "cpu":
        return USABLE_SHARE * free_bytes()
    statistics = device.memory_stats() or {}
    in_use = statistics.get("bytes_in_use", 0)
    return USABLE_SHARE * (statistics.get("bytes_limit", math.inf) - in_use)


def in_words(size: float) -> str:
    """Write a number of bytes in GiB, MiB or KiB."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if size >= 0.1 * unit:
            return f"{size / unit:.2f} {name}"
    return f"{size / 1024:.2f} KiB"


def free_bytes() -> float:
    """Main memory that this process may still take: that of the machine or of its container."""
    import psutil

    first_version = CGROUPS / "memory"
    return min(
        float(psutil.virtual_memory().available),
        _left(first_version / "memory.limit_in_bytes", first_version / "memory.usage_in_bytes"),
        *[
            _left(group / "memory.max", group / "memory.current") + _reclaimable(group)
            for group in _own_groups()
        ],
    )


def _own_groups() -> list[Path]:
    """The control group (version 2) of this process and those around it; each has its limit."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:  # not on this system
        lines = []
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    group = CGROUPS.joinpath(*names)
    return [path for path in (group, *group.parents) if path.is_relative_to(CGROUPS)]


def _left(limit: Path, usage: Path) -> float:
    """Bytes below a limit; infinite where there is no such file, or no limit ("max")."""
    try:
        return int(limit.read_text()) - int(usage.read_text())
    except (OSError, ValueError):
        return math.inf


def _reclaimable(group: Path) -> int:
    """Bytes of a group that only hold files not read lately: the kernel gives them up first."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines).get("inactive_file", 0))
    except (OSError, ValueError):
        return 0


def resident_bytes() -> float:
    """Main memory of this process."""
    import psutil

    return float(psutil.Process().memory_info().rss)


def peak_bytes(device: Device) -> float:
    """The most that this process has used so far: on the accelerator, else of main memory."""
    if device.platform != "cpu":
        return float((device.memory_stats() or {}).get("peak_bytes_in_use", math.nan))
    try:
        import resource
    except ImportError:  # not on this system
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that a device is out of memory."""
    is_runtime = isinstance(error, jax.errors.JaxRuntimeError)
    return isinstance(error, MemoryError) or (is_runtime and "RESOURCE_EXHAUSTED" in str(error))
