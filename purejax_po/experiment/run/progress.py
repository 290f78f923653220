"""The progress of a run: a bar in a terminal, an updating text in a notebook, else plain lines."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from purejax_po.experiment.config import ExperimentConfig

Progress = Callable[[int, float], None]
"""Called after every window with the environment steps done in it and the mean return of the
episodes that ended in the newest window of every block so far; once at the beginning of a resumed
run, with the steps done before; once with all steps so far, negative, where memory has run out and
training begins again with fewer lanes on each device."""

NOTEBOOK_SECONDS = 0.25
"""Between two updates of a text in a notebook."""
LINES = 10
"""That a log file gets of a run."""


@contextmanager
def progress_bar(config: ExperimentConfig, title: str = "") -> Iterator[Progress]:
    """Show progress on stderr, and give the function that advances it."""
    algorithm = config.algorithm
    points = f"{config.num_points} points × " if config.sweep else ""
    seeds = f"{config.num_seeds} seed{'s' * (config.num_seeds != 1)}"
    description = f"{title}{algorithm.name} on {config.env_name}, {points}{seeds}"
    per_update = algorithm.num_envs * algorithm.num_steps
    total = config.num_lanes * config.num_updates * per_update
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    show = _in_notebook if _notebook() else _in_terminal if is_terminal else _in_lines
    with show(description, total) as update:
        done, start = 0, 0.0

        def advance(steps: int, episode_return: float) -> None:
            nonlocal done, start
            now = time.perf_counter()
            done, start = (done + steps, start) if start else (0, now)  # compilation is not counted
            speed = f"{done / (now - start):,.0f}" if done else "-"
            update(steps, speed, "-" if math.isnan(episode_return) else f"{episode_return:.1f}")

        yield advance


Update = Callable[[int, str, str], None]
"""Called with the steps of a window, the speed and the return."""


def _notebook() -> Any:
    """IPython's shell, if this is a notebook."""
    if "IPython" not in sys.modules:
        return None
    shell = sys.modules["IPython"].get_ipython()
    return shell if type(shell).__name__ == "ZMQInteractiveShell" else None


@contextmanager
def _in_terminal(description: str, total: float) -> Iterator[Update]:
    """A bar."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[speed]} steps/s"),
        TextColumn("return {task.fields[episode_return]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, markup=False, emoji=False, highlight=False),
    )
    task = bar.add_task(f"{description}: compiling", total=total, speed="-", episode_return="-")

    def update(steps: int, speed: str, shown: str) -> None:
        bar.update(task, advance=steps, description=description, speed=speed, episode_return=shown)

    with bar:
        yield update


def _line(description: str, share: float, speed: str, shown: str) -> str:
    return f"{description}: {share:4.0%}, {speed} steps/s, return {shown}"


@contextmanager
def _in_lines(description: str, total: float) -> Iterator[Update]:
    """A plain line for each tenth: for a log file, a batch job, a continuous integration."""
    done, told = 0.0, 0
    print(f"{description}: compiling", file=sys.stderr, flush=True)

    def update(steps: int, speed: str, shown: str) -> None:
        nonlocal done, told
        done += steps
        tenth = int(LINES * done / total + 1e-9)
        if tenth > told:
            told = tenth
            print(_line(description, done / total, speed, shown), file=sys.stderr, flush=True)

    yield update


@contextmanager
def _in_notebook(description: str, total: float) -> Iterator[Update]:
    """One text that updates; it needs no widgets."""
    from IPython.display import display

    def text(line: str) -> dict[str, str]:
        return {"text/plain": line}

    handle: Any = display(text(f"{description}: compiling"), raw=True, display_id=True)
    done, told, last = 0.0, 0.0, ""

    def update(steps: int, speed: str, shown: str) -> None:
        nonlocal done, told, last
        done += steps
        last = _line(description, done / total, speed, shown)
        now = time.perf_counter()
        if now - told > NOTEBOOK_SECONDS:
            told = now
            handle.update(text(last), raw=True)

    try:
        yield update
    finally:
        if last:
            handle.update(text(last), raw=True)
