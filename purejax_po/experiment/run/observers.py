"""What takes windows as they come: the log, loggers, warnings, the end of a run that diverges."""

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np

from purejax_po.experiment import files as atomic
from purejax_po.experiment.config import sweep
from purejax_po.experiment.run.plan import Labels, Plan
from purejax_po.experiment.run.progress import Progress
from purejax_po.metrics import Log
from purejax_po.types import JSONObject


class StoppedError(RuntimeError):
    """A run cannot continue; the message is one line, and saved files are intact."""


class Window(NamedTuple):
    """A finished window of a block."""

    block: int
    number: int
    """From 0."""
    log: Log
    """Means over the window, NumPy leaves `[num_real]`."""
    evaluation: np.ndarray | None = None
    """Mean returns of the evaluation that followed it, `[num_real]`; None if none did."""
    ended: np.ndarray | None = None
    """Which lanes had ended before it because they solved their task; bool `[num_real]` or one."""


class Record(NamedTuple):
    """What is known of a block's windows from the first one on."""

    log: Log
    """NumPy leaves `[num_real, windows]`."""
    evaluation: np.ndarray | None = None
    """`[num_real, evaluations]`; None before the first one."""


class Observer(Protocol):
    """Takes windows as they come, in the process that drives the run.

    `po.run(config, out, observers=[…])` takes any number of them. A block's windows come in order;
    those of several blocks, which run at the same time, come mixed. Where memory runs out before
    anything is saved, training begins again with half the `plan.lanes_per_device`, and windows are
    told of anew from number 0.
    """

    def on_window(self, plan: Plan, labels: Labels, window: Window) -> None:
        """Take note of a window.

        Args:
            plan: of the run. `plan.config` is the experiment, `plan.updates[window.number]` the
                updates done by the window's end, and × `plan.steps_per_update` the environment
                steps of each lane.
            labels: of the block's lanes. `labels.names` has a text for each, such as `seed-3`, and
                `labels.columns` the seeds and the values of a sweep, by name.
            window: its log. `window.log.episode_return` and `.episode_length` have the fields
                `count`, `mean` and `m2`, `[lanes]`, over the episodes that ended;
                `window.log.info.mean` has the mean of every scalar of the algorithm over the
                window's updates, by name, and `window.log.info.count` the number of these.
                `loggers.scalars(labels.names, window)` yields all of it as
                `(lane, name, value)`.
        """
        ...

    def close(self) -> None:
        """Write the rest, if there is one."""


class Bar(Observer):
    """Tells a progress bar of steps and of the return of all blocks so far."""

    def __init__(self, advance: Progress) -> None:
        self._advance = advance
        self._newest: dict[int, Log] = {}
        self._done = 0

    def begin_again(self) -> None:
        """Take back the steps that were told of."""
        self._newest = {}
        self._tell(-self._done, math.nan)

    def _tell(self, steps: int, episode_return: float) -> None:
        self._done += steps
        self._advance(steps, episode_return)

    def begin(self, plan: Plan, records: dict[int, Record]) -> None:
        """Tell of the steps that were done before."""
        ends, done = [0, *plan.updates], {b: x.log.info.count.shape for b, x in records.items()}
        updates = sum(lanes * ends[windows] for lanes, windows in done.values())
        self._tell(updates * plan.steps_per_update, math.nan)

    def on_window(self, plan: Plan, labels: Labels, window: Window) -> None:
        """As `Observer`."""
        self._newest[window.block] = window.log
        updates = len(labels.names) * plan.lengths[window.number]
        returns = [log.episode_return for log in self._newest.values()]
        count = sum(float(x.count.sum()) for x in returns)
        total = sum(float((x.count * x.mean).sum()) for x in returns)
        self._tell(updates * plan.steps_per_update, total / count if count else math.nan)


class LogFile(Observer):
    """`log.jsonl`: a line for each window of a block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, plan: Plan, records: dict[int, Record]) -> None:
        """Write the lines of windows that are done, block by block.

        Args:
            plan: of the run.
            records: by block.
        """
        lines = []
        for block, record in sorted(records.items()):
            labels = plan.labels(block)
            lines += [_line(plan, labels, window) for window in windows(plan, block, record)]
        atomic.write_text(self._path, "".join(lines))

    def on_window(self, plan: Plan, labels: Labels, window: Window) -> None:
        """As `Observer`: append a line in a single write."""
        with self._path.open("a") as file:
            file.write(_line(plan, labels, window))


def _line(plan: Plan, labels: Labels, window: Window) -> str:
    episodes, update = window.log.episode_return, plan.updates[window.number]
    entry: JSONObject = {
        "update": update,
        "steps": update * plan.steps_per_update,
        **labels.columns,
        "num_episodes": episodes.count.astype(int).tolist(),
        "episode_return": [
            _rounded(mean) if count > 0 else None
            for mean, count in zip(episodes.mean, episodes.count, strict=True)
        ],
    }
    if window.evaluation is not None:
        entry["evaluation_return"] = [_rounded(x) for x in window.evaluation]
    return json.dumps(entry) + "\n"


def _rounded(x: float) -> float | None:
    """For JSON, which has no number that is not finite."""
    return round(float(x), 4) if math.isfinite(x) else None


class StopOnDivergence(Observer):
    """Ends the run when a seed diverges."""

    def begin(self, plan: Plan, records: dict[int, Record]) -> None:
        """Look at the windows before the run went on."""
        for block, record in records.items():
            labels = plan.labels(block)
            for window in windows(plan, block, record):
                self.on_window(plan, labels, window)

    def on_window(self, plan: Plan, labels: Labels, window: Window) -> None:
        """Raise `StoppedError` naming seed and update, if a window lacks updates of a lane."""
        length, done = plan.lengths[window.number], window.log.info.count
        is_lacking = done < length
        if window.ended is not None:
            is_lacking &= ~window.ended
        if (lacking := np.flatnonzero(is_lacking)).size:
            update = plan.updates[window.number] - length + int(done[lacking[0]])
            lane = sweep.describe(plan.config, int(plan.numbers(window.block)[lacking[0]]))
            raise StoppedError(f"{lane} diverged at update {update} (stop_on_divergence)")


class Advice(Observer):
    """Says once what the algorithm has to say of its diagnostics."""

    def __init__(self, time_limit: float | None) -> None:
        self._time_limit, self._is_told = time_limit, False

    def on_window(self, plan: Plan, labels: Labels, window: Window) -> None:
        """As `Observer`."""
        if self._is_told:
            return
        limits = plan.config.sweep.get("env_params.max_steps_in_episode")
        limit = max(limits) if limits and self._time_limit is not None else self._time_limit
        if words := plan.config.algorithm.warning(window.log.info.mean, limit):
            self._is_told = True
            warnings.warn(words, stacklevel=2)


def unstack(log: Log) -> list[Log]:
    """The windows of a log whose leaves are `[lanes, windows]`."""
    windows = log.info.count.shape[1]
    return [jax.tree.map(lambda x, i=i: x[:, i], log) for i in range(windows)]


def windows(plan: Plan, block: int, record: Record) -> list[Window]:
    """The windows of a block's record, as they were told of."""
    evaluations = [] if record.evaluation is None else list(record.evaluation.T)
    after = dict(zip(plan.evaluated, evaluations, strict=False))
    return [
        Window(
            block,
            index,
            log,
            after.get(index),
            ended(plan.config.stop_when_solved, evaluations[: plan.num_evaluations(index)]),
        )
        for index, log in enumerate(unstack(record.log))
    ]


def ended(stop_when_solved: float | None, evaluations: Sequence[np.ndarray]) -> np.ndarray | None:
    """Which lanes have ended after some evaluations, each `[lanes]`; None where none can have."""
    if stop_when_solved is None or not evaluations:
        return None
    return np.any(np.stack(evaluations) >= stop_when_solved, axis=0)
