"""What a GPU is asked when one is at hand: numbers of the kernels, then speed, most telling first.

    python benchmarks/on_gpu.py [--minutes 8] [--lanes 2048] [--rounds 3] [--quick] [--keep]

Every stage is written to `out/on_gpu.json` as soon as it is done; one that does not begin in time
is told to be missing, one that fails why. Within a stage the programs take turns. `--quick` is
a trial of all stages with tiny sizes, on any device. rejax has to be installed beside the package.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # another process runs rejax

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
from timed import Timed

import purejax_po as po
from purejax_po._xla import switch
from purejax_po.experiment.config import ALGORITHMS, AlgorithmConfig

GPU_TRICKS = tuple(
    name
    for name, is_on in switch.ELSEWHERE._asdict().items()
    if is_on and not getattr(switch.CPU, name)
)
"""Those that a CPU does without."""
WINDOW = 5000
"""Environment steps of a lane in a window."""
COMPILED: dict[str, Timed] = {}
"""Programs, which stages share."""
Stage = Callable[[], dict[str, Any]]


class Sizes:
    """How much a stage measures."""

    def __init__(self, lanes: int, rounds: int, is_quick: bool) -> None:
        self.lanes = 4 if is_quick else lanes
        self.rounds = 1 if is_quick else rounds
        self.windows = 1 if is_quick else 5
        self.window = 600 if is_quick else WINDOW
        self.image_lanes = (2, 4) if is_quick else (64, 256, 1024)
        self.is_quick = is_quick


def numbers() -> dict[str, Any]:
    """One update by the kernel beside one by XLA: largest relative difference of parameters."""
    found = {}
    for env_name in ("CartPole-v1", "Pendulum-v1"):
        for precision in ("float32", "default"):
            states = [_update(env_name, kernels, precision) for kernels in ("xla", "pallas")]
            pairs = zip(*map(jax.tree.leaves, states), strict=True)
            differences = [jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a)) for a, b in pairs]
            found[f"{env_name}, {precision}"] = float(max(differences))
    return {"relative difference of an update's parameters": found}


def _update(env_name: str, kernels: Any, precision: Any) -> Any:
    config = po.PPOConfig(kernels=kernels)
    env, env_params = po.make_env(env_name)
    built = config.build(env, env_params)
    trainer = po.make_trainer(
        env, env_params, built, num_envs=config.num_envs, num_steps=config.num_steps,
        matmul_precision=precision,
    )  # fmt: skip

    def update(key: Any) -> Any:
        state = trainer.init(key, built.hyperparams)
        return trainer.step(built.hyperparams, state)[0].algorithm.params

    return jax.jit(jax.vmap(update))(po.seed_keys(8))


def rates(cases: dict[str, tuple[AlgorithmConfig, str, int, switch.Tricks]], sizes: Sizes) -> Any:
    """Environment steps a second of programs that take turns, and the seconds of compiling them."""
    programs = {}
    for name, (config, env, lanes, tricks) in cases.items():
        key = f"{config} {env} {lanes} {tricks} {jax.config.jax_default_matmul_precision}"
        if key not in COMPILED:
            with switch.using(tricks):
                updates = max(1, round(sizes.window / (config.num_envs * config.num_steps)))
                COMPILED[key] = Timed(config, env, range(lanes), updates, lanes)
        programs[name] = COMPILED[key]
        programs[name].windows = sizes.windows
        programs[name].run()  # touches fresh memory
    found = measure.interleave({name: x.run for name, x in programs.items()}, sizes.rounds)
    return {
        name: {
            "env steps/s": found[name],
            "compile": programs[name].compile_seconds,
            "GB": programs[name].program.bytes_per_worker / 1e9,
        }
        for name in cases
    }


def stages(sizes: Sizes) -> dict[str, Stage]:
    """What is measured, in its order."""
    usual, lanes = switch.on(), sizes.lanes
    none = usual._replace(**dict.fromkeys(GPU_TRICKS, False))
    ppo, fused = po.PPOConfig(), po.PPOConfig(kernels="pallas")

    def agents(lanes: int) -> Stage:
        cases = {
            "as it is": (ppo, "CartPole-v1", lanes, usual),
            "without the tricks for a GPU": (ppo, "CartPole-v1", lanes, none),
            "the minibatch step as one kernel": (fused, "CartPole-v1", lanes, usual),
        }
        return lambda: rates(cases, sizes)

    def without(name: str) -> Stage:
        off = usual._replace(**{name: False})
        cases = {
            "as it is": (ppo, "CartPole-v1", lanes, usual),
            f"without {name}": (ppo, "CartPole-v1", lanes, off),
        }
        return lambda: rates(cases, sizes)

    def others() -> dict[str, Any]:
        return rates(
            {
                f"{name}, {which}": (ALGORITHMS[name](), "CartPole-v1", lanes, tricks)
                for name in ("trpo", "a2c")
                for which, tricks in (("as it is", usual), ("without", none))
            },
            sizes,
        )

    def images() -> dict[str, Any]:
        network = po.NetworkConfig(hidden=(64,), channels=(16,))
        config = po.A2CConfig(network=network)
        return rates(
            {str(n): (config, "Breakout-MinAtar", n, usual) for n in sizes.image_lanes}, sizes
        )

    def bfloat16() -> dict[str, Any]:
        with jax.default_matmul_precision("bfloat16"):
            return agents(lanes)()

    return {
        "numbers": numbers,
        f"{lanes} agents": agents(lanes),
        "rejax": lambda: rejax(sizes),
        f"{2 * lanes} agents": agents(2 * lanes),
        "TRPO and A2C": others,
        "A2C on MinAtar by lanes": images,
        "bfloat16": bfloat16,
        **{f"without {name}": without(name) for name in GPU_TRICKS},
    }


def rejax(sizes: Sizes) -> dict[str, Any]:
    """PPO beside rejax's, in processes of their own (`peers.py`)."""
    command = [sys.executable, Path(__file__).with_name("peers.py"), "--here", "1"]
    command += ["--quick", "--rounds", "1" if sizes.is_quick else "2"]
    command += ["--only", "rejax PPO" if sizes.is_quick else "rejax PPO, 2048"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    return json.loads((measure.OUT / "peers.json").read_text())


def main() -> None:
    chosen = measure.arguments(__doc__, minutes=8.0, lanes=2048, rounds=3)
    sizes = Sizes(chosen.lanes, chosen.rounds, chosen.quick)
    begin, found = time.perf_counter(), {"device": jax.devices()[0].device_kind}
    for name, stage in stages(sizes).items():
        start = time.perf_counter()
        if start - begin > 60 * chosen.minutes:
            found[name] = {"missing": f"not begun within {chosen.minutes:g} minutes"}
        else:
            try:
                found[name] = stage()
            except Exception as error:  # the others are worth measuring all the same
                found[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
            jax.clear_caches()
        found[name]["seconds"] = round(time.perf_counter() - start, 1)
        print(name, json.dumps(found[name])[:400], flush=True)
        measure.save("on_gpu", found, "")
    rows = describe(found)
    text = measure.table(rows) if rows else "Nothing was measured."
    title = f"## On {found['device']}\n\n"
    measure.write("on_gpu", found, title + text, {"programs": rows} if rows else None)


def describe(found: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of the table: the stages that measured speed."""
    return [
        {
            "stage": stage,
            "program": name,
            "env steps/s": measure.Figure.of(figures["env steps/s"]).show(),
            "compile, s": f"{figures['compile']:.1f}",
            "memory, GB": f"{figures['GB']:.2f}",
        }
        for stage, cases in found.items()
        if isinstance(cases, dict)
        for name, figures in cases.items()
        if isinstance(figures, dict) and "env steps/s" in figures
    ]


if __name__ == "__main__":
    main()
