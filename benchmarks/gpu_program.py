"""The program that XLA makes of a training window for a GPU, seen without the GPU.

    JAX_PLATFORMS=cpu python benchmarks/gpu_program.py [--card h200] [--algorithm ppo]
        [--env CartPole-v1] [--lanes 2048] [--kernels xla] [--microseconds 1.5]
        [--options NAME=VALUE,…] [--without TRICK,…] [--fused NAME=VALUE,…]
    JAX_PLATFORMS=cpu python benchmarks/gpu_program.py --table programs [--keep]

It needs the extra `gpu-program`. For every loop: its kernels, the bytes that they have to move, the
operations of their products, and a model of its time: of each kernel the longer of bytes by
bandwidth and operations by peak, and a constant for its start. Kernels of loops' conditions count;
loops of unknown length turn once. Nothing here is a measurement of time. The card's autotuner may
choose other products. Where a `ptxas` is found, and this version of XLA writes PTX, registers and
spills of the kernels are told too.

`--table` compiles what a table of `docs/notes/gpu.md` holds: `programs`, `tricks` (each one off),
or `fused` (the kernel of `--kernels pallas` with other constants, as `--fused` sets them).
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gpu_hlo
import gpu_targets
import jax
import measure
import numpy as np
from jax.sharding import SingleDeviceSharding

import purejax_po as po
from purejax_po._xla import fused, switch
from purejax_po.experiment.config import ALGORITHMS
from purejax_po.experiment.run import plan, program
from purejax_po.experiment.run.compilation import compiler_options, with_deep_stack


class Compiled(NamedTuple):
    """What the compiler leaves behind."""

    hlo: str
    """The scheduled program."""
    thunks: str
    """The sequence of its thunks."""
    ptx: dict[str, str]
    """Kernels' assembly by file, where the compiler writes it."""


class Program(NamedTuple):
    """What is compiled."""

    label: str
    algorithm: str = "ppo"
    card: str = "h200"
    kernels: str = ""
    """PPO's choice; empty for its default."""
    without: tuple[str, ...] = ()
    """Tricks that are off."""
    constants: dict[str, int] = {}  # noqa: RUF012 - never changed
    """Of the fused step, `purejax_po._xla.fused`."""


PLAIN = tuple(
    name
    for name, is_on in switch.ELSEWHERE._asdict().items()
    if is_on and not getattr(switch.CPU, name)
)
"""The tricks that a CPU does without."""
FUSED_NAMES = ("HEIGHT", "WARPS")
FUSED: tuple[dict[str, int], ...] = (
    {},
    {"HEIGHT": 16},
    {"HEIGHT": 64},
    {"HEIGHT": 128},
    {"WARPS": 4},
    {"WARPS": 16},
)
TABLES = {
    "programs": (
        Program("PPO"),
        Program("PPO, without the tricks", without=PLAIN),
        Program("PPO, `--kernels pallas`", kernels="pallas"),
        Program("TRPO", "trpo"),
        Program("TRPO, without the tricks", "trpo", without=PLAIN),
        Program("A2C", "a2c"),
        Program("PPO", card="h100"),
        Program("PPO", card="a100"),
    ),
    "tricks": (
        Program("PPO"),
        *(Program(f"PPO, without `{name}`", without=(name,)) for name in PLAIN),
        Program("TRPO", "trpo"),
        Program("TRPO, without `narrow_sides`", "trpo", without=("narrow_sides",)),
    ),
    "fused": tuple(
        Program(
            ", ".join(f"`{key}={value}`" for key, value in constants.items()) or "as it is",
            kernels="pallas",
            constants=constants,
        )
        for constants in FUSED
    ),
}
"""By the names of `--table`."""


@switch.using(switch.ELSEWHERE)
def compile_window(
    algorithm: str,
    env_name: str,
    width: int,
    card: gpu_targets.Card,
    options: dict[str, Any],
    without: Sequence[str] = (),
    **fields: Any,
) -> Compiled:
    """Compile a window of training.

    Args:
        options: the compiler's, beside the package's.
        without: tricks that are off.
        fields: of the algorithm's configuration.
    """
    with switch.without(*without):
        return _compile_window(algorithm, env_name, width, card, options, fields)


def _compile_window(
    algorithm: str,
    env_name: str,
    width: int,
    card: gpu_targets.Card,
    options: dict[str, Any],
    fields: dict[str, Any],
) -> Compiled:
    sharding = SingleDeviceSharding(gpu_targets.device_of(card))
    config = ALGORITHMS[algorithm](**fields)
    env, env_params = po.make_env(env_name)
    built = config.build(env, env_params)
    trainer = po.make_trainer(
        env, env_params, built, num_envs=config.num_envs, num_steps=config.num_steps
    )
    block = plan.repeat(np.arange(width), built.hyperparams, env_params)

    def init(seed: Any, *rest: Any) -> Any:
        return trainer.init(jax.random.key(seed), *rest, math.inf)

    def lower() -> Any:
        state = jax.eval_shape(jax.vmap(init), *block)
        inputs = (block.hyperparams, state, block.env_params, np.int32(0))
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), inputs
        )
        return program.jit_window(trainer).lower(*shapes)

    lowered = with_deep_stack(lower)()
    with tempfile.TemporaryDirectory() as folder:
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = lowered.compile({**compiler_options("gpu"), **dump, **options})
        (thunks,) = Path(folder).glob("*jit_window*thunk_sequence_after_thunk_passes.txt")
        ptx = {path.name: path.read_text() for path in sorted(Path(folder).glob("*.ptx"))}
        return Compiled(compiled.as_text(), thunks.read_text(), ptx)


def registers(ptx: dict[str, str]) -> list[dict[str, Any]]:
    """Registers and spilled bytes of a thread, by kernel; nothing without ptxas."""
    if (ptxas := shutil.which("ptxas")) is None:
        return []
    found = []
    for text in ptx.values():
        target = re.search(r"\.target (\w+)", text)
        command = [ptxas, "-v", f"-arch={target[1] if target else 'sm_90a'}", "-o", os.devnull, "-"]
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(text)
            file.flush()
            command[-1] = file.name
            told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        names = re.findall(r"Compiling entry function '([^']+)'", told)
        used = re.findall(r"Used (\d+) registers", told)
        spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told)
        shared = re.findall(r"(\d+) bytes smem", told) or ["0"] * len(names)
        for name, count, spills, smem in zip(names, used, spilled, shared, strict=False):
            found.append(
                {
                    "kernel": name,
                    "registers": int(count),
                    "spilled": max(map(int, spills)),
                    "shared": int(smem),
                }
            )
    return sorted(found, key=lambda x: (-x["spilled"], -x["registers"]))


def graph_launches(hlo: str, thunks: str) -> dict[str, int]:
    """CUDA graphs that the host starts: in a window, and in each of its updates.

    Loops are in the same order in both texts; those within a graph are the graph's own.
    """
    found, entry = gpu_hlo.read(hlo)

    def trips(name: str) -> list[int]:
        numbers = []
        for one in found[name].values():
            called = [c for c in gpu_hlo.ATTRIBUTES.findall(one.line) if c in found]
            if one.op == "while":
                known = gpu_hlo.TRIPS.search(one.line)
                numbers += [int(known[1]) if known else 1]
            if one.op in ("while", "call", "conditional"):
                numbers += [count for name in called for count in trips(name)]
        return numbers

    turns = iter(trips(entry))
    stack: list[tuple[int, str, int]] = []
    counted = {"window": 0, "update": 0}
    for line in thunks.splitlines():
        thunk = re.match(r"(\s*)\d+: (k\w+)", line)
        if not thunk:
            continue
        while stack and stack[-1][0] >= len(thunk[1]):
            stack.pop()
        n = next(turns) if thunk[2] == "kWhile" else 1
        outside = all(kind != "kCommandBuffer" for _, kind, _ in stack)
        if thunk[2] == "kCommandBuffer" and outside:
            times = math.prod(count for _, _, count in stack)
            counted["update" if any(k == "kWhile" for _, k, _ in stack) else "window"] += times
        stack.append((len(thunk[1]), thunk[2], n))
    return counted


def seconds(kernel: gpu_hlo.Kernel, card: gpu_targets.Card, start: float) -> float:
    """The model's time of one turn of a kernel: max(bytes / bandwidth, flops / peak) + start."""
    return max(kernel.bytes / card.bandwidth, kernel.flops / card.tf32) + start


def loops(hlo: str, card: gpu_targets.Card, start: float) -> list[dict[str, Any]]:
    """What each loop of an update does, and at the end their sum."""
    groups: dict[str, list[gpu_hlo.Kernel]] = defaultdict(list)
    for kernel in gpu_hlo.kernels(hlo):
        if kernel.loop != "/":  # what a window does once
            groups[kernel.loop].append(kernel)
    rows = []
    for name, found in groups.items():
        turns = found[0].turns
        big = sorted(found, key=lambda x: -seconds(x, card, start))[:5]
        row = {"loop": name, "turns": turns, "kernels a turn": len(found)}
        row["kernels"] = turns * len(found)
        row["bytes"] = turns * sum(x.bytes for x in found)
        row["flops"] = turns * sum(x.flops for x in found)
        row["roofline"] = turns * sum(seconds(x, card, 0.0) for x in found)
        row["model"] = turns * sum(seconds(x, card, start) for x in found)
        row["longest"] = [{"kernel": x.name, "bytes": x.bytes, "flops": x.flops} for x in big]
        row["kinds"] = {
            kind: {
                "kernels a turn": len(those),
                "bytes a turn": sum(x.bytes for x in those),
                "flops a turn": sum(x.flops for x in those),
                "roofline a turn": sum(seconds(x, card, 0.0) for x in those),
            }
            for kind in gpu_hlo.KINDS
            if (those := [x for x in found if x.kind == kind])
        }
        rows.append(row)
    keys = ("kernels", "bytes", "flops", "roofline", "model")
    return [*rows, {"loop": "update", **{key: sum(row[key] for row in rows) for key in keys}}]


def describe(row: dict[str, Any]) -> dict[str, str]:
    """A loop's row of the table: what all of its turns do."""
    turn = {"turns": "", "kernels a turn": "", "MB a turn": ""}
    if "turns" in row:
        turn = {
            "turns": f"{row['turns']}",
            "kernels a turn": f"{row['kernels a turn']}",
            "MB a turn": f"{row['bytes'] / row['turns'] / 1e6:,.0f}",
        }
    return {
        "loop": row["loop"],
        **turn,
        "kernels": f"{row['kernels']:,}",
        "GB": f"{row['bytes'] / 1e9:.2f}",
        "GFLOP": f"{row['flops'] / 1e9:.1f}",
        "roofline, ms": f"{1e3 * row['roofline']:.2f}",
        "model, ms": f"{1e3 * row['model']:.2f}",
    }


def describe_kinds(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What a turn of each loop does by kinds of kernels; kinds that move less than 1 MB are not."""
    return [
        {
            "loop": row["loop"],
            "turns": f"{row['turns']}",
            "kind": kind,
            "kernels a turn": f"{found['kernels a turn']}",
            "MB a turn": f"{found['bytes a turn'] / 1e6:,.0f}",
            "GFLOP a turn": f"{found['flops a turn'] / 1e9:.2f}",
            "roofline, µs": f"{1e6 * found['roofline a turn']:.1f}",
        }
        for row in rows
        for kind, found in row.get("kinds", {}).items()
        if found["bytes a turn"] >= 1e6
    ]


class Seen(NamedTuple):
    """A program, and what was seen of it."""

    program: Program
    card: gpu_targets.Card
    loops: list[dict[str, Any]]
    graphs: dict[str, int]
    registers: list[dict[str, Any]]

    def describe(self) -> dict[str, str]:
        """Its row among others."""
        whole = self.loops[-1]
        return {
            "program": self.program.label,
            "card": self.card.name.removeprefix("NVIDIA ").split("-")[0].split(" ")[0],
            "graphs a window": f"{self.graphs['window']}",
            "graphs an update": f"{self.graphs['update']}",
            "kernels an update": f"{whole['kernels']:,}",
            "GB an update": f"{whole['bytes'] / 1e9:.1f}",
            "roofline, ms": f"{1e3 * whole['roofline']:.1f}",
            "model, ms": f"{1e3 * whole['model']:.1f}",
        }

    def describe_fused(self) -> dict[str, str]:
        """Its fused step; a dash where no ptxas was found."""
        steps = [x for x in self.registers if x["kernel"] == "minibatch_step"]
        step = {key: f"{steps[0][key]:,}" if steps else "" for key in ("registers", "spilled")}
        calls = [
            x["kinds"]["custom calls"] for x in self.loops[:-1] if "custom calls" in x["kinds"]
        ]
        return {
            "constants": self.program.label,
            "registers": step["registers"],
            "bytes of a thread spilled": step["spilled"],
            "MB a step": f"{sum(x['bytes a turn'] for x in calls) / 1e6:,.0f}",
            "model of an update, ms": f"{1e3 * self.loops[-1]['model']:.1f}",
        }


def see(program: Program, env: str, lanes: int, start: float, options: dict[str, Any]) -> Seen:
    """Compile a program and read it.

    Args:
        start: seconds that a kernel's start takes in the model.
        options: the compiler's.
    """
    card = gpu_targets.CARDS[program.card]
    fields = {"kernels": program.kernels} if program.kernels else {}
    old = {name: getattr(fused, name) for name in program.constants}
    for name, value in program.constants.items():
        setattr(fused, name, value)
    try:
        made = compile_window(
            program.algorithm, env, lanes, card, options, program.without, **fields
        )
    finally:
        for name, value in old.items():
            setattr(fused, name, value)
    rows, graphs = loops(made.hlo, card, start), graph_launches(made.hlo, made.thunks)
    jax.clear_caches()
    return Seen(program, card, rows, graphs, registers(made.ptx))


def pairs(flag: str, text: str) -> dict[str, str]:
    """Read `NAME=VALUE,…`."""
    parts = [x.partition("=") for x in text.split(",") if x]
    if any(not (name and sign) for name, sign, _ in parts):
        measure.refuse(f"{flag} {text}: must be NAME=VALUE,…")
    return {name: value for name, _, value in parts}


def one(chosen: argparse.Namespace, options: dict[str, Any]) -> None:
    """Print the program that the flags describe."""
    names = tuple(x for x in chosen.without.split(",") if x)
    if unknown := set(names) - set(switch.Tricks._fields):
        measure.refuse(f"--without {min(unknown)}: one of {', '.join(switch.Tricks._fields)}")
    constants = pairs("--fused", chosen.fused)
    if any(name not in FUSED_NAMES or not x.isdecimal() for name, x in constants.items()):
        measure.refuse(f"--fused {chosen.fused}: whole numbers for {' and '.join(FUSED_NAMES)}")
    numbers = {name: int(value) for name, value in constants.items()}
    label = ", ".join([chosen.algorithm, *(f"without {name}" for name in names)])
    program = Program(label, chosen.algorithm, chosen.card, chosen.kernels, names, numbers)
    seen = see(program, chosen.env, chosen.lanes, 1e-6 * chosen.microseconds, options)
    title = (
        f"## The program for a GPU\n\n{label} on {chosen.env}, {chosen.lanes} lanes,"
        f" {seen.card.name}; {seen.graphs['update']} graphs started in an update,"
        f" {seen.graphs['window']} in a window; {chosen.microseconds:g} µs for a kernel's start."
        " A model, not a measurement."
    )
    if seen.registers:
        most = max(x["registers"] for x in seen.registers)
        title += (
            f" {len(seen.registers)} kernels of at most {most} registers; at most"
            f" {seen.registers[0]['spilled']} bytes of a thread are spilled,"
            f" by {seen.registers[0]['kernel']}."
        )
    whole = {
        **vars(chosen), "graphs": seen.graphs, "registers": seen.registers, "loops": seen.loops
    }  # fmt: skip
    rows, kinds = [describe(x) for x in seen.loops], describe_kinds(seen.loops)
    text = f"{title}\n\n{measure.table(rows)}\n\n{measure.table(kinds)}"
    measure.write(chosen.name, whole, text, {"loops": rows, "kinds": kinds})


def several(chosen: argparse.Namespace, options: dict[str, Any]) -> None:
    """Print a table of programs; loops and kinds of those on the first card without `without`."""
    found = []
    for case in TABLES[chosen.table]:
        start = 1e-6 * chosen.microseconds
        found.append(see(case, chosen.env, chosen.lanes, start, options))
        print(json.dumps(found[-1].describe(), ensure_ascii=False), file=sys.stderr, flush=True)
    made = {"programs": [x.describe() for x in found]}
    if chosen.table == "fused":
        made["fused"] = [x.describe_fused() for x in found]
    if chosen.table == "programs":
        for seen in found:
            if seen.program.card == found[0].program.card and not seen.program.without:
                name = "_".join(x for x in (seen.program.algorithm, seen.program.kernels) if x)
                made[f"loops_{name}"] = [describe(x) for x in seen.loops]
                made[f"kinds_{name}"] = describe_kinds(seen.loops)
    text = "\n\n".join(f"### {name}\n\n{measure.table(rows)}" for name, rows in made.items())
    figures = [{**seen._asdict(), "program": seen.program._asdict()} for seen in found]
    name = "gpu_program" if chosen.table == "programs" else f"gpu_{chosen.table}"
    measure.write(name, {"programs": figures}, text, made)


def main() -> None:
    """Print one program, or a table of several."""
    chosen = measure.arguments(
        __doc__, card="h200", algorithm="ppo", env="CartPole-v1", lanes=2048, microseconds=1.5,
        kernels="", options="", without="", fused="", table="", name="gpu_program",
    )  # fmt: skip
    if chosen.card not in gpu_targets.CARDS:
        measure.refuse(f"--card {chosen.card}: one of {', '.join(gpu_targets.CARDS)}")
    if chosen.table and chosen.table not in TABLES:
        measure.refuse(f"--table {chosen.table}: one of {', '.join(TABLES)}")
    (several if chosen.table else one)(chosen, pairs("--options", chosen.options))


if __name__ == "__main__":
    main()
