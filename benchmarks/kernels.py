"""The kernels of one update on a CPU core: what each kind takes, by JAX's profiler.

    python benchmarks/kernels.py [--algorithm ppo] [--networks-alone 1] [--quick]
    python benchmarks/kernels.py --env brax/hopper:spring --lanes 1

One worker in one thread, with the lanes that the package gives a core unless `--lanes` are given,
and with the settings that `peers.py` has for an environment; `--networks-alone 1` is of the program
of `networks_alone.py`, PPO's networks and nothing else. Where a kernel belongs shows
in how often an update runs it; what it does, in the compiled program's text. Products have their
operations counted; the rates of `limit.py` are measured beside them. The profiler lengthens every
kernel: the difference to updates without it, in equal parts, is taken off all of them.
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
import peers
from jax.profiler import ProfileData
from networks_alone import NetworksAlone
from timed import Timed

import purejax_po as po
from purejax_po.experiment.config import AlgorithmConfig, algorithm_config
from purejax_po.experiment.run import devices

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
"""A product is wide if all of its three dimensions are as large, as between hidden layers."""
NEEDED = ("wide products", "narrow products", "tanh")
"""Kinds that the networks have in whatever way they are written."""

SHAPE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = \w+\[([\d,]*)\]")
DOT = re.compile(
    r"= \w+\[([\d,]*)\]\S* dot\((?:\w+\[[^%]*)?%([\w.\-]+).*lhs_contracting_dims=\{([\d,]*)\}"
)
METADATA = re.compile(r"metadata=\{[^}]*\}")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = ")
CALLS = re.compile(r"\bcalls=%?([\w.\-]+)")


class Kernel(NamedTuple):
    """What the text of a program says of an instruction."""

    kind: str
    flops: float


def split(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Return the instructions of every computation by its name, and the entry's name."""
    computations: dict[str, list[str]] = {}
    name = entry = ""
    for line in METADATA.sub("", hlo).splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            head = line.removeprefix("ENTRY ").lstrip("%")
            name = re.split(r"[\s(]", head)[0]
            computations[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif INSTRUCTION.match(line):
            computations[name].append(line)
    return computations, entry


def kernels(hlo: str) -> dict[str, Kernel]:
    """Tell every instruction's kind by its name."""
    computations, _ = split(hlo)
    lines = [line for body in computations.values() for line in body]
    named = {match[1]: (line, numbers(match[2])) for line in lines if (match := SHAPE.match(line))}

    def describe(line: str) -> Kernel:
        called = CALLS.search(line)
        text = "\n".join(computations[called[1]]) if called else line
        if dots := DOT.findall(text):  # a library may have several in one kernel
            wide, flops = False, 0.0
            for out, left, contracting in dots:
                sizes, contracted = numbers(out), [named[left][1][i] for i in numbers(contracting)]
                flops += 2.0 * math.prod(sizes) * math.prod(contracted)
                wide |= len(sizes) > 1 and min([*sizes[-2:], *contracted]) >= WIDE
            return Kernel("wide products" if wide else "narrow products", flops)
        if "tanh(" in text:
            return Kernel("tanh", 0.0)
        if re.search(r"%?(transpose_)?copy[\w.]* = ", line):
            return Kernel("copies and transposes", 0.0)
        return Kernel("other", 0.0)

    return {name: describe(line) for name, (line, _) in named.items()}


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


def group(hlo: str, run: Callable[[], Any]) -> dict[tuple[int, str], tuple[int, float, float]]:
    """Profile one window of the program with that text.

    Returns:
        For `(times per update, kind)` the kernels, and what an update spends in them in
        microseconds and in floating-point operations.
    """
    known = kernels(hlo)
    found: dict[tuple[int, str], tuple[int, float, float]] = {}
    for name, times in durations(run).items():
        per_update = len(times) / UPDATES
        if name in known and per_update >= 1 and "while" not in name:
            key = round(per_update), known[name].kind
            count, spent, flops = found.get(key, (0, 0.0, 0.0))
            spent += per_update * statistics.median(times)
            found[key] = count + 1, spent, flops + per_update * known[name].flops
    return found


def settings_of(algorithm: str, env: str) -> AlgorithmConfig:
    """The defaults, or what the algorithm is compared with its peers at."""
    pairs = [x for x in peers.PAIRS if (x.algorithm, x.env) == (algorithm, env)]
    return algorithm_config(algorithm)(**(pairs[0].settings if pairs else {}))


def compiled(
    config: AlgorithmConfig, env: str, width: int, networks_alone: bool
) -> tuple[Timed | NetworksAlone, Any]:
    """Return training, or of PPO its networks alone, for one core, and the program of it."""
    if not networks_alone:
        training = Timed(config, env, range(width), UPDATES, width)
        (program,) = training.program.window.values()
        return training, program
    if not isinstance(config, po.PPOConfig) or env != limit.ENV:
        measure.refuse(f"--networks-alone 1 is of ppo on {limit.ENV}, got {config.name} on {env}")
    alone = NetworksAlone(config, width, UPDATES, width)
    (program,) = alone.programs.values()
    return alone, program


def main() -> None:
    """Print the table of kinds."""
    if any(name not in os.environ for name in SETTINGS):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})
    arguments = measure.arguments(
        __doc__, algorithm="ppo", networks_alone=0, env=limit.ENV, lanes=0
    )
    if jax.default_backend() != "cpu":
        measure.refuse("kernels.py is for a CPU: set JAX_PLATFORMS=cpu")
    config = settings_of(arguments.algorithm, arguments.env)
    width = arguments.lanes or devices.lanes_per_core(config)
    timed, program = compiled(config, arguments.env, width, arguments.networks_alone)
    timed.windows = 10
    speeds = [timed.run() for _ in range(3 if arguments.quick else 15)][1:]
    steps = width * config.num_envs * config.num_steps
    whole = steps / statistics.median(speeds) * 1e6
    timed.windows = 1
    groups = group(program.as_text(), timed.run)
    rates = limit.machine_rates()  # of the one thread, which all workers share
    launches = sum(times * count for (times, _), (count, _, _) in groups.items())
    profiled = sum(spent for _, spent, _ in groups.values())
    each = max(0.0, profiled - whole) / launches
    rows, needed = [], 0.0
    for (times, kind), (count, spent, flops) in groups.items():
        own = max(0.0, spent - each * times * count)
        needed += own * (kind in NEEDED)
        row = {
            "times per update": str(times),
            "kind": kind,
            "kernels": str(count),
            "µs, all of them once": f"{own / times:.1f}",
            "ms per update": f"{own / 1e3:.2f}",
            "share": f"{own / whole:.0%}",
            "GFLOP/s": f"{flops / own / 1e3:.0f}" if flops else "",
        }
        rows.append((own, row))
    rows.sort(key=lambda pair: -pair[0])
    shown = [row for own, row in rows if own > 0.01 * whole]
    title = f"{config.name}, its networks alone" if arguments.networks_alone else config.name
    text = (
        f"## Kernels of an update, {title}\n\n{measure.table(shown)}\n\n"
        f"{width} lanes on one core in one thread, {arguments.env}:"
        f" {whole / 1e3:.2f} ms an update, the median, {needed / 1e3:.2f} of it in products and"
        f" tanh; {profiled / 1e3:.2f} ms in kernels by the profiler, so {each:.2f} µs were taken"
        f" off each of {launches} launches. Kinds below 1 % are not shown. One such core reaches"
        f" {rates.flops / 1e9:.0f} GFLOP/s in 128×64×64 products, {rates.flops_of_lanes / 1e9:.0f}"
        " in those of lanes side by side."
    )
    figures = {
        "rows": [row for _, row in rows],
        "update_us": whole,
        "products_and_tanh_us": needed,
        "profiled_us": profiled,
    }
    suffix = "_networks_alone" if arguments.networks_alone else ""
    if arguments.env != limit.ENV:
        suffix += "_" + re.split(r"[/:]", arguments.env)[1]
    measure.write(f"kernels_{config.name}{suffix}", figures, text, {"kernels": shown})


if __name__ == "__main__":
    main()
