"""What the benchmarks share: interleaved rounds, medians with extremes, tables, the machine."""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import tables

from purejax_po.experiment.config import ALGORITHMS
from purejax_po.experiment.results import dataset as results

OUT = Path(__file__).parent / "out"
RESULTS = Path(__file__).parent / "results"
KEEP = "--keep"
T = TypeVar("T")
Rows = Sequence[Mapping[str, str]]


class Figure(NamedTuple):
    """What is left of several measurements of one thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Figure":
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def show(self, form: str = ",.0f") -> str:
        """Write the median, with the extremes in brackets."""
        low, median, high = (format(x, form) for x in (self.low, self.median, self.high))
        return f"{median} ({low} … {high})"


def interleave(cases: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Measure every case once, then every case again, …: what drifts, drifts for all alike."""
    found: dict[str, list[T]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, measure in cases.items():
            found[name].append(measure())
    return found


def seconds(work: Callable[[], Any], repeats: int = 1) -> float:
    """Return the wall-clock time of one of `repeats` calls in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Ratio of the medians, between the smallest and the largest ratio within a round."""
    rounds = [a / b for a, b in zip(ours, theirs, strict=True)]
    middle = statistics.median(ours) / statistics.median(theirs)
    return Figure(middle, min([middle, *rounds]), max([middle, *rounds]))


def crossover(rates: Mapping[int, float], worth: float = 0.05) -> int:
    """Return the smallest width that is within `worth` of the best rate: more do not pay."""
    best = max(rates.values())
    return min(width for width, rate in rates.items() if rate >= (1 - worth) * best)


def iqm(values: Sequence[float]) -> float:
    """Interquartile mean: that of the middle half, a quarter cut off at each end."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    return statistics.fmean(ordered[cut : len(ordered) - cut])


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Write rows, which have the same keys in the same order, as a Markdown table."""
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([row[key] for key in header] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> dict[str, Any]:
    """Describe the machine, how busy it is with other things, and the versions."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "versions": results.versions(),
    }


def write(
    name: str, found: Mapping[str, Any], text: str, kept: Mapping[str, Rows] | None = None
) -> None:
    """Print the text; keep it and the figures, and with `--keep` the rows of tables by name."""
    print(text, flush=True)
    save(name, found, text)
    if kept and (given := kept_as(name)):
        keep(given, {key: data(rows) for key, rows in kept.items()})


def save(name: str, found: Mapping[str, Any], text: str) -> None:
    """Keep the text as `out/name.md`, and the figures with the machine as JSON."""
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.md").write_text(text.rstrip() + "\n")
    whole = {"machine": machine(), **found}
    (OUT / f"{name}.json").write_text(json.dumps(whole, indent=2, allow_nan=True) + "\n")


def keep(name: str, found: Mapping[str, Any], note: str = "") -> None:
    """Write tables by name to `results/name.json`, which the pages are made from."""
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    now = machine()
    script = Path(sys.argv[0])
    places = [i for i, x in enumerate(sys.argv) if x == "--out"]  # of whoever has run it
    left_out = {0, *places, *(i + 1 for i in places)}
    given = [x for i, x in enumerate(sys.argv) if i not in left_out]
    given = [x for x in given if x.partition("=")[0] not in (KEEP, "--out")]
    called = script.parent.name if script.name == "__main__.py" else f"benchmarks/{script.name}"
    whole = {
        "command": " ".join(["python", called, *given]),
        "commit": commit(),
        "machine": {"name": f"{now['cores']} × {now['cpu']}", "load": now["load_average"]},
        "versions": now["versions"],
        "note": note or old.get("note", ""),
        "tables": dict(found),
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(tables.dumps(whole))
    print(f"{path}: now run python benchmarks/pages.py", file=sys.stderr)


def data(rows: Rows) -> dict[str, Any]:
    """Return rows of texts, as `table` takes them, as numbers."""
    return tables.structured(list(rows[0]), [list(row.values()) for row in rows])


def kept_as(name: str) -> str | None:
    """Return the name under which `--keep` or `--keep=NAME` keeps results; None without it."""
    for argument in sys.argv[1:]:
        flag, _, given = argument.partition("=")
        if flag == KEEP:
            return given or name
    return None


def commit() -> str:
    """Return the commit that is checked out, with a + if files differ from it; or nothing."""
    if not shutil.which("git"):
        return ""

    def git(*arguments: str) -> str:
        found = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return found.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + "+" * bool(git("status", "--porcelain", "-uno"))


def arguments(doc: str | None, **options: Any) -> argparse.Namespace:
    """Parse `--quick`, and an option of its default's type for each keyword.

    A number whose default is positive has to be so too; `algorithm` is one of the package's.
    """
    parser = argparse.ArgumentParser(description=str(doc).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and short measurements")
    add_keep(parser)
    for name, default in options.items():
        flag = "--" + name.replace("_", "-")
        kind = type(default)
        if kind in (int, float) and default > 0:
            kind = _count if kind is int else _above_zero
        choices = tuple(ALGORITHMS) if name == "algorithm" else None
        parser.add_argument(
            flag, type=kind, default=default, choices=choices, help=f"default: {default}"
        )
    return parser.parse_args()


def add_keep(parser: argparse.ArgumentParser) -> None:
    """Add `--keep`."""
    words = "write benchmarks/results/NAME.json too, which the pages are made from"
    parser.add_argument(KEEP, nargs="?", const="", metavar="NAME", help=words)


def refuse(message: str) -> NoReturn:
    """Say in one line why nothing is measured, and exit with 2, as the parser does."""
    print(message, file=sys.stderr)
    raise SystemExit(2)


def _above_zero(text: str) -> float:
    """Read a number above zero."""
    try:
        if (number := float(text)) > 0:
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")


def _count(text: str) -> int:
    """Read a number of things, at least one."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text}")


def without_cache() -> dict[str, str]:
    """Return the environment for a process whose compilations are all its own."""
    return {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not on this system
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
