"""Where windows are logged besides `log.jsonl`: TensorBoard, Weights & Biases, or one's own.

One's own is a function or a class `(directory, config) → Observer`, named by `module:name` or by an
entry point of the group `purejax_po.loggers`.

The host calls a logger once per window and block of lanes, with numbers that it has fetched anyway:
nothing is called from inside the compiled program.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purejax_po import named
from purejax_po.checks import check_choice, how_to_install
from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.run.observers import Observer, Window
from purejax_po.experiment.run.plan import Labels, Plan
from purejax_po.types import Array

GROUP = "purejax_po.loggers"
"""Entry points by which an installed package gives its loggers a short name."""
MAX_LANES = 256
"""A lane is a file, or a line of each chart: beyond, `results.nc` is the place to look."""


class TensorBoard:
    """A run of TensorBoard for each lane, `tensorboard/seed-N`: a line in every chart."""

    def __init__(self, directory: Path, config: ExperimentConfig) -> None:
        self._directory = directory / "tensorboard"
        self._make = importlib.import_module("tensorboardX").SummaryWriter
        self._writers: dict[str, Any] = {}

    def on_window(self, plan: Plan, labels: Labels, window: Window) -> None:
        """As `Observer`."""
        steps = plan.updates[window.number] * plan.steps_per_update
        for lane, name, value in scalars(labels.names, window):
            if lane not in self._writers:
                self._writers[lane] = self._make(os.fspath(self._directory / lane))
            self._writers[lane].add_scalar(name, value, steps)

    def close(self) -> None:
        """As `Observer`."""
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """One run, metrics `NAME/seed-N` against `env_steps`; offline unless WANDB_MODE says more."""

    def __init__(self, directory: Path, config: ExperimentConfig) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._run = importlib.import_module("wandb").init(
            project="purejax-po",
            name=f"{config.algorithm.name} on {config.env_name}",
            config=config.to_dict(),
            dir=os.fspath(directory),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )
        self._run.define_metric("*", step_metric="env_steps")

    def on_window(self, plan: Plan, labels: Labels, window: Window) -> None:
        """As `Observer`."""
        steps = plan.updates[window.number] * plan.steps_per_update
        values = {f"{name}/{lane}": v for lane, name, v in scalars(labels.names, window)}
        self._run.log({"env_steps": steps, **values})

    def close(self) -> None:
        """As `Observer`."""
        self._run.finish()


class Backend(NamedTuple):
    """A kind of logger, and the module that it needs; one's own needs none that is known."""

    make: Any
    module: str | None


BACKENDS = {
    "tensorboard": Backend(TensorBoard, "tensorboardX"),
    "wandb": Backend(WeightsAndBiases, "wandb"),
}
"""By name, which is also the name of the extra that installs the module."""


def _backend(name: str) -> Backend:
    """What a name stands for: a backend of the package's, or one's own."""
    own = name if named.is_name(name) else named.entry_points(GROUP).get(name)
    if name in BACKENDS or own is None:
        check_choice("log_to", name, (*BACKENDS, *named.entry_points(GROUP)))
        return BACKENDS[name]
    make = named.find("log_to", own)
    if not callable(make):
        raise ValueError(f"log_to {name} must name a function or a class, got {make!r}")
    return Backend(make, None)


def check(names: Sequence[str], config: ExperimentConfig, directory: Path | None) -> None:
    """Check that loggers can be opened, without opening them.

    Raises:
        ValueError: for an unknown name, a missing module, more than `MAX_LANES` seeds (times
            points of a sweep) or no directory.
    """
    for name in names:
        module = _backend(name).module
        if module is not None and importlib.util.find_spec(module) is None:
            raise ValueError(
                f"log_to {name} needs {module}, which is not installed: {how_to_install(name)}"
            )
        if directory is None:
            raise ValueError(f"log_to {name} needs a directory for the run's files (out)")
        if module is not None and config.num_lanes > MAX_LANES:
            points = f"{config.num_points} points × " if config.sweep else ""
            raise ValueError(
                f"log_to {name} is for at most {MAX_LANES} seeds, got {points}{config.num_seeds}; "
                "log.jsonl and results.nc hold any number"
            )


def open_all(names: Sequence[str], config: ExperimentConfig, directory: Path) -> list[Observer]:
    """Open the loggers of a run."""
    return [_backend(name).make(directory, config) for name in dict.fromkeys(names)]


def scalars(lanes: Sequence[str], window: Window) -> Iterator[tuple[str, str, float]]:
    """Yield lane, name and mean over the window of all that is finite, and its evaluation."""
    log = window.log
    columns: dict[str, tuple[Array | np.ndarray, Array | np.ndarray]] = {
        "episode_return": (log.episode_return.count, log.episode_return.mean),
        "episode_length": (log.episode_length.count, log.episode_length.mean),
        **{name: (log.info.count, mean) for name, mean in log.info.mean.items()},
    }
    if window.evaluation is not None:
        columns["evaluation_return"] = np.ones(len(lanes)), window.evaluation
    for name, (count, mean) in columns.items():
        for lane, n, value in zip(lanes, count, mean, strict=True):
            if n > 0 and np.isfinite(value):
                yield lane, name, float(value)
