"""A batch of trials: few programs, and at each rung the best trials go on.

Source: Jamieson & Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter
Optimization; the trials of all programs are ranked together.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.results import statistics
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.signals import StopSignal
from purejax_po.experiment.run.trainer import build_trainer
from purejax_po.experiment.tune import space as spaces
from purejax_po.experiment.tune.rungs import Group, steps_of, train_rung
from purejax_po.experiment.tune.space import Params, Value
from purejax_po.experiment.tune.trials import Trial


class Halving(NamedTuple):
    """When trials are judged, and how many go on."""

    num_rungs: int = 3
    """Judgements, the last one at the end; 1 trains every trial to its end."""
    reduction: int = 2
    """Of this many trials one goes on, and each rung is this many times as long."""

    @property
    def fractions(self) -> tuple[float, ...]:
        """Of the training, at which each rung ends."""
        return tuple(float(self.reduction) ** -i for i in reversed(range(self.num_rungs)))

    def num_survivors(self, number: int) -> int:
        """How many of so many trials go on."""
        return max(1, number // self.reduction)


class Work(NamedTuple):
    """What trials are trained with."""

    config: ExperimentConfig
    """Where the space leaves it open; its seeds are each trial's."""
    width: int
    """Lanes on each device."""
    host: Host
    stop: StopSignal
    tell: Callable[[int], None]
    """Called with the number of environment steps that have been trained."""


def train_batch(
    work: Work,
    trials: Sequence[Trial],
    place: Path,
    halving: Halving,
    report: Callable[[list[Trial]], None] = lambda trials: None,
) -> list[Trial]:
    """Train a batch of trials; returns them with what has become of each.

    Args:
        work: with what.
        trials: whose points are trained.
        place: the batch's folder; what it holds is not trained again.
        halving: who goes on.
        report: called after each rung.

    Raises:
        Interrupted: after a signal, once what is under way is saved.
    """
    groups = _groups(work.config, [trial.params for trial in trials])
    trained = list(trials)
    alive = list(range(len(trials)))
    before: tuple[int, list[int]] | None = None
    fractions = halving.fractions
    for rung, fraction in enumerate(fractions):
        unjudged: list[int] = []
        for number, group in enumerate(groups):
            here = [i for i, x in enumerate(group.numbers) if x in alive]
            if here:
                folder = place / f"program-{number}"
                old = None
                if before is not None:
                    were = [i for i, x in enumerate(group.numbers) if x in before[1]]
                    old = folder / f"rung-{before[0]}", were, fractions[before[0]]
                with work.stop.deferred():
                    scores = train_rung(
                        group,
                        here,
                        fraction,
                        folder / f"rung-{rung}",
                        old,
                        work.width,
                        work.host,
                        work.stop,
                        work.tell,
                    )
                steps = steps_of(group.config, fraction)
                for x, returns in scores.returns.items():
                    score = _score(returns, scores.diverged[x])
                    if score is None and not scores.diverged[x]:
                        unjudged.append(x)
                    reports = trained[x].reports | ({} if score is None else {steps: score})
                    trained[x] = trained[x]._replace(
                        reports=reports,
                        is_complete=fraction == 1.0 and score is not None,
                        returns=returns,
                        steps=steps,
                    )
        report(trained)
        before = rung, alive
        scored = {x: trained[x].reports.get(trained[x].steps, -math.inf) for x in alive}
        alive = survivors(scored, unjudged, halving)
    return trained


def survivors(scores: Mapping[int, float], unjudged: Sequence[int], halving: Halving) -> list[int]:
    """Return who goes on at the end of a rung.

    The best do. Where a trial has no score yet, since an episode is longer than the rung, all that
    are sound do: else the lengths of rollouts would decide.

    Args:
        scores: by trial; -∞ without one.
        unjudged: those without a score of which no seed has diverged.
        halving: how many go on.
    """
    if unjudged:
        return sorted(x for x in scores if x in unjudged or scores[x] > -math.inf)
    ranked = sorted(scores, key=lambda x: -scores[x])
    return sorted(ranked[: halving.num_survivors(len(scores))])


def _groups(config: ExperimentConfig, points: Sequence[Params]) -> list[Group]:
    """Trials by program: those that share all that shapes one."""
    traced = [name for name in points[0] if spaces.is_traced(config.algorithm, name)]
    found: dict[tuple[tuple[str, Value], ...], list[int]] = {}
    for place, point in enumerate(points):
        static = tuple((k, v) for k, v in point.items() if k not in traced)
        found.setdefault(static, []).append(place)
    made = []
    for static, places in found.items():
        whole = spaces.at(config, dict(static))
        numbers = tuple({k: float(points[place][k]) for k in traced} for place in places)
        made.append(Group(whole, build_trainer(whole), numbers, tuple(places)))
    return made


def _score(returns: Sequence[float], diverged: bool) -> float | None:
    """IQM over seeds; none if one of them has no return or has diverged."""
    if diverged or not all(map(math.isfinite, returns)):
        return None
    return float(statistics.iqm(returns))
