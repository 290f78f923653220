"""Running a search from the command line, and printing what it has come to."""

import shlex
import sys

from purejax_po.cli import output, tables
from purejax_po.experiment import tuning
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.observers import StoppedError
from purejax_po.experiment.run.signals import Interrupted
from purejax_po.experiment.tune import search
from purejax_po.experiment.tune.search import Tuning
from purejax_po.experiment.tune.space import describe
from purejax_po.types import JSONObject

PROGRAM = output.PROGRAM
MOST_ROWS = 10
RETURNS = ("iqm", "ci_low", "ci_high", "mean", "median", "min", "max")


def run(prepared: Tuning, host: Host) -> int:
    """Run a search and print its table; returns the exit code."""
    out = shlex.quote(str(prepared.directory))
    try:
        found = tuning.execute(prepared, host)
    except Interrupted as stop:
        print(f"{PROGRAM}: interrupted; to go on: {PROGRAM} resume {out}", file=sys.stderr)
        return 128 + stop.signal_number
    except ValueError as error:  # a storage that has become another's, memory for no lane
        return output.fail(error)
    except StoppedError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1
    print_tuned(found)
    place = prepared.directory
    files = [name for name in search.FILES if (place / name).exists()]
    output.console().print(f"files: {place}/{{{', '.join(files)}}}", soft_wrap=True)
    best = shlex.quote(str(place / search.BEST))
    output.console().print(f"to train it: {PROGRAM} train --config {best}", soft_wrap=True)
    return 0


def print_tuned(found: tuning.Tuned) -> None:
    """Print the best trials, what was chosen, and its score in the search beside the fresh one."""
    scored = [row for row in found.trials if row["score"] is not None]
    scored.sort(key=lambda row: (row["state"] != "complete", -row["score"]))
    told = found.summary
    title = f"the best of {told['num_trials']} trials, {told['num_complete']} of them to the end"
    tables.print_columns(title, [_row(row) for row in scored[:MOST_ROWS]])
    seen, fresh = told["search"], told["fresh"]
    numbers = {name: fresh[name] for name in RETURNS}
    rows = {
        "chosen": f"trial {told['chosen']['trial']}: {describe(told['chosen']['params'])}",
        "score in the search, IQM": f"{seen['iqm']:.1f}  ({len(seen['seeds'])} seeds)",
        **tables.return_rows(numbers, "fresh"),
        "fresh seeds": f"{fresh['seeds'][0]} … {fresh['seeds'][-1]}, which the search never saw",
    }
    if fresh["diverged"]:
        rows["diverged"] = f"{fresh['diverged']} of the fresh seeds; left out of the statistics"
    tables.print_rows(f"{told['algorithm']} on {told['env']}, {told['total_steps']:,} steps", rows)


def _row(row: JSONObject) -> dict[str, str]:
    return {
        "trial": str(row["trial"]),
        "IQM": f"{row['score']:.1f}",
        "steps": f"{row['steps']:,}",
        "point": describe(
            {k: v for k, v in row.items() if k not in ("trial", "score", "steps", "state")}
        ),
    }
