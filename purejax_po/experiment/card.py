"""A model card: what a policy was trained for, what it reaches, and how it is called."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

from purejax_po import checks, spaces
from purejax_po.evaluation import evaluate
from purejax_po.experiment import layout
from purejax_po.experiment.config import sweep
from purejax_po.experiment.loaded import LoadedPolicy
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import statistics
from purejax_po.experiment.run.evaluating import time_limit
from purejax_po.experiment.run.trainer import true_env
from purejax_po.types import JSONObject, Space

USES = {
    "stablehlo": """\
`policy.stablehlo` runs with `jax` and `flatbuffers` alone (CPU, CUDA, TPU):

```python
from pathlib import Path
from jax import export

policy = export.deserialize(Path("policy.stablehlo").read_bytes())
outputs = policy.call({arguments})  # a tuple: {outputs}
```
""",
    "onnx": """\
`policy.onnx` runs with ONNX Runtime alone:

```python
import onnxruntime

policy = onnxruntime.InferenceSession("policy.onnx")
outputs = policy.run(None, {{{pairs}}})  # a list: {outputs}
```
""",
    "safetensors": """\
`policy.safetensors` holds the raw parameters, by name:

```python
from safetensors.numpy import load_file

params = load_file("policy.safetensors")
```

The networks that they belong to are those of `config` in the file's metadata. `obs/count`,
`obs/mean` and `obs/m2`, where they are there, are the moments that observations are normalised by:
(obs − mean)/√(m2/count), clipped to ±10.
""",
}


def describe(
    policy: LoadedPolicy,
    out: Path,
    inputs: JSONObject,
    outputs: Sequence[str],
    num_episodes: int,
    point: Mapping[str, float] | None = None,
) -> JSONObject:
    """Return what is said of a policy, ready for JSON.

    Args:
        policy: from the run in `out`.
        inputs, outputs: of its exported function, by name.
        num_episodes: greedy episodes to play for its return; 0: none.
        point: of a sweep, where the policy was trained.
    """
    trainer, config = policy.trainer, policy.config
    summary = out / layout.SUMMARY
    held = json.loads(summary.read_text()) if summary.exists() else {}
    at = {sweep.label(config, name): value for name, value in (point or {}).items()}
    here = next((x for x in held.get("points", ()) if x["point"] == at), held)
    hyperparameters = dataclasses.asdict(config.algorithm.hyperparams)
    told = {
        "algorithm": config.algorithm.name,
        "environment": config.env_name,
        "wrappers": list(config.wrappers),
        "randomized": list(config.randomize),
        "observations": str(trainer.env.observation_space(trainer.env_params)),
        "actions": _actions(trainer.env.action_space(trainer.env_params)),
        "seed": str(policy.seed),
        "inputs": {k: checks.describe(x) for k, x in inputs.items()},
        "outputs": list(outputs),
        "total_steps": str(config.total_steps),
        "hyperparameters": {k: float(v) for k, v in hyperparameters.items()},
        "training_return_over_seeds": here.get("final_return"),
        "trained_seeds": held.get("num_seeds"),
        "versions_of_training": held.get("versions"),
        "versions_of_export": results.versions(),
        "config": config.to_dict(),
    }
    if num_episodes:
        told["evaluation"] = _evaluation(policy, num_episodes)
    return told


def _evaluation(policy: LoadedPolicy, num_episodes: int) -> JSONObject:
    """The mean return of one seed's greedy episodes, with a 95 % interval over episodes."""
    trainer = policy.trainer
    whose = (jax.random.key(0), *true_env(policy.config, trainer), trainer.actor)
    play = partial(evaluate, num_episodes=num_episodes, num_steps=time_limit(trainer), greedy=True)
    found = jax.jit(lambda params: play(*whose, params).episode_return)(policy.params)
    low, high = statistics.bootstrap_interval(np.asarray(found), statistics.mean)
    return {
        "episodes": num_episodes,
        "mean_return": float(np.mean(found)),
        "ci_low": results.number(low),
        "ci_high": results.number(high),
    }


def text(told: JSONObject, formats: Sequence[str], num_memories: int) -> str:
    """Return the card as Markdown.

    Args:
        told: from `describe`.
        formats: the files that it stands beside.
        num_memories: arrays that the policy remembers.
    """
    names = list(told["inputs"])
    values = {
        "arguments": ", ".join(names),
        "pairs": ", ".join(f'"{name}": {name}' for name in names),
        "outputs": ", ".join(told["outputs"]),
    }
    rows = {
        "environment": told["environment"],
        **{k: ", ".join(told[k]) for k in ("wrappers", "randomized") if told[k]},
        "observations": f"`{told['observations']}`",
        "actions": f"`{told['actions']}`",
        "policy": told["policy"],
        "training": f"{told['algorithm']}, {int(told['total_steps']):,} steps, seed {told['seed']}",
        **_returns(told),
    }
    sections = [
        f"# {told['algorithm']} on {told['environment']}, seed {told['seed']}",
        _table("", rows),
        "Inputs are arrays with a leading batch axis of any size, `b`. Actions are the most likely "
        "ones, within the bounds of the action space.",
        _table("input", {f"`{k}`": f"`{v}`" for k, v in told["inputs"].items()}),
    ]
    if num_memories:
        sections.append(
            f"The policy remembers {num_memories} array(s): hand back `next_memory_…` as "
            "`memory_…`. At an episode's start they are zeros, and `start` is true."
        )
    sections += ["## How it is called", *(USES[name].format(**values) for name in formats)]
    hyperparameters = told["hyperparameters"].items()
    sections += [
        "## Hyperparameters",
        _table("hyperparameter", {name: f"{value:g}" for name, value in hyperparameters}),
        "## Versions",
        _table("package", told["versions_of_training"] or told["versions_of_export"]),
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _returns(told: JSONObject) -> dict[str, str]:
    """What the policy and its siblings reach."""
    rows = {}
    if (found := told.get("evaluation")) is not None:
        interval = _interval(found["ci_low"], found["ci_high"], "over episodes")
        rows[f"mean return of {found['episodes']} greedy episodes"] = (
            f"{found['mean_return']:.4g}{interval}"
        )
    if (found := told["training_return_over_seeds"]) is not None and found["iqm"] is not None:
        interval = _interval(found["ci_low"], found["ci_high"], "over seeds")
        name = f"return at the end of training, IQM of {told['trained_seeds']} seeds"
        rows[name] = f"{found['iqm']:.4g}{interval}"
    return rows


def _interval(low: float | None, high: float | None, over: str) -> str:
    return "" if low is None or high is None else f" (95 % interval {over} {low:.4g} … {high:.4g})"


def _table(title: str, rows: Mapping[str, object]) -> str:
    lines = [f"| {title} | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
    return "\n".join(lines)


def _actions(space: Space) -> str:
    """An action space with its bounds."""
    if spaces.kind(space) != "box":
        return str(space)
    bounds = space.low, space.high
    low, high = (np.broadcast_to(np.asarray(x), space.shape).tolist() for x in bounds)
    return f"Box{tuple(space.shape)} from {low} to {high}"
