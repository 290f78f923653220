"""Exported policies where this package is not installed: the same actions, and file sizes.

    python benchmarks/exported.py [--keep]

Trains small policies (MLP, normalised and squashed, GRU, convolutions), exports each as ONNX and
as StableHLO, and lets two other interpreters act with the files: one that has ONNX Runtime and
NumPy but neither jax nor this package, and one that has jax and flatbuffers but not this package.
They come from `python -m venv` and pip, unless `--onnx-python` and `--jax-python` name them. Needs
the extra `onnx`.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from measure import add_keep, data, keep, kept_as, table

import purejax_po as po

NUM_ROWS, NUM_STEPS = 64, 5
NOTE = (
    "ONNX: a virtual environment with ONNX Runtime and NumPy, without JAX and this package. "
    "StableHLO: one with jax and flatbuffers, without this package. Five steps of 64 observations; "
    "a discrete action that is the same counts as 0."
)
POLICIES = {
    "MLP": ("CartPole-v1", {}, False),
    "MLP 64 × 64, normalised": ("CartPole-v1", {"hidden": (64, 64)}, True),
    "MLP, normalised, tanh": ("Pendulum-v1", {"action_distribution": "tanh_gaussian"}, True),
    "MLP, scaled": ("Pendulum-v1", {"action_distribution": "scaled_gaussian"}, False),
    "GRU, tanh": ("Pendulum-v1", {"memory": "gru", "action_distribution": "tanh_gaussian"}, True),
    "LSTM": ("CartPole-v1", {"memory": "lstm"}, False),
    "convolutions": ("Breakout-MinAtar", {"channels": (8,)}, False),
    "LayerNorm": ("Acrobot-v1", {"layer_norm": True}, False),
}
ONNX = """
import importlib.util, sys
import numpy as np, onnxruntime
assert not importlib.util.find_spec("jax") and not importlib.util.find_spec("purejax_po")
session = onnxruntime.InferenceSession(sys.argv[1])
names = [x.name for x in session.get_inputs()]
def act(*inputs):
    return session.run(None, dict(zip(names, inputs)))
"""
STABLEHLO = """
import importlib.util, sys
from pathlib import Path
import numpy as np
from jax import export
assert not importlib.util.find_spec("purejax_po") and not importlib.util.find_spec("flax")
act = export.deserialize(Path(sys.argv[1]).read_bytes()).call
"""
PLAY = """
inputs = dict(np.load(sys.argv[2]))
obs, memory, found = inputs.pop("obs"), list(inputs.values()), {}
start = np.ones(obs.shape[1], bool)
for t, seen in enumerate(obs):
    action, *memory = act(seen, *([start] if memory else []), *memory)
    found[str(t)], start = np.asarray(action), np.zeros_like(start)
np.savez(sys.argv[3], **found)
"""


def main() -> int:
    """Print one row per policy and format; 1 if an action differs by more than 1e-6."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx-python", help="an interpreter with onnxruntime alone")
    parser.add_argument("--jax-python", help="an interpreter with jax alone")
    add_keep(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pythons = {
            "onnx": args.onnx_python or new(folder / "onnx", "onnxruntime", "numpy"),
            "stablehlo": args.jax_python
            or new(folder / "jax", f"jax=={jax.__version__}", "flatbuffers"),
        }
        rows = []
        for name in POLICIES:
            for row in measure(name, folder, pythons):
                rows.append(row)
                print(row, flush=True)
    told = [
        {
            "policy": row["policy"],
            "environment": f"`{row['env']}`",
            "format": row["format"],
            "kB": f"{row['bytes'] / 1000:.1f}",
            "largest difference of an action": f"{row['difference']:.1g}",
        }
        for row in rows
    ]
    print(table(told))
    if given := kept_as("exported"):
        keep(given, {"actions": data(told)}, NOTE)
    return int(max(row["difference"] for row in rows) > 1e-6)


def new(folder: Path, *packages: str) -> str:
    """A virtual environment with these packages: its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def measure(name: str, folder: Path, pythons: dict[str, str]) -> list[dict]:
    """Train, export and compare one policy."""
    env, network, normalize = POLICIES[name]
    out = folder / name.replace(" ", "_")
    shape = po.NetworkConfig(**{"hidden": (32, 32), **network})
    algorithm = po.PPOConfig(network=shape, num_envs=4, num_steps=32)
    config = po.ExperimentConfig(
        algorithm=algorithm,
        env=env,
        total_steps=4096,
        normalize_observations=normalize,
    )
    po.run(config, out, progress=False)
    exported = po.export(out, seed=0, to=tuple(pythons), num_episodes=0)
    policy = po.load_policy(out, seed=0)
    inputs, expected = played(policy)
    np.savez(folder / "inputs.npz", **inputs)
    rows = []
    for kind, python in pythons.items():
        source = {"onnx": ONNX, "stablehlo": STABLEHLO}[kind] + PLAY
        paths = [exported.files[kind], folder / "inputs.npz", folder / "actions.npz"]
        subprocess.run([python, "-I", "-c", source, *map(str, paths)], check=True, cwd=folder)
        found = np.load(folder / "actions.npz")
        worst = max(float(np.abs(found[str(t)] - x).max()) for t, x in enumerate(expected))
        size = exported.files[kind].stat().st_size
        rows.append(
            {"policy": name, "env": env, "format": kind, "bytes": size, "difference": worst}
        )
    return rows


def played(policy: po.LoadedPolicy) -> tuple[dict, list]:
    """Observations `[steps, rows, ...]` with empty memories, and the policy's actions."""
    env, env_params = policy.trainer.env, policy.trainer.env_params
    keys = jax.random.split(jax.random.key(0), NUM_STEPS * NUM_ROWS)
    obs = np.asarray(jax.vmap(env.reset, in_axes=(0, None))(keys, env_params)[0], np.float32)
    obs = obs.reshape(NUM_STEPS, NUM_ROWS, *obs.shape[1:])
    noise = np.random.default_rng(0).normal(size=obs.shape)
    obs = obs + noise.astype(np.float32) * (obs.ndim < 5)
    if policy.memoryless:
        return {"obs": obs}, [np.asarray(policy(x)) for x in obs]
    from purejax_po.experiment.export import make_portable

    shapes = [v for k, v in make_portable(policy).inputs.items() if k.startswith("memory")]
    memory = {f"m{i}": np.zeros((NUM_ROWS, *x.shape[1:]), x.dtype) for i, x in enumerate(shapes)}
    actions, memories = [], [None] * NUM_ROWS
    for seen in obs:
        found = [policy(row, m) for row, m in zip(seen, memories, strict=True)]
        actions.append(np.stack([np.asarray(action) for action, _ in found]))
        memories = [m for _, m in found]
    return {"obs": obs, **memory}, actions


if __name__ == "__main__":
    sys.exit(main())
