"""The progress bar of a run."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from purejax_po.experiment.config import ExperimentConfig

Progress = Callable[[int, float], None]
"""Called after every window with the environment steps done in it and its mean episode return; once
at the beginning of a resumed run, with the steps done before."""


@contextmanager
def progress_bar(config: ExperimentConfig, num_processes: int = 1) -> Iterator[Progress]:
    """Show a bar on stderr, and give the function that advances it.

    Where several processes share the run, it shows what this one does of it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    algorithm = config.algorithm
    points = f"{config.num_points} points × " if config.sweep else ""
    description = f"{algorithm.name} on {config.env}, {points}{config.num_seeds} seeds"
    per_update = algorithm.num_envs * algorithm.num_steps
    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[speed]} steps/s"),
        TextColumn("return {task.fields[episode_return]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task(
        f"{description}: compiling",
        total=config.num_lanes * config.num_updates * per_update / num_processes,
        speed="-",
        episode_return="-",
    )
    done, start = 0, 0.0

    def advance(steps: int, episode_return: float) -> None:
        nonlocal done, start
        now = time.perf_counter()
        done, start = (done + steps, start) if start else (0, now)  # compilation does not count
        speed = f"{done / (now - start):,.0f}" if done else "-"
        shown = "-" if math.isnan(episode_return) else f"{episode_return:.1f}"
        bar.update(task, advance=steps, description=description, speed=speed, episode_return=shown)

    with bar:
        yield advance
