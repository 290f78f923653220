"""The same settings given to peers: do the returns agree?

    python benchmarks/zoo_peers.py [--only rejax] [--env Acrobot-v1] [--resume 1] [--keep]

PPO with the zoo's settings, without what some peer lacks: the learning rate stays constant, nothing
is normalised but advantages, and the value is clipped, which rejax always does. Every side trains
the same seeds for the same steps; a return is the mean over episodes of the final policy, which
samples its actions. `--resume 1` takes what the last run has answered to the same settings.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
import peers

from purejax_po.experiment.config import zoo
from purejax_po.experiment.config.stored import to_dict
from purejax_po.experiment.results.statistics import bootstrap_interval, iqm

CELLS = {"CartPole-v1": 50_000, "Acrobot-v1": 50_000, "Pendulum-v1": 50_000}
"""Environment steps per seed: few, so that a slow peer ends, and learning shows."""
PEERS = (peers.REJAX, peers.SB3)
SEEDS = 16
ALGORITHM = "ppo"


def job(env: str) -> dict[str, Any]:
    """What every side is asked for."""
    settings = to_dict(zoo.find(ALGORITHM, env).config.algorithm)
    settings.pop("name")
    settings["hyperparams"]["learning_rate_decay"] = 0.0
    settings["clip_value"] = True
    batch = settings["num_envs"] * settings["num_steps"]
    return {
        "algorithm": ALGORITHM,
        "env": env,
        "steps": CELLS[env] // batch * batch,
        "settings": settings,
        "episodes": peers.EPISODES,
        "our_env_options": {},
        "seeds": list(range(SEEDS)),
    }


def row(env: str, peer: str, steps: int, ours: list[float], theirs: list[float]) -> dict[str, str]:
    """One row of the table: both IQMs, and whether their intervals overlap."""
    ends = [[float(x) for x in bootstrap_interval(side)] for side in (ours, theirs)]
    shown = [
        f"{float(iqm(side)):.1f} ({low:.1f} … {high:.1f}; {len(side)})"
        for side, (low, high) in zip((ours, theirs), ends, strict=True)
    ]
    overlap = ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1]
    return {
        "environment": env,
        "peer": peer,
        "steps per seed": f"{steps:,}",
        "return, ours": shown[0],
        "return, peer": shown[1],
        "intervals overlap": "yes" if overlap else "no",
    }


def answered() -> list[dict[str, Any]]:
    """What the last run has found."""
    path = measure.OUT / "zoo_peers.json"
    return json.loads(path.read_text())["cells"] if path.exists() else []


def answer(script: str, python: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Ask one side, in a process of its own."""
    worker = peers.Worker(python, script, {})
    try:
        return worker.ask(asked)
    finally:
        worker.close()


def main() -> None:
    """Train what is asked for, and print a row for each environment and peer."""
    arguments = measure.arguments(__doc__, only="", env="", resume=0)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes share the device
    measure.OUT.mkdir(exist_ok=True)
    rows, found, missing = [], [], []
    before = {(x["peer"], json.dumps(x.get("asked"))): x for x in answered() if arguments.resume}
    for env in CELLS:
        if arguments.env not in env:
            continue
        asked = job(env)
        our = functools.cache(functools.partial(answer, "ours.py", Path(sys.executable), asked))
        for peer in PEERS:
            if arguments.only not in peer.name:
                continue
            cell = before.get((peer.name, json.dumps(asked)))
            try:
                cell = cell or {
                    "peer": peer.name,
                    "asked": asked,
                    "ours": our(),
                    "theirs": answer(peer.script, peers.install(peer.environment), asked),
                }
            except (RuntimeError, subprocess.CalledProcessError) as error:
                missing.append(f"{peer.name} on {env}: {error}")
                continue
            sides = (cell["ours"]["returns"], cell["theirs"]["returns"])
            rows.append(row(env, peer.name, asked["steps"], *sides))
            found.append(cell)
            print(rows[-1], file=sys.stderr, flush=True)
    text = measure.table(rows) if rows else ""
    lines = [text, *(f"\nNot measured: {line}" for line in missing)]
    kept = {"returns": rows} if rows else None
    measure.write("zoo_peers", {"cells": found, "missing": missing}, "\n".join(lines), kept)


if __name__ == "__main__":
    main()
