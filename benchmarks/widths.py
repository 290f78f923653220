"""Throughput of every algorithm against the number of lanes in the compiled program.

    python benchmarks/widths.py [--quick] [--minutes M]

A width K is K lanes on each worker (a CPU core, an accelerator), all workers busy. The grid is
walked from coarse to fine until the minutes are used up; what was not reached is not in the tables.
A width that does not fit the memory, or whose call would take too long, is left out and listed.
`4096 seeds` is what the package makes of that many, blocks of the width it chooses, in rounds
beside the best width of the table; PPO, A2C and TRPO alone are timed with so many.

The MinAtar game is seen through one layer of 16 convolutions and one of 128 units, as in its paper.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import measure
from measure import Figure
from timed import Timed

from purejax_po.experiment import lanes, memory
from purejax_po.experiment.config import ALGORITHMS, AlgorithmConfig, NetworkConfig

MINATAR = "Breakout-MinAtar"
ENVS = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", MINATAR)
WIDTHS = tuple(2**i for i in range(13))
COARSE = WIDTHS[::3]
MANY_SEEDS = 4096
LONGEST_CALL = 20.0
"""Seconds; of a single update of all lanes."""
MANY_SEEDS_OF = ("ppo", "a2c", "trpo")
LONGEST_CALL_OF_MANY = 55.0
MOST_UPDATES = 10
"""Of many seeds in a call: as many as there are between two lines of the log of a run of PPO for
500,000 steps."""
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
    names = ["ppo", *(name for name in ALGORITHMS if name not in ("ppo", "grpo"))]
    cart_pole, others = ENVS[0], ENVS[1:]
    fine = tuple(width for width in WIDTHS if width not in COARSE)
    return [
        *(Row(name, cart_pole, COARSE) for name in names),
        *(Row("ppo", env, COARSE) for env in others),
        Row("ppo", cart_pole, fine),
        *(Row(name, env, COARSE) for name in names[1:] for env in others),
        *(
            Row(name, env, fine)
            for env in ENVS
            for name in names
            if (name, env) != ("ppo", ENVS[0])
        ),
    ]


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
    workers = len(lanes.local_workers())

    def compile_one(width: int) -> Timed:
        seeds = range(width * workers)
        config = configuration(row.algorithm, row.env)
        return Timed(config, row.env, seeds, updates=1, width=width)

    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(row.widths, pool.map(compile_one, row.widths), strict=True))


def time_row(row: Row, deadline: float) -> tuple[dict[int, Cell], list[str]]:
    """Time every width in interleaved rounds."""
    compiled, skipped, peaks = compile_row(row), [], {}
    rate = 0.0
    for width, timed in list(compiled.items()):
        workers = timed.workers
        reason = ""
        if timed.program.bytes_per_worker * len(workers) > memory.available(workers[0]):
            reason = f"needs {memory.in_words(timed.program.bytes_per_worker)} on each worker"
        elif time.monotonic() > deadline and peaks:
            reason = "no time left"
        elif rate and timed.steps / rate > LONGEST_CALL:
            reason = f"one update would take {timed.steps / rate:.0f} s"
        if reason:
            skipped.append(f"{row.algorithm} on {row.env}, {width} lanes: {reason}")
            del compiled[width]
            continue
        reset_peak()
        before = memory.resident_bytes()
        timed.run()  # initialises
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
    updates = min(MOST_UPDATES, max(1, int(LONGEST_CALL_OF_MANY / seconds)))
    many = Timed(config, env, range(num_seeds), updates=updates)
    few = Timed(config, env, range(best * len(many.workers)), updates=1, width=best)
    for timed in (many, few):
        timed.run()  # initialises
    few.updates = max(1, round(LONGEST_CALL / 4 * rate / few.steps))
    found = measure.interleave({"many": many.run, "few": few.run}, ROUNDS)
    share = measure.ratios(found["many"], found["few"])
    return many.width, Figure.of(found["many"]), share


def show(cells: dict[int, Cell]) -> str:
    """The table of an algorithm on an environment; the estimate is drawn through two widths."""
    widths = sorted(cells)
    few, more = (widths[0], widths[min(1, len(widths) - 1)])
    need = None
    if few != more:
        points = [(width, cells[width].program_bytes) for width in (few, more)]
        need = memory.extrapolate(*points)
    return measure.table(
        [
            {
                "lanes per worker": f"{width}",
                "env steps/s": cells[width].rate.show(),
                "program": memory.in_words(cells[width].program_bytes),
                "estimate": memory.in_words(need.fixed + need.per_lane * width) if need else "–",
                "peak over the start": memory.in_words(cells[width].peak_bytes),
                "compile": f"{cells[width].compile_seconds:.1f} s",
            }
            for width in widths
        ]
    )


def main() -> None:
    arguments = measure.arguments(__doc__, minutes=5.0)
    minutes = min(arguments.minutes, 1.0) if arguments.quick else arguments.minutes
    num_seeds = 64 if arguments.quick else MANY_SEEDS
    deadline = time.monotonic() + 60 * minutes
    found: dict[tuple[str, str], dict[int, Cell]] = {}
    many: dict[tuple[str, str], tuple[int, Figure, Figure]] = {}
    skipped: list[str] = []
    for row in grid(arguments.quick):
        if time.monotonic() > deadline:
            skipped.append(f"{row.algorithm} on {row.env}, {row.widths} lanes: no time left")
            continue
        cells, left_out = time_row(row, deadline)
        skipped += left_out
        key = row.algorithm, row.env
        found.setdefault(key, {}).update(cells)
        if key not in many and row.env == ENVS[0] and row.algorithm in MANY_SEEDS_OF:
            best = max(cells, key=lambda width, cells=cells: cells[width].rate.median)
            chosen = many_seeds(*key, best, cells[best].rate.median, num_seeds)
            if chosen is None:
                skipped.append(f"{row.algorithm} on {row.env}, {num_seeds} seeds: takes too long")
            else:
                many[key] = chosen
    text = [f"## Lanes\n\n{len(lanes.local_workers())} × {jax.devices()[0].device_kind}"]
    for key, cells in found.items():
        rates = {width: cell.rate.median for width, cell in cells.items()}
        text.append(f"### {key[0].upper()} on {key[1]}\n\n{show(cells)}")
        line = f"Within 5 % of the best from {measure.crossover(rates)} lanes per worker on."
        if key in many:
            width, rate, share = many[key]
            line += (
                f" {num_seeds} seeds in blocks of {width}: {rate.show()} env steps/s,"
                f" {share.show('.0%')} of the best width's in the same rounds."
            )
        text.append(line)
    text.append(
        f"Medians of {ROUNDS} interleaved rounds (smallest … largest); programs of a table were"
        " compiled side by side (`startup.py` times one alone)."
    )
    if skipped:
        text.append("Not measured:\n" + "\n".join(f"- {line}" for line in skipped))
    rows: list[dict[str, Any]] = [
        {
            "algorithm": algorithm,
            "env": env,
            "lanes_per_worker": width,
            **cell._asdict(),
            "rate": cell.rate._asdict(),
        }
        for (algorithm, env), cells in found.items()
        for width, cell in cells.items()
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
        for (algorithm, env), (width, rate, share) in many.items()
    ]
    figures = {"cells": rows, "many_seeds": blocks, "not_measured": skipped}
    measure.write("widths", figures, "\n\n".join(text))


if __name__ == "__main__":
    main()
