"""Throughput of every algorithm against the number of lanes in the compiled program.

    python benchmarks/widths.py [--quick] [--minutes M] [--algorithms ppo,a2c] [--envs CartPole-v1]
                                [--widths 2048,4096] [--longest-call SECONDS]

A width K is K lanes on each worker (a CPU core, an accelerator), all workers busy. The grid is
walked from coarse to fine until the minutes are used up; what was not reached is listed. Every row
is kept in `out/` as soon as it is there.
A width that does not fit the memory, or of which one update would take longer than
`--longest-call` at the rate of the width before, is left out and listed.
`4096 seeds` is what the package makes of that many, blocks of the width it chooses, in rounds
beside the best width of the table, if that has two or more; PPO, A2C and TRPO alone are timed with
so many.

The MinAtar game is seen through one layer of 16 convolutions and one of 128 units, as in its paper.
"""

import math
import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import measure
from measure import Figure
from timed import Timed

from purejax_po.experiment.config import ALGORITHMS, AlgorithmConfig, NetworkConfig
from purejax_po.experiment.run import devices, memory

MINATAR = "Breakout-MinAtar"
NAMES = ("ppo", *(name for name in ALGORITHMS if name not in ("ppo", "grpo")))
ENVS = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", MINATAR)
WIDTHS = tuple(2**i for i in range(13))
COARSE = WIDTHS[::3]
MANY_SEEDS = 4096
LONGEST_CALL = 20.0
"""Seconds, by default; of a single update of all lanes."""
MANY_SEEDS_OF = ("ppo", "a2c", "trpo")
LONGEST_CALL_OF_MANY = 55.0
"""The same for 4096 seeds, whatever `--longest-call` is."""
LINES = 500_000, 100
"""Environment steps of a run whose log has so many lines: many seeds are timed from one of them to
the next, unless that takes too long."""
MOST_LINES = 5
"""To which a block of lanes is timed before the next one, if there is time; a run's is to all."""
ROUNDS, SHORTEST_CALL = 3, 0.2


class Row(NamedTuple):
    """Widths of one algorithm on one environment, which are compiled and timed together."""

    algorithm: str
    env: str
    widths: tuple[int, ...]


class Cell(NamedTuple):
    """What one width gave."""

    lanes: int
    rate: Figure
    compile_seconds: float
    program_bytes: int
    peak_bytes: float


def grid(quick: bool) -> list[Row]:
    """Return the rows from the most telling to the finest."""
    if quick:
        return [Row("ppo", "CartPole-v1", (1, 8, 64)), Row("a2c", MINATAR, (8,))]
    cart_pole, others = ENVS[0], ENVS[1:]
    fine = tuple(width for width in WIDTHS if width not in COARSE)
    return [
        *(Row(name, cart_pole, COARSE) for name in NAMES),
        *(Row("ppo", env, COARSE) for env in others),
        Row("ppo", cart_pole, fine),
        *(Row(name, env, COARSE) for name in NAMES[1:] for env in others),
        *(
            Row(name, env, fine)
            for env in ENVS
            for name in NAMES
            if (name, env) != ("ppo", ENVS[0])
        ),
    ]


def chosen(arguments: Namespace) -> list[Row]:
    """Return the part of the grid that the command line names."""
    names = listed("--algorithms", arguments.algorithms, NAMES)
    envs = listed("--envs", arguments.envs, ENVS)
    widths = [int(x) for x in listed("--widths", arguments.widths, map(str, WIDTHS))]
    rows = [
        row._replace(widths=tuple(width for width in row.widths if width in widths))
        for row in grid(arguments.quick)
        if row.algorithm in names and row.env in envs
    ]
    rows = [row for row in rows if row.widths]
    if not rows:
        measure.refuse("--algorithms, --envs, --widths: --quick has none of these")
    return rows


def listed(option: str, value: str, known: Iterable[str]) -> list[str]:
    """Split a list at its commas; stops the program at a name that is not known."""
    names, known = value.split(","), list(known)
    for name in names:
        if name not in known:
            measure.refuse(f"{option}: {name!r} is none of {', '.join(known)}")
    return names


def configuration(algorithm: str, env: str) -> AlgorithmConfig:
    """Return an algorithm with its defaults, and with convolutions where there are images."""
    if env != MINATAR:
        return ALGORITHMS[algorithm]()
    small_cnn = NetworkConfig(channels=(16,), hidden=(128,), activation="relu")
    return ALGORITHMS[algorithm](network=small_cnn)


def reset_peak() -> None:
    """Let the process' peak memory begin anew, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> float:
    """Return the most memory since `reset_peak`; on an accelerator, since the start."""
    device = jax.devices()[0]
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return memory.peak_bytes(device)
    if device.platform != "cpu":
        return memory.peak_bytes(device)
    found = next(line for line in lines if line.startswith("VmHWM:"))
    return 1024.0 * int(found.split()[1])


def compile_row(row: Row) -> dict[int, Timed]:
    """Compile every width; as many at once as there are cores."""
    workers = len(devices.local_workers())

    def compile_one(width: int) -> Timed:
        seeds = range(width * workers)
        config = configuration(row.algorithm, row.env)
        return Timed(config, row.env, seeds, updates=1, width=width)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(row.widths, pool.map(compile_one, row.widths), strict=True))


def time_row(
    row: Row, deadline: float, longest: float, rate: float = 0.0
) -> tuple[dict[int, Cell], list[str]]:
    """Time every width in interleaved rounds, but those of updates longer than `longest` (s).

    The first is judged by `rate`, the env steps/s of an earlier row, and timed if there was none.
    """
    compiled, skipped, peaks = compile_row(row), [], {}
    for width, timed in list(compiled.items()):
        workers = timed.workers
        reason = ""
        if timed.program.bytes_per_worker * len(workers) > memory.available(workers[0]):
            reason = f"needs {memory.in_words(timed.program.bytes_per_worker)} on each worker"
        elif time.monotonic() > deadline and peaks:
            reason = "no time left"
        elif rate and timed.steps / rate > longest:
            reason = f"one update would take {timed.steps / rate:.0f} s"
        if reason:
            skipped.append(f"{row.algorithm} on {row.env}, {width} lanes: {reason}")
            del compiled[width]
            continue
        reset_peak()
        before = memory.resident_bytes()
        rate = timed.run()  # initialises
        if timed.steps / rate < 10 * SHORTEST_CALL:
            rate = timed.run()
        peaks[width] = max(0.0, peak_bytes() - before)
        timed.updates = max(1, round(SHORTEST_CALL * rate / timed.steps))
    runs = {str(width): timed.run for width, timed in compiled.items()}
    found = measure.interleave(runs, ROUNDS)
    cells = {
        width: Cell(
            len(timed.blocks) * width,
            Figure.of(found[str(width)]),
            timed.compile_seconds,
            timed.program.bytes_per_worker,
            peaks[width],
        )
        for width, timed in compiled.items()
    }
    return cells, skipped


def many_seeds(
    algorithm: str, env: str, best: int, rate: float, num_seeds: int
) -> tuple[int, Figure, Figure] | None:
    """Time blocks of the width that the package chooses beside one block of the `best` width.

    Returns:
        The chosen width, env steps/s, and the share of the best width's in the same rounds; `None`
        if an update of so many seeds would take too long.
    """
    config = ALGORITHMS[algorithm]()
    seconds = num_seeds * config.num_envs * config.num_steps / rate
    if seconds > LONGEST_CALL_OF_MANY:
        return None
    between_lines = math.ceil(LINES[0] / (config.num_envs * config.num_steps) / LINES[1])
    updates = min(between_lines, max(1, int(LONGEST_CALL_OF_MANY / seconds)))
    many = Timed(config, env, range(num_seeds), updates=updates)
    few = Timed(config, env, range(best * len(many.workers)), updates=1, width=best)
    for timed in (many, few):
        timed.run()  # initialises
    many.windows = max(1, min(MOST_LINES, int(LONGEST_CALL_OF_MANY / seconds / updates)))
    few.updates = max(1, round(LONGEST_CALL / 4 * rate / few.steps))
    found = measure.interleave({"many": many.run, "few": few.run}, ROUNDS)
    share = measure.ratios(found["many"], found["few"])
    return many.width, Figure.of(found["many"]), share


class Findings(NamedTuple):
    """What the rows have given so far."""

    cells: dict[tuple[str, str], dict[int, Cell]]
    """By algorithm and environment, by width."""
    many: dict[tuple[str, str], tuple[int, Figure, Figure]]
    """What `many_seeds` returned, by algorithm and environment."""
    skipped: list[str]


def columns(cells: dict[str, dict[int, Cell]], show: Callable[[Cell], str]) -> str:
    """A table of widths by algorithms."""
    return measure.table(rows_of(cells, show))


def rows_of(cells: dict[str, dict[int, Cell]], show: Callable[[Cell], str]) -> list[dict[str, str]]:
    """The rows of such a table."""
    return [
        {"lanes per worker": f"{width}"}
        | {name: show(own[width]) if width in own else "–" for name, own in cells.items()}
        for width in sorted({width for own in cells.values() for width in own})
    ]


def kept(found: Findings) -> dict[str, list[dict[str, str]]]:
    """The tables as data: thousands of env steps/s by environment, and the first one's memory."""
    tables = {}
    for env in ENVS:
        cells = {name: own for (name, other), own in found.cells.items() if other == env}
        if cells:
            tables[env] = rows_of(cells, rate_in_thousands)
            tables.setdefault("memory", rows_of(cells, memory_and_compile))
    return tables


def rate_in_thousands(cell: Cell) -> str:
    figure = Figure(*(x / 1000 for x in cell.rate))
    return figure.show(",.1f" if figure.median < 100 else ",.0f")


def memory_and_compile(cell: Cell) -> str:
    sizes = (memory.in_words(x) for x in (cell.program_bytes, cell.peak_bytes))
    return "; ".join((*sizes, f"{cell.compile_seconds:.1f} s"))


def estimates(cells: dict[int, Cell]) -> str:
    """How far the straight line through the two smallest widths' memory is off at the largest."""
    widths = sorted(cells)
    if len(widths) < 3:
        return ""
    need = memory.extrapolate(*((width, cells[width].program_bytes) for width in widths[:2]))
    found, last = cells[widths[-1]].program_bytes, widths[-1]
    ratio = found / (need.fixed + need.per_lane * last)
    return f"; at {last} the program takes {ratio:.2f} times the line through its smallest two"


def in_words(found: Findings, num_seeds: int) -> str:
    """The report: tables by environment, and where more lanes stop paying."""
    parts = [f"## Lanes\n\n{len(devices.local_workers())} × {jax.devices()[0].device_kind}"]
    for env in ENVS:
        cells = {name: own for (name, other), own in found.cells.items() if other == env}
        if not cells:
            continue
        parts.append(f"### {env}\n\nThousands of env steps/s:")
        parts.append(columns(cells, rate_in_thousands))
        parts.append("Memory of a worker's program; peak of the process over the start; compile:")
        parts.append(columns(cells, memory_and_compile))
        lines = []
        for name, own in cells.items():
            if WIDTHS[0] in own:
                best = measure.crossover({width: cell.rate.median for width, cell in own.items()})
                line = f"- {name}: within 5 % of the best from {best} lanes per worker on"
                lines.append(line + estimates(own))
            if (name, env) in found.many:
                width, rate, share = found.many[name, env]
                lines.append(
                    f"- {name}, {num_seeds} seeds in blocks of {width}: {rate.show()} env steps/s,"
                    f" {share.show('.0%')} of the best width's in the same rounds"
                )
        if lines:
            parts.append("\n".join(lines))
    parts.append(
        f"Medians of {ROUNDS} interleaved rounds (smallest … largest); programs of a row were"
        " compiled side by side (`startup.py` times one alone)."
    )
    if found.skipped:
        parts.append("Not measured:\n\n" + "\n".join(f"- {line}" for line in found.skipped))
    return "\n\n".join(parts)


def figures(found: Findings, num_seeds: int) -> dict[str, list[Any]]:
    """The same for `measure.save`."""
    cells = [
        {
            "algorithm": algorithm,
            "env": env,
            "lanes_per_worker": width,
            **cell._asdict(),
            "rate": cell.rate._asdict(),
        }
        for (algorithm, env), own in found.cells.items()
        for width, cell in own.items()
    ]
    blocks = [
        {
            "algorithm": algorithm,
            "env": env,
            "seeds": num_seeds,
            "lanes_per_worker": width,
            "rate": rate._asdict(),
            "share": share._asdict(),
        }
        for (algorithm, env), (width, rate, share) in found.many.items()
    ]
    return {"cells": cells, "many_seeds": blocks, "not_measured": found.skipped}


def measure_row(row: Row, found: Findings, deadline: float, longest: float, num_seeds: int) -> None:
    """Add a row to what was found."""
    key = row.algorithm, row.env
    rates = [cell.rate.median for cell in found.cells.get(key, {}).values()]
    cells, left_out = time_row(row, deadline, longest, max(rates, default=0.0))
    found.skipped.extend(left_out)
    if not cells:
        return
    cells = found.cells[key] = found.cells.get(key, {}) | cells
    if key in found.many or row.env != ENVS[0] or row.algorithm not in MANY_SEEDS_OF:
        return
    if len(cells) < 2:  # nobody knows the best one
        return
    best = max(cells, key=lambda width: cells[width].rate.median)
    blocks = many_seeds(*key, best, cells[best].rate.median, num_seeds)
    if blocks is None:
        found.skipped.append(f"{row.algorithm} on {row.env}, {num_seeds} seeds: takes too long")
    else:
        found.many[key] = blocks


def main() -> None:
    arguments = measure.arguments(
        __doc__,
        minutes=5.0,
        algorithms=",".join(NAMES),
        envs=",".join(ENVS),
        widths=",".join(map(str, WIDTHS)),
        longest_call=LONGEST_CALL,
    )
    minutes = min(arguments.minutes, 1.0) if arguments.quick else arguments.minutes
    num_seeds = 64 if arguments.quick else MANY_SEEDS
    start = time.monotonic()
    found = Findings({}, {}, [])
    rows = chosen(arguments)
    for row in rows:
        elapsed = (time.monotonic() - start) / 60
        if elapsed > minutes:
            found.skipped.append(f"{row.algorithm} on {row.env}, {row.widths} lanes: no time left")
            continue
        print(f"{elapsed:5.1f} min: {row.algorithm} on {row.env}, {row.widths} lanes", flush=True)
        measure_row(row, found, start + 60 * minutes, arguments.longest_call, num_seeds)
        measure.save("widths", figures(found, num_seeds), in_words(found, num_seeds))
    text = in_words(found, num_seeds)
    measure.write("widths", figures(found, num_seeds), text, kept(found))


if __name__ == "__main__":
    main()
