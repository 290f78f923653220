"""Where and how a run takes place; its results do not depend on it."""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tyro

from purejax_po.checks import (
    Range,
    check_choice,
    check_count,
    check_flag,
    check_number,
    how_to_install,
)
from purejax_po.experiment.config import MAX_SEEDS
from purejax_po.experiment.run import devices
from purejax_po.experiment.run.observers import Observer
from purejax_po.experiment.run.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where and how a run takes place; its results do not depend on it."""

    num_devices: int | None = None
    """Devices to use (a CPU core counts as one); all by default. On a cluster of CPUs: the cores
    of each worker. Results depend only on lanes_per_device, whose default follows from the numbers
    of seeds and devices."""
    memory_gib: float | None = None
    """Memory for the programs on each device (GiB), without Python's own. Default: four fifths of
    the free memory. lanes_per_device is chosen to fit."""
    cluster: str | None = None
    """Run on a Ray cluster: HOST:PORT, or auto (the cluster that this machine belongs to, else a
    new one). All its machines must see the directory."""
    max_workers: int | None = None
    """Use at most this many workers of a cluster. A worker is a process with one GPU, or with the
    cores of one machine."""
    checkpoint_every: float = 1.0
    """Minutes between checkpoints; 0 saves after every window."""
    keep_checkpoints: int = 2
    """Checkpoints to keep while a seed trains."""
    stop_on_divergence: bool = False
    """Stop when a seed diverges, in place of freezing it and continuing with the others."""
    log_to: tuple[str, ...] = ()
    """Where to log besides log.jsonl: tensorboard, wandb (offline unless WANDB_MODE=online), or a
    logger of your own: my_pkg.logs:MyLogger, (directory, config) → Observer."""
    compilation_cache: bool = True
    """Keep compiled programs on disk, so that a second run of the same shape need not compile."""
    overwrite: tyro.conf.Suppress[bool] = False
    """Replace the run that the directory holds."""
    progress: tyro.conf.Suppress[tyro.conf.Fixed[bool | Progress]] = True
    """Show a progress bar; or a function, which is called after every window."""
    observers: tyro.conf.Suppress[tyro.conf.Fixed[Sequence[Observer]]] = ()
    """Called with every window as it comes."""

    def check(self) -> None:
        """Raise `ValueError` for a value that no machine allows."""
        for name in ("num_devices", "max_workers"):
            if (value := getattr(self, name)) is not None:
                check_count(name, value, maximum=MAX_SEEDS)
        if self.memory_gib is not None:
            check_number("memory_gib", self.memory_gib, Range(0.0, includes_low=False))
        if not isinstance(self.cluster, str | None):
            raise ValueError(f"cluster must be HOST:PORT or auto, got {self.cluster!r}")
        check_number("checkpoint_every", self.checkpoint_every, Range(0.0))
        check_count("keep_checkpoints", self.keep_checkpoints)
        for name in ("stop_on_divergence", "overwrite", "compilation_cache"):
            check_flag(name, getattr(self, name))
        if not isinstance(self.progress, bool) and not isinstance(self.progress, Callable):
            raise ValueError(f"progress must be True, False or a function, got {self.progress!r}")
        if isinstance(self.log_to, str):
            raise ValueError(f"log_to must be a sequence of names, got {self.log_to!r}")
        if not isinstance(self.observers, Sequence):
            raise ValueError(f"observers must be a sequence of them, got {self.observers!r}")
        for observer in self.observers:
            if not all(callable(getattr(observer, x, None)) for x in ("on_window", "close")):
                raise ValueError(
                    "observers must be objects with on_window(plan, labels, window) and close(), "
                    f"got {observer!r}"
                )
        if self.max_workers is not None and self.cluster is None:
            raise ValueError("max_workers must be given with cluster; here it is num_devices")

    def leave_accelerators(self) -> None:
        """Let this process use JAX on the CPU alone, if a cluster's workers are to train.

        A process that looks at an accelerator takes a part of its memory. Before JAX is used:
        checks of environments use it.
        """
        if self.cluster is not None:
            devices.leave_accelerators()

    def connect(self) -> None:
        """Join the cluster, if the run is to take place on one; before JAX is used, if possible.

        Raises:
            ValueError: if there is none, or Ray is not installed.
        """
        if self.cluster is None:
            return
        if importlib.util.find_spec("ray") is None:
            raise ValueError(f"cluster needs ray, which is not installed: {how_to_install('ray')}")
        from purejax_po.experiment.run.ray_cluster import connect

        connect(self.cluster)

    def but(self, changes: Mapping[str, object]) -> "Host":
        """Return the host with some fields changed, and checked.

        Raises:
            ValueError: for a name that is no field, naming the nearest, or a value that is wrong.
        """
        for name in changes:
            check_choice("an argument", name, tuple(f.name for f in dataclasses.fields(self)))
        changed = dataclasses.replace(self, **changes)
        changed.check()
        return changed
