"""A batch of trials: few programs, and at each rung the best trials go on.

Source: Jamieson & Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter
Optimization; the trials of all programs are ranked together.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from purejax_po.experiment.config import ExperimentConfig
from purejax_po.experiment.results import statistics
from purejax_po.experiment.run.trainer import build_trainer
from purejax_po.experiment.tune import space as spaces
from purejax_po.experiment.tune.rungs import Group, Rung, Work, rung, train_rung
from purejax_po.experiment.tune.search import Search
from purejax_po.experiment.tune.space import Params, Value
from purejax_po.experiment.tune.trials import Trial


def train_batch(
    work: Work, trials: Sequence[Trial], place: Path, report: Callable[[list[Trial]], None]
) -> list[Trial]:
    """Train a batch of trials; returns them with what has become of each.

    Args:
        work: with what.
        trials: whose points are trained.
        place: the batch's folder; what it holds is not trained again.
        report: called after each rung.

    Raises:
        Interrupted: after a signal, once what is under way is saved.
    """
    groups = _groups(work.config, [trial.params for trial in trials])
    trained = list(trials)
    alive = list(range(len(trials)))
    before: dict[int, tuple[Path, list[int], Rung]] = {}
    for i_rung, fraction in enumerate(work.search.fractions):
        unjudged: list[int] = []
        for number, group in enumerate(groups):
            here = [x for x in group.points if x in alive]
            if here:
                old, folder = before.get(number), place / f"program-{number}" / f"rung-{i_rung}"
                plan = rung(work, group, here, fraction)
                before[number] = folder, here, plan
                with work.stop.deferred():
                    scores = train_rung(work, group, here, plan, folder, old)
                steps = plan.updates[-1] * plan.steps_per_update
                for x, (returns, diverged) in scores.items():
                    score = _score(returns, diverged)
                    if score is None and not diverged:
                        unjudged.append(x)
                    reports = trained[x].reports | ({} if score is None else {steps: score})
                    trained[x] = trained[x]._replace(
                        reports=reports,
                        is_complete=fraction == 1.0 and score is not None,
                        returns=returns,
                        steps=steps,
                    )
        report(trained)
        scored = {x: trained[x].reports.get(trained[x].steps, -math.inf) for x in alive}
        alive = survivors(scored, unjudged, work.search)
    return trained


def survivors(scores: Mapping[int, float], unjudged: Sequence[int], search: Search) -> list[int]:
    """Return who goes on at the end of a rung.

    The best do. Where a trial has no score yet, since an episode is longer than the rung, all that
    are sound do: else the lengths of rollouts would decide.

    Args:
        scores: by trial; -∞ without one.
        unjudged: those without a score of which no seed has diverged.
        search: how many go on.
    """
    if unjudged:
        return sorted(x for x in scores if x in unjudged or scores[x] > -math.inf)
    ranked = sorted(scores, key=lambda x: -scores[x])
    return sorted(ranked[: search.num_survivors(len(scores))])


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
        numbers = {place: {k: float(points[place][k]) for k in traced} for place in places}
        made.append(Group(whole, build_trainer(whole), numbers))
    return made


def _score(returns: Sequence[float], diverged: bool) -> float | None:
    """IQM over seeds; none if one of them has no return or has diverged."""
    if diverged or not all(map(math.isfinite, returns)):
        return None
    return float(statistics.iqm(returns))
