"""Trials as lanes: seeds at each of some points, trained from one rung to the next.

The trials of a group differ in traced numbers alone, so that they are lanes of one program. A rung
is a part of their training; who is chosen at its end goes on from its own state, among others of
the same program. A lane does not depend on its neighbours, so the choice changes no bit of it.
"""

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from purejax_po.experiment import layout
from purejax_po.experiment.config import ExperimentConfig, sweep
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run import memory
from purejax_po.experiment.run import plan as plans
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.observers import StoppedError, Window
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.pool import has_result, open_pool, run_all
from purejax_po.experiment.run.program import Lanes
from purejax_po.experiment.run.signals import StopSignal
from purejax_po.experiment.store.arrays import Arrays
from purejax_po.experiment.store.run_store import ForeignError, RunStore, config_hash
from purejax_po.experiment.tune.search import Search
from purejax_po.training import window_lengths
from purejax_po.types import JSONObject, Trainer


@dataclass(frozen=True)
class Rung(Plan):
    """Seeds at each of some points, up to a window."""

    points: tuple[dict[str, float], ...] = ()
    """Traced numbers of each trial, by name; a trial's seeds are consecutive lanes."""
    num_windows: int = 0
    """At which it ends."""

    @property
    def num_lanes(self) -> int:
        """Seeds at each point."""
        return len(self.points) * self.config.num_seeds

    @property
    def keeps_states(self) -> bool:
        """The next rung goes on from them."""
        whole = num_windows(self.config)
        return self.num_windows < whole or whole == 1  # then every rung is the whole training

    @cached_property
    def lengths(self) -> list[int]:
        """Updates of each window up to the rung's end."""
        return window_lengths(self.config.num_updates, self.config.log_every).tolist()[
            : self.num_windows
        ]

    def make(self, numbers: np.ndarray, trainer: Trainer) -> Lanes:
        """Make the lanes that have these numbers."""
        lanes = plans.make_lanes(self.config, numbers, trainer)
        rows, _ = sweep.split(self.config, numbers)
        changes = {}
        for name in self.points[0]:
            like = getattr(lanes.hyperparams, name)
            changes[name] = np.asarray([p[name] for p in self.points], like.dtype)[rows]
        return lanes._replace(hyperparams=lanes.hyperparams.replace(**changes))

    def identity(self) -> JSONObject:
        """What a block's result depends on."""
        return {
            "config": self.config.identity(),
            "points": list(self.points),
            "windows": self.num_windows,
            "lanes_per_device": self.lanes_per_device,
        }


class Work(NamedTuple):
    """What trials are trained with."""

    config: ExperimentConfig
    """Where the space leaves it open; its seeds are each trial's."""
    search: Search
    width: int
    """Lanes on each device."""
    host: Host
    stop: StopSignal
    tell: Callable[[int], None]
    """Called with the number of environment steps that have been trained."""


class Group(NamedTuple):
    """Trials that are lanes of one program."""

    config: ExperimentConfig
    """With the static choices, and the seeds of each trial."""
    trainer: Trainer
    points: dict[int, dict[str, float]]
    """By the trials' numbers in the batch."""


def windows_of(config: ExperimentConfig, fraction: float) -> int:
    """How many windows a part of the training is, rounded down to one at least."""
    return max(1, int(fraction * num_windows(config) + 1e-9))


def num_windows(config: ExperimentConfig) -> int:
    """Windows of a whole training."""
    return len(window_lengths(config.num_updates, config.log_every))


def train_rung(
    work: Work,
    group: Group,
    alive: Sequence[int],
    plan: Rung,
    place: Path,
    before: tuple[Path, Sequence[int], Rung] | None,
) -> dict[int, tuple[list[float], bool]]:
    """Train some trials of a group to the end of a rung, from where the rung before has left them.

    What is there already is not trained again.

    Args:
        work: with what.
        group: the trials.
        alive: numbers of those that go on.
        plan: the rung.
        place: the rung's folder.
        before: the folder of the rung before, who was in it, and that rung.

    Returns:
        By the trials' numbers in the batch: the return of each seed, over the last tenth of all
        steps up to here (NaN if no episode ended), and whether one has diverged.
    """
    store = _store(place, plan)
    try:
        todo = [b for b in range(plan.num_blocks) if not has_result(store, b)]
        for block in todo:
            store.newest(block)
    except ForeignError:  # others went on, by an earlier version's rule
        shutil.rmtree(place)
        store, todo = _store(place, plan), [*range(plan.num_blocks)]
    if todo:
        if before is not None:
            old, were, former = before
            _carry_over(former, _store(old, former), plan, store, [were.index(x) for x in alive])
        # As many as at the first rung, so that the workers, and with them the program, stay.
        number = len(group.points) * group.config.num_seeds
        sized = replace(group.config, num_seeds=number, first_seed=0)
        pool = open_pool(sized, group.trainer, work.host)
        try:
            fit = pool.fit(work.width)
            pool.begin(replace(plan, device_kind=fit.device_kind), store, time.time())
            run_all(pool, todo, store, work.stop, on_window=_first_seen(plan, work.tell))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not memory.is_exhausted(error):
                raise
            raise StoppedError(
                f"out of memory with {work.width} lanes on each device; search again with fewer "
                "(--lanes-per-device)"
            ) from None
        finally:
            pool.close()
    return _scores(alive, plan, store)


def rung(work: Work, group: Group, alive: Sequence[int], fraction: float) -> Rung:
    """Make the rung of some trials of a group, by their numbers, that ends at a fraction."""
    points = tuple(group.points[x] for x in alive)
    return Rung(group.config, work.width, "", points, windows_of(group.config, fraction))


def _store(place: Path, plan: Rung) -> RunStore:
    (place / layout.BLOCKS).mkdir(parents=True, exist_ok=True)
    return RunStore(place, (config_hash(plan.identity()),))


def _carry_over(
    former: Rung, old: RunStore, plan: Rung, new: RunStore, chosen: Sequence[int]
) -> None:
    """Write what the blocks of a rung begin with: their lanes, out of the rung before."""
    blocks = range(plan.num_blocks)
    missing = [b for b in blocks if not has_result(new, b) and new.newest(b)[0] is None]
    if not missing:
        return
    parts = [_result(old, block, former.num_real(block)) for block in range(former.num_blocks)]
    whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    seeds = plan.config.num_seeds
    lanes = np.concatenate([np.arange(seeds) + seeds * x for x in chosen])
    for block in missing:
        mine = lanes[plan.numbers(block)]
        padded = np.concatenate([mine, np.repeat(mine[-1:], plan.lanes_per_device - len(mine))])
        arrays = {
            name: x[padded if name.startswith("['state']") else mine] for name, x in whole.items()
        }
        new.save(block, former.num_windows, arrays, {})


def _result(store: RunStore, block: int, num_real: int) -> Arrays:
    """State and log of a block's lanes, by the names that a block goes on from."""
    stored = store.result(block)
    if stored is None:
        raise StoppedError(f"{store.directory} lost block {block}: start again with --overwrite")
    return {
        re.sub(r"^\.(state|log)", r"['\1']", name): array[:num_real]
        for name, array in stored.arrays.items()
        if name.startswith((".state", ".log"))
    }


def _first_seen(plan: Rung, tell: Callable[[int], None]) -> Callable[[Window], bool]:
    """Return what tells of the steps of a window when it comes for the first time."""
    seen = Counter[int]()

    def on_window(window: Window) -> bool:
        if window.number < seen[window.block]:  # the block is run again
            return False
        seen[window.block] = window.number + 1
        length = plan.lengths[window.number] * plan.steps_per_update
        tell(length * plan.num_real(window.block))
        return True

    return on_window


def _scores(
    alive: Sequence[int], plan: Rung, store: RunStore
) -> dict[int, tuple[list[float], bool]]:
    """Read what the lanes of a rung have come to."""
    seeds, finals, ends = plan.config.num_seeds, [], []
    for block in range(plan.num_blocks):
        stored = store.result(block)
        if stored is None:  # told to stop
            return {}
        count, mean = (stored.arrays[f".log.episode_return.{x}"] for x in ("count", "mean"))
        log = {"update": plan.updates, "num_episodes": count.astype(int), "episode_return": mean}
        finals.append(results.final_return(log, whole=plan.config.num_updates))
        ends.append(stored.arrays[".diverged_at"])
    final = np.concatenate(finals).reshape(-1, seeds)
    diverged = np.any(np.concatenate(ends).reshape(-1, seeds) >= 0, axis=1)
    return dict(zip(alive, zip(final.tolist(), diverged.tolist(), strict=True), strict=True))
