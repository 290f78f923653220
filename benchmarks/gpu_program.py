"""The program that XLA makes of a training window for a GPU, seen without the GPU.

    JAX_PLATFORMS=cpu python benchmarks/gpu_program.py [--card h200] [--algorithm ppo]
        [--env CartPole-v1] [--lanes 2048] [--kernels xla] [--microseconds 1.5]
        [--options NAME=VALUE,…]

It needs the extra `gpu-program`. For every loop: its kernels, the bytes that they have to move, the
operations of their products, and a model of its time: of each kernel the longer of bytes by
bandwidth and operations by peak, and a constant for its start. Kernels of loops' conditions count;
loops of unknown length turn once. Nothing here is a measurement of time. The card's autotuner may
choose other products. Where a `ptxas` is found, and this version of XLA writes PTX, registers and
spills of the kernels are told too.
"""

import math
import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import gpu_hlo
import gpu_targets
import jax
import measure
import numpy as np
from jax.sharding import SingleDeviceSharding

import purejax_po as po
from purejax_po._xla import switch
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


@switch.using(switch.ELSEWHERE)
def compile_window(
    algorithm: str,
    env_name: str,
    width: int,
    card: gpu_targets.Card,
    options: dict[str, Any],
    **fields: Any,
) -> Compiled:
    """Compile a window of training.

    Args:
        fields: of the algorithm's configuration.
    """
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
        rows.append(row)
    keys = ("kernels", "bytes", "flops", "roofline", "model")
    return [*rows, {"loop": "update", **{key: sum(row[key] for row in rows) for key in keys}}]


def describe(row: dict[str, Any]) -> dict[str, str]:
    """A row of the table."""
    return {
        "loop": row["loop"],
        "turns × kernels": f"{row['turns']} × {row['kernels a turn']}" if "turns" in row else "",
        "kernels": f"{row['kernels']:,}",
        "GB": f"{row['bytes'] / 1e9:.2f}",
        "GFLOP": f"{row['flops'] / 1e9:.1f}",
        "roofline": f"{1e3 * row['roofline']:.2f} ms",
        "model": f"{1e3 * row['model']:.2f} ms",
    }


def main() -> None:
    chosen = measure.arguments(
        __doc__, card="h200", algorithm="ppo", env="CartPole-v1", lanes=2048, microseconds=1.5,
        kernels="", options="", name="gpu_program",
    )  # fmt: skip
    if chosen.card not in gpu_targets.CARDS:
        raise SystemExit(f"--card {chosen.card}: one of {', '.join(gpu_targets.CARDS)}")
    card = gpu_targets.CARDS[chosen.card]
    options = dict(x.split("=", 1) for x in chosen.options.split(",") if x)
    fields = {"kernels": chosen.kernels} if chosen.kernels else {}
    made = compile_window(chosen.algorithm, chosen.env, chosen.lanes, card, options, **fields)
    rows = loops(made.hlo, card, 1e-6 * chosen.microseconds)
    graphs = graph_launches(made.hlo, made.thunks)
    used = registers(made.ptx)
    title = (
        f"## The program for a GPU\n\n{chosen.algorithm} on {chosen.env}, {chosen.lanes} lanes,"
        f" {card.name}; {graphs['update']} graphs started in an update, {graphs['window']} in"
        f" a window; {chosen.microseconds:g} µs for a kernel's start. A model, not a measurement."
    )
    if used:
        title += (
            f" {len(used)} kernels of at most {max(x['registers'] for x in used)} registers;"
            f" at most {used[0]['spilled']} bytes of a thread are spilled, by {used[0]['kernel']}."
        )
    whole = {**vars(chosen), "graphs": graphs, "registers": used, "loops": rows}
    measure.write(chosen.name, whole, f"{title}\n\n{measure.table([describe(x) for x in rows])}")


if __name__ == "__main__":
    main()
