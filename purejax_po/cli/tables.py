"""What the command line prints: a table for a run, a sweep, a search, a comparison, a plan."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from purejax_po.cli import output
from purejax_po.experiment.config.sweep import in_words
from purejax_po.experiment.report import page as report
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import evaluated
from purejax_po.experiment.tune.space import describe
from purejax_po.studies import ppo_table1 as table1
from purejax_po.types import JSONObject

if TYPE_CHECKING:
    import xarray as xr

    from purejax_po.experiment import tuning

MOST_ROWS = 40
"""Of a table of points that a terminal has room for."""
MOST_TRIALS = 10
"""Of a search, the best ones."""
RETURNS = ("iqm", "ci_low", "ci_high", "mean", "median", "min", "max")
"""What is known of a return over seeds."""
WORDS = ("algorithm", "program", "point")
"""Columns that hold no numbers."""


def print_run(dataset: "xr.Dataset") -> None:
    """Print the summary of a run."""
    summary = results.summarize(dataset)
    best, lanes = summary.get("best", {}), summary["lanes_per_device"]
    rows = {
        **({"best of points": f"{in_words(best)}, of {len(summary['points'])}"} if best else {}),
        "seeds at each point" if best else "seeds": str(summary["num_seeds"]),
        "steps per seed": f"{summary['total_steps']:,}",
        **return_rows(summary["final_return"]),
        **_evaluation_rows(summary),
        "diverged seeds": _diverged(summary["diverged_seeds"]),
        "compile, run time": f"{summary['compile_seconds']:.1f} s, {summary['run_seconds']:.1f} s",
        "steps per second": f"{summary['env_steps_per_second']:,.0f}",
        "device": f"{summary['device']}, {lanes} lane{'s' * (lanes != 1)} each",
    }
    if unfinished := summary["seeds_without_final_episodes"]:
        rows["seeds that ended no episode in the last tenth"] = str(len(unfinished))
    print_rows(f"{summary['algorithm']} on {summary['env']}", rows)


def _evaluation_rows(summary: JSONObject) -> dict[str, str]:
    """What the policy reached in its last evaluation, and when it solved its task."""
    if (final := summary.get("final_evaluation")) is None:
        return {}
    rows = dict([next(iter(return_rows(final, "evaluation").items()))])
    if (solved := summary.get("solved")) is not None:
        steps = solved["median_steps"]
        half = "fewer than half of them did" if steps is None else f"half by {steps:,.0f} steps"
        rows[f"seeds that reached {solved['return']:g}"] = f"{solved['num_seeds']}, {half}"
    return rows


def _diverged(seeds: list[JSONObject]) -> str:
    """Name the seeds that are left out of the statistics, and when each diverged."""
    if seeds and len(seeds[0]) > 2:
        return f"{len(seeds)}, named in summary.json; left out of the statistics"
    named = [f"{entry['seed']} (at update {entry['update']})" for entry in seeds]
    return f"{', '.join(named)}; left out of the statistics" if named else "none"


def print_points(dataset: "xr.Dataset", rank_by: str | None = None) -> None:
    """Print one row for each point of a sweep; of many, for the best ones."""
    rows = report.table(dataset, rank_by)
    key = evaluated.KEYS[rank_by or "training"]
    left_out = max(0, len(rows) - MOST_ROWS)
    if left_out:
        iqms = [p[key]["iqm"] for p in results.summarize(dataset)["points"]]
        order = sorted(range(len(rows)), key=lambda i: -math.inf if iqms[i] is None else iqms[i])
        rows = [rows[i] for i in reversed(order[-MOST_ROWS:])]
    title = "final return over seeds" + (f"; {left_out} lower points left out" * bool(left_out))
    of = "evaluation " if rank_by == "evaluation" else ""
    columns = [*results.swept(dataset), f"{of}IQM", f"{of}95 % CI", "diverged", ""]
    shown = [{column: row[column] for column in columns} for row in rows]
    print_columns(title, shown, are_numbers=True)


def print_comparison(dataset: "xr.Dataset", rank_by: str | None = None) -> None:
    """Print one row for each run; a line divides the environments."""
    rows = report.table(dataset, rank_by)
    columns = [column for column in report.BRIEF if column in rows[0]]
    shown = [{column: row[column] for column in columns} for row in rows]
    print_columns("final return over seeds", shown, divide_by="environment")


def print_plan(costs: "Sequence[table1.Cost]") -> None:
    """Print what every part of Table 1 will take, and the sum."""
    rows = [
        {
            "task": cost.job.task,
            "program": cost.job.group,
            "lanes": str(cost.job.config.num_lanes),
            "steps": f"{cost.steps:,}" if cost.steps else "complete",
            "estimate": f"{cost.seconds / 60:.1f} min",
        }
        for cost in costs
    ]
    steps, minutes = (sum(x) for x in zip(*[(c.steps, c.seconds / 60) for c in costs], strict=True))
    rows.append(dict.fromkeys(rows[0], "") | {"task": "all", "steps": f"{steps:,}"})
    rows[-1]["estimate"] = f"{minutes:.0f} min"
    print_columns("plan: environment steps of all lanes, time by a probe of each task", rows)


def print_columns(
    title: str,
    rows: "Sequence[dict[str, str]]",
    *,
    divide_by: str | None = None,
    are_numbers: bool = False,
) -> None:
    """Print rows that have the same columns.

    Args:
        title: above them.
        rows: cells by column.
        divide_by: the column between whose values there is a line.
        are_numbers: of all columns, also of the first one; none is broken into lines.
    """
    from rich import box

    table = output.table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(rows[0]):
        is_left = not are_numbers and (i == 0 or column in WORDS)
        table.add_column(column, justify="left" if is_left else "right", no_wrap=are_numbers)
    for _, group in itertools.groupby(rows, lambda row: divide_by and row[divide_by]):
        for row in group:
            table.add_row(*row.values())
        table.add_section()
    output.console().print(table)


def print_tuned(found: "tuning.Tuned") -> None:
    """Print the best trials, what was chosen, and its score in the search beside the fresh one."""
    scored = [row for row in found.trials if row["score"] is not None]
    scored.sort(key=lambda row: (row["state"] != "complete", -row["score"]))
    told = found.summary
    title = f"the best of {told['num_trials']} trials, {told['num_complete']} of them to the end"
    print_columns(title, [_trial_row(row) for row in scored[:MOST_TRIALS]])
    seen, fresh = told["search"], told["fresh"]
    rows = {
        "chosen": f"trial {told['chosen']['trial']}: {describe(told['chosen']['params'])}",
        "score in the search, IQM": f"{seen['iqm']:.1f}  ({len(seen['seeds'])} seeds)",
        **return_rows(fresh, "fresh"),
        "fresh seeds": f"{fresh['seeds'][0]} … {fresh['seeds'][-1]}, which the search never saw",
    }
    if fresh["diverged"]:
        rows["diverged"] = f"{fresh['diverged']} of the fresh seeds; left out of the statistics"
    if number := fresh["without_final_episodes"]:
        rows["no final episode"] = f"{number} of the fresh seeds; left out of the statistics"
    if told["finalists"] and not told["complete_finalists"]:
        rows["finalists"] = "none has a score with all further seeds: chosen by the search alone"
    print_rows(f"{told['algorithm']} on {told['env']}, {told['total_steps']:,} steps", rows)


def _trial_row(row: JSONObject) -> dict[str, str]:
    return {
        "trial": str(row["trial"]),
        "IQM": f"{row['score']:.1f}",
        "steps": f"{row['steps']:,}",
        "point": describe(
            {k: v for k, v in row.items() if k not in ("trial", "score", "steps", "state")}
        ),
    }


def return_rows(final_return: JSONObject, of: str = "final") -> dict[str, str]:
    """Rows of a return over seeds."""
    final = {k: "-" if (v := final_return[k]) is None else f"{v:.1f}" for k in RETURNS}
    return {
        f"{of} return, IQM": f"{final['iqm']}  (95 % CI {final['ci_low']} … {final['ci_high']})",
        "mean, median": f"{final['mean']}, {final['median']}",
        "min … max over seeds": f"{final['min']} … {final['max']}",
    }


def print_rows(title: str, rows: dict[str, str]) -> None:
    """Print names and what they are."""
    table = output.table(title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    output.console().print(table)
