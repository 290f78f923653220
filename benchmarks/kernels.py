"""The kernels of one update on a CPU core: what each kind takes, by JAX's profiler.

    python benchmarks/kernels.py [--algorithm ppo] [--quick]

One worker in one thread, with the lanes that the package gives a core. Where a kernel belongs shows
in how often an update runs it; what it does, in the compiled program's text. Products have their
operations counted, so that their rate stands beside the one that `limit.py` measures. The profiler
takes a fraction of a microsecond of every kernel's time.
"""

import math
import os
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import limit
import measure
from jax.profiler import ProfileData
from launches import METADATA
from timed import Timed

from purejax_po.experiment.config import algorithm_config

SETTINGS = {
    "PJRT_NPROC": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""One thread; and memory that a kernel frees is kept. As the profiler allocates between kernels, it
would be handed back to the system and fetched again, which takes longer than some kernels."""

UPDATES = 8
WIDE = 32
"""A product whose three dimensions have so many is one between hidden layers."""

SHAPE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = \w+\[([\d,]*)\]", re.MULTILINE)
DOT = re.compile(
    r"= \w+\[([\d,]*)\]\S* dot\((?:\w+\[[^%]*)?%([\w.\-]+).*lhs_contracting_dims=\{([\d,]*)\}"
)
CALLS = re.compile(r"\bcalls=%?([\w.\-]+)")


class Kernel(NamedTuple):
    """What the text of a program says of an instruction."""

    kind: str
    flops: float


def kernels(hlo: str) -> dict[str, Kernel]:
    """Tell every instruction's kind by its name."""
    computations: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in METADATA.sub("", hlo).splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = re.split(r"[\s(]", line.removeprefix("ENTRY ").lstrip("%"))[0]
        elif SHAPE.match(line):
            computations[name].append(line)
    lines = [line for body in computations.values() for line in body]
    shapes = {name: numbers(dims) for line in lines for name, dims in SHAPE.findall(line)}

    def describe(line: str) -> Kernel:
        called = CALLS.search(line)
        text = "\n".join(computations[called[1]]) if called else line
        if dots := DOT.findall(text):  # a library may have several in one kernel
            wide, flops = False, 0.0
            for out, left, contracting in dots:
                sizes, contracted = numbers(out), [shapes[left][i] for i in numbers(contracting)]
                flops += 2.0 * math.prod(sizes) * math.prod(contracted)
                wide |= len(sizes) > 1 and min([*sizes[-2:], *contracted]) >= WIDE
            return Kernel("products of hidden layers" if wide else "other products", flops)
        if "tanh(" in text:
            return Kernel("tanh", 0.0)
        if re.search(r"%?(transpose_)?copy[\w.]* = ", line):
            return Kernel("copies and transposes", 0.0)
        return Kernel("other", 0.0)

    found = {}
    for line in lines:
        if match := SHAPE.match(line):
            found[match[1]] = describe(line)
    return found


def numbers(text: str) -> list[int]:
    """Read `1,2,3`."""
    return [int(x) for x in text.split(",") if x]


def durations(run: Callable[[], Any]) -> dict[str, list[float]]:
    """Profile a call; returns every kernel's times in microseconds by its name."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = ProfileData.from_file(str(file))
    found = defaultdict(list)
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                found[event.name].append(event.duration_ns / 1e3)
    return found


def main() -> None:
    """Print the table of kinds."""
    if any(name not in os.environ for name in SETTINGS):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})
    arguments = measure.arguments(__doc__, algorithm="ppo")
    config = algorithm_config(arguments.algorithm)()
    width = config.lanes_per_core
    timed = Timed(config, limit.ENV, range(width), UPDATES, width)
    speeds = [timed.run() for _ in range(5 if arguments.quick else 25)][2:]
    (program,) = timed.program.window.values()
    known = kernels(program.as_text())
    groups = defaultdict(lambda: [0, 0.0, 0.0])
    for name, times in durations(timed.run).items():
        if name in known and (per_update := len(times) / UPDATES) >= 1 and "while" not in name:
            group = groups[round(per_update), known[name].kind]
            group[0] += 1
            group[1] += per_update * statistics.median(times)
            group[2] += per_update * known[name].flops
    whole = width * timed.trainer.steps_per_update / statistics.median(speeds) * 1e3
    total = sum(group[1] for group in groups.values()) / 1e3
    rows = [
        {
            "times per update": str(times),
            "kind": kind,
            "kernels": str(count),
            "µs each time": f"{spent / times:.1f}",
            "ms per update": f"{spent / 1e3:.2f}",
            "share": f"{spent / 1e3 / total:.0%}",
            "GFLOP/s": f"{flops / spent / 1e3:.0f}" if flops else "",
        }
        for (times, kind), (count, spent, flops) in sorted(
            groups.items(), key=lambda item: -item[1][1]
        )
        if spent / 1e3 > 0.01 * total
    ]
    text = (
        f"## Kernels of an update, {arguments.algorithm}\n\n{measure.table(rows)}\n\n"
        f"{width} lanes on one core in one thread, {limit.ENV}: {total:.2f} ms in kernels by the"
        f" profiler, of which kinds below 1 % are not shown; {whole:.2f} ms is the median update"
        " without the profiler."
    )
    figures = {"rows": rows, "kernels_ms": total, "update_ms": whole}
    measure.write(f"kernels_{arguments.algorithm}", figures, text)


if __name__ == "__main__":
    main()
