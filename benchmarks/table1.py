"""Table 1 of the PPO paper, and what it says of clipping.

    python benchmarks/table1.py [--keep] [flags of `purejax-po table1`]

Runs the command, or reads what it has done, and prints its page with two tables more: PPO with ε =
0.2 beside the random and the untrained policy, and how likely a run with clipping beats one
without. Intervals are 95 % bootstrap intervals over seeds, for random and untrained over policies.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import measure
import tables

from purejax_po import cli
from purejax_po.cli import entry
from purejax_po.experiment.results import statistics
from purejax_po.studies import ppo_table1 as table1

CLIP, UNCLIPPED = "clipping, ε = 0.2", "no clipping or penalty"


def main() -> None:
    arguments = [x for x in sys.argv[1:] if x.partition("=")[0] != measure.KEEP]
    if status := cli.main(["table1", *arguments]):
        raise SystemExit(status)
    command = entry.parse(["table1", *arguments])
    if command.plan:
        return
    found = json.loads((command.out / table1.TABLE).read_text())
    parts = [f"## Continuous control\n\n    purejax-po table1 {' '.join(arguments)}"]
    parts.append((command.out / table1.PAGE).read_text().rstrip())
    rows = {row["setting"]: row["tasks"] for row in found["rows"]}
    if CLIP in rows:
        parts.append(measure.table(list(beside_references(found, rows[CLIP]))))
    if CLIP in rows and UNCLIPPED in rows:
        parts.append(measure.table(list(orderings(rows[CLIP], rows[UNCLIPPED]))))
    text = "\n\n".join(parts)
    measure.write("table1", found, text)
    if name := measure.kept_as("table1"):
        names = ("settings", "references", "clipping")
        measure.keep(name, dict(zip(names, tables.parse(text), strict=False)))


def beside_references(found: dict[str, Any], tasks: dict[str, Any]) -> Iterator[dict[str, str]]:
    """One row per task: three IQMs, and whether the intervals are apart."""
    for task, score in tasks.items():
        kinds = {**found["references"][task], f"PPO, {CLIP}": score}
        row = {"task": task} | {name: interval(x) for name, x in kinds.items()}
        ends = [x["ci_high"] for x in found["references"][task].values()]
        known = score["ci_low"] is not None
        row["intervals apart"] = ("yes" if score["ci_low"] > max(ends) else "no") if known else "–"
        yield row


def orderings(clip: dict[str, Any], unclipped: dict[str, Any]) -> Iterator[dict[str, str]]:
    """One row per task, and one of all: P(a run with clipping > a run without)."""
    pairs = {
        task: [[x for x in of[task]["scores"] if x is not None] for of in (clip, unclipped)]
        for task in clip
    }
    cases = {task: ([x], [y]) for task, (x, y) in pairs.items() if x and y}
    if len(cases) > 1:
        cases["all"] = tuple([case[i][0] for case in cases.values()] for i in range(2))
    for task, (x, y) in cases.items():
        found = statistics.probability_of_improvement(x, y)
        row = dict(zip(("iqm", "ci_low", "ci_high"), map(float, found), strict=True))
        yield {"task": task, f"P({CLIP} > {UNCLIPPED})": interval(row, ".2f")}


def interval(x: dict[str, Any], form: str = ".1f") -> str:
    """Write an estimate with its interval."""
    low, high = x["ci_low"], x["ci_high"]
    ends = "" if low is None or low != low else f" ({low:{form}} … {high:{form}})"
    return ("–" if x["iqm"] is None else f"{x['iqm']:{form}}") + ends


if __name__ == "__main__":
    main()
