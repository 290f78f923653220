"""The table: normalised scores with intervals beside the paper's, and scores by task."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import statistics
from purejax_po.studies.ppo_table1.scores import (
    SCORED_EPISODES,
    References,
    Score,
    best,
    normalized,
    paper,
    score,
)
from purejax_po.types import JSONObject

if TYPE_CHECKING:
    import xarray as xr

Runs = dict[str, dict[str, dict[str, "xr.Dataset"]]]
"""Results by task, group and label."""


def table(runs: "Runs", baseline: Mapping[str, References]) -> JSONObject:
    """Return scores, normalised scores with intervals, and what 0 and 1 stand for.

    Args:
        runs: by task, group and label.
        baseline: by task, see `references`.
    """
    found = {
        task: {label: score(part) for parts in families.values() for label, part in parts.items()}
        for task, families in runs.items()
    }
    low = {task: float(np.mean(of_task["random"])) for task, of_task in baseline.items()}
    rows = []
    for label, scaled in normalized(found, low).items():
        kept = [x for x in scaled if len(x)]
        aggregates = {
            name: statistics.aggregate(kept, statistics.AGGREGATES[name]) if kept else None
            for name in ("mean", "iqm")
        }
        rows.append(
            {
                "setting": label,
                "paper": paper(label),
                **{name: _plain(estimate) for name, estimate in aggregates.items()},
                "tasks": {task: _on_task(of_task[label]) for task, of_task in found.items()},
            }
        )
    return {
        "zero": low,
        "one": {task: results.number(best(of_task)) for task, of_task in found.items()},
        "references": {
            task: {kind: results.over_seeds(np.array(x)) for kind, x in of_task.items()}
            for task, of_task in baseline.items()
        },
        "rows": rows,
        "steps": {task: _steps(families) for task, families in runs.items()},
        "versions": results.versions(),
    }


def _steps(families: Mapping[str, Mapping[str, "xr.Dataset"]]) -> int:
    """Steps of the longest run: others may round down to whole updates of another size."""
    return max(int(p["step"][-1]) for parts in families.values() for p in parts.values())


def _on_task(score: Score) -> JSONObject:
    kept = score.runs[np.isfinite(score.runs)]
    return {
        "scores": [results.number(x) for x in score.runs],
        "num_diverged": score.num_diverged,
        **results.over_seeds(kept),
    }


def _plain(estimate: statistics.Estimate | None) -> dict[str, float | None]:
    values = (np.nan,) * 3 if estimate is None else estimate
    return dict(zip(("value", "low", "high"), map(results.number, values), strict=True))


def cells(found: JSONObject) -> list[dict[str, str]]:
    """Return the table's rows as text: normalised scores beside the paper's, and the tasks'."""
    lines = []
    for row in found["rows"]:
        line = {
            "setting": row["setting"],
            "paper": _text(row["paper"], ".2f"),
            "mean": _interval(".2f", *row["mean"].values()),
            "IQM": _interval(".2f", *row["iqm"].values()),
        }
        for task, on_task in row["tasks"].items():
            form = ".1f" if abs(found["one"][task] or 0.0) < 100 else ".0f"
            text = _interval(form, *(on_task[k] for k in ("iqm", "ci_low", "ci_high")))
            text += f", {on_task['num_diverged']} diverged" * bool(on_task["num_diverged"])
            line[task] = text
        lines.append(line)
    return lines


def page(found: JSONObject) -> str:
    """Return the table as Markdown, with what its numbers are."""
    lines = cells(found)
    header = list(lines[0])
    rows = [header, ["---"] * len(header), *([line[k] for k in header] for line in lines)]
    steps = ", ".join(f"{task} {n:,}" for task, n in found["steps"].items())
    zero, one = found["zero"], found["one"]
    scale = ", ".join(f"{task} {x:.1f} and {_text(one[task], '.1f')}" for task, x in zero.items())
    unscaled = [task for task, x in zero.items() if one[task] is None or one[task] <= x]
    left_out = f" Not in mean and IQM, for nothing beat random: {', '.join(unscaled)}."
    best_of = "PPO's settings here" if any(row["paper"] for row in found["rows"]) else "all rows"
    return "\n".join(
        ["| " + " | ".join(row) + " |" for row in rows]
        + [
            "",
            f"A run's score is the mean return of its last {SCORED_EPISODES} episodes, or of all "
            "if there were fewer. mean, IQM: over all runs on all tasks, scaled by the task so "
            f"that the uniformly random policy is 0 and the best of {best_of} (by its mean over "
            "seeds) is 1; tasks: IQM of the scores over seeds. In brackets 95 % bootstrap "
            "intervals over seeds.",
            "",
            f"Steps of each run: {steps}. 0 and 1 stand for: {scale}." + left_out * bool(unscaled),
            "",
        ]
    )


def _interval(form: str, value: float | None, low: float | None, high: float | None) -> str:
    ends = "" if low is None or high is None else f" ({low:{form}} … {high:{form}})"
    return _text(value, form) + ends


def _text(x: float | None, form: str) -> str:
    return "–" if x is None else f"{x:{form}}"
