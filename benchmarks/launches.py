"""How many kernels an update launches, and what that alone costs on a GPU.

    python benchmarks/launches.py [--table1 ENVS] [--tasks TASK,TASK] [--microseconds 3]

Counted in the programs that XLA compiles for this machine: every fusion, product, sort and the like
once for each turn of the loops around it. A rough estimate of a GPU's run time without one, where
lanes are few and its time is that of the launches, one after the other: a GPU's compiler fuses
otherwise, and the time of a launch is an assumption. Lanes side by side share their launches. Of a
branch the cheaper side counts: resets, in steps in which an episode ends, come on top.

Every algorithm on CartPole-v1; or with --table1 the programs of the PPO paper's Table 1
(`purejax-po table1`), lanes of so many environments, and their sum.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measure
from timed import Timed

from purejax_po.experiment.config import ALGORITHMS
from purejax_po.experiment.run import lanes
from purejax_po.experiment.run.compilation import use_compilation_cache
from purejax_po.studies import ppo_table1 as table1
from purejax_po.studies.ppo_table1 import cost

NOT_A_KERNEL = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "bitcast-convert", "iota",
    "after-all", "partition-id", "replica-id", "while", "conditional", "call", "reshape",
}  # fmt: skip
METADATA = re.compile(r"metadata=\{[^}]*\}")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = ")
OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
CALLED = re.compile(
    r"\b(?:condition|body|to_apply|true_computation|false_computation)=(%[\w.\-]+)"
    r"|\bbranch_computations=\{([^}]*)\}"
)
TRIPS = re.compile(r'known_trip_count[^0-9]*"?n"?[^0-9]*"?(\d+)')


def launches(hlo: str) -> float:
    """Count the kernels that a compiled program runs; loops of unknown length turn once."""
    computations, entry = split(hlo)
    counted: dict[str, float] = {}

    def count(name: str) -> float:
        if name not in counted:
            counted[name] = sum(count_one(line) for line in computations[name])
        return counted[name]

    def count_one(line: str) -> float:
        opcode = OPCODE.search(line)
        assert opcode, line
        kind = opcode[1]
        names = re.findall(r"%([\w.\-]+)", " ".join(map(" ".join, CALLED.findall(line))))
        if kind == "while":
            trips = TRIPS.search(line)
            turns = int(trips[1]) if trips else 1
            return turns * sum(map(count, names))
        if kind == "conditional":
            return 1 + min(map(count, names))
        if kind == "call":
            return sum(map(count, names))
        return float(kind not in NOT_A_KERNEL)

    return count(entry)


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


def kernels(program: lanes.Program) -> float:
    """Count the kernels of one update."""
    (window,) = program.window.values()
    compiled: Any = window
    return launches(compiled.as_text())


def of_algorithms() -> dict[str, tuple[float, int]]:
    """Kernels of an update, and updates of 500,000 steps, by algorithm."""
    found = {}
    for name, config in ALGORITHMS.items():
        if name != "grpo":
            timed = Timed(config(), "CartPole-v1", range(16), updates=1)
            num_updates = 500_000 // timed.trainer.steps_per_update
            found[f"{name} on CartPole-v1"] = kernels(timed.program), num_updates
    return found


def of_table1(settings: table1.Settings) -> dict[str, tuple[float, int]]:
    """Kernels of an update, and updates of a run; a task's programs count as its first one."""
    found, of_task = {}, {}
    for job in table1.jobs(settings, Path("nowhere")):
        if job.task not in of_task:
            of_task[job.task] = kernels(cost.build(job)[0])
        name = f"{job.task}, {job.group}, {job.config.num_lanes} lanes"
        found[name] = of_task[job.task], job.config.num_updates
    return found


def describe(found: Mapping[str, tuple[float, int]], microseconds: float) -> list[dict[str, str]]:
    """A row for each program."""
    seconds = {name: 1e-6 * microseconds * count * n for name, (count, n) in found.items()}
    rows = [
        {
            "program": name,
            "kernels per update": f"{count:,.0f}",
            "updates": f"{num_updates:,}",
            "launches take": f"{seconds[name] / 60:.1f} min",
        }
        for name, (count, num_updates) in found.items()
    ]
    whole = {"program": "all", "kernels per update": "", "updates": ""}
    return [*rows, {**whole, "launches take": f"{sum(seconds.values()) / 60:.0f} min"}]


def main() -> None:
    arguments = measure.arguments(__doc__, microseconds=3.0, table1=0, tasks="")
    microseconds = arguments.microseconds
    use_compilation_cache()
    if arguments.table1:
        tasks = tuple(arguments.tasks.split(",")) if arguments.tasks else table1.Settings.tasks
        found = of_table1(table1.Settings(tasks=tasks, num_envs=arguments.table1))
        title = f"Table 1, {arguments.table1} environments in a lane"
    else:
        found, title = of_algorithms(), "500,000 steps of each lane"
    rows = describe(found, microseconds)
    text = f"## Launches\n\n{title}; {microseconds:g} µs for a launch.\n\n{measure.table(rows)}"
    whole: dict[str, Any] = {"microseconds": microseconds, "programs": found}
    measure.write("launches", whole, text)


if __name__ == "__main__":
    main()
