"""A trained policy as files that run where this package is not installed, with a model card."""

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from purejax_po._xla import switch
from purejax_po.checks import check_choice, check_count, how_to_install
from purejax_po.environments.carried import Carried
from purejax_po.experiment import card, layout, policies
from purejax_po.experiment import files as atomic
from purejax_po.experiment.evaluate import check_episodes
from purejax_po.experiment.loaded import LoadedPolicy
from purejax_po.experiment.run.evaluating import time_limit
from purejax_po.experiment.store import arrays
from purejax_po.types import Action, Array, Carry, Observation, PyTree

FORMATS = ("stablehlo", "onnx", "safetensors")
PLATFORMS = ("cpu", "cuda", "tpu")
"""That a StableHLO file runs on."""
NUM_CHECKED = 8
"""Observations on which a file is compared with the policy before it is written."""
TOLERANCE = 1e-5
"""Relative and absolute, of actions that are real numbers: XLA and ONNX Runtime round apart."""


class Exported(NamedTuple):
    """The files that were written."""

    folder: Path
    files: dict[str, Path]
    """By format."""
    card: Path


class Portable(NamedTuple):
    """A policy as one pure function of arrays with a leading batch axis."""

    function: Callable[..., tuple[Array, ...]]
    """`(*inputs) → (*outputs)`: most likely actions, then what to remember."""
    inputs: dict[str, jax.ShapeDtypeStruct]
    """Shapes and dtypes by name; the first axis is the batch, of any size."""
    outputs: tuple[str, ...]
    num_memories: int
    """Arrays that the policy remembers, the last inputs and outputs."""


def export(
    out: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    seed: int,
    to: str | Sequence[str] = "stablehlo",
    point: Mapping[str, float] | None = None,
    best: bool = False,
    num_episodes: int = 100,
) -> Exported:
    """Write one seed's final policy in formats that need no training code, with its model card.

    The files hold the normalisation of observations, masks of actions, the map of actions into the
    environment's space, and memory. The batch may have any size.

    Args:
        out: the directory of a run.
        folder: where the files go (default: `OUT/export/seed-SEED`, `seed-SEED-best` for the best).
        seed: the seed's value.
        to: `"stablehlo"` (`jax.export`: runs with jax and flatbuffers alone), `"onnx"` (extra
            `onnx`; runs with ONNX Runtime alone) and `"safetensors"` (the raw parameters); one or
            several.
        point, best: as `load_policy`.
        num_episodes: greedy episodes whose mean return stands on the card; 0 for none.

    Returns:
        The paths.

    Raises:
        ValueError: as `load_policy`; for an unknown format, one whose extra is not installed, a
            policy that a format cannot hold, or more episodes than memory holds.
    """
    formats = (to,) if isinstance(to, str) else tuple(dict.fromkeys(to))
    if not formats:
        raise ValueError(f"to must be one or several of {', '.join(FORMATS)}, got none")
    for name in formats:
        check_choice("to", name, FORMATS)
    if "onnx" in formats:
        _converter()
    check_count("num_episodes", num_episodes, minimum=0)
    if folder is not None:
        atomic.check_path("folder", folder)
    policy = policies.load_policy(out, seed=seed, point=point, best=best)
    if num_episodes:
        check_episodes(num_episodes, 1, time_limit(policy.trainer))
    portable = make_portable(policy)
    told = card.describe(policy, Path(out), portable.inputs, portable.outputs, num_episodes, point)
    told["policy"] = "best by evaluation in training" if best else "final"
    make = {"stablehlo": _stablehlo, "onnx": _onnx, "safetensors": _safetensors}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in told.items()}
    contents = {name: make[name](policy, portable, texts) for name in formats}
    folder = Path(folder or Path(out) / layout.EXPORT / layout.of_seed(seed, point, best))
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"policy.{name}" for name in formats}
    for name, path in files.items():
        atomic.write_bytes(path, contents[name])
    present = tuple(name for name in FORMATS if (folder / f"policy.{name}").exists())
    path = folder / "README.md"
    atomic.write_text(path, card.text(told, present, portable.num_memories))
    return Exported(folder, files, path)


def make_portable(policy: LoadedPolicy) -> Portable:
    """Return a policy as a function of arrays alone.

    Raises:
        ValueError: for a policy with a memory that does not begin with zeros.
    """
    env, env_params = policy.trainer.env, policy.trainer.env_params
    one = jax.eval_shape(lambda: env.reset(jax.random.key(0), env_params)[0])
    (batch,) = jax.export.symbolic_shape("b")

    def batched(x: PyTree) -> PyTree:
        return jax.ShapeDtypeStruct((batch, *x.shape), x.dtype)

    obs_leaves, obs_form = jax.tree.flatten(jax.tree.map(batched, one))
    names = _names("obs", one)

    initial = policy.initial_memory(1)
    if not all((np.asarray(x) == 0).all() for x in jax.tree.leaves(initial)):
        raise ValueError("a policy whose memory does not begin with zeros cannot be exported")
    memory = jax.tree.map(lambda x: batched(x[0]), initial)
    start = batched(jax.ShapeDtypeStruct((), jnp.bool_))
    given = jax.tree.unflatten(obs_form, obs_leaves)
    outputs = _names("action", jax.eval_shape(policy.step, given, start, memory)[0])

    def act(memory: Carry, seen: tuple[Observation, Any]) -> tuple[Action, Carry]:
        return policy.step(*seen, memory)

    # The critic's memory goes with the policy's, and no action depends on it.
    kept = Carried(act, memory, (given, start)).kept
    memory_leaves, memory_form = jax.tree.flatten(memory)
    size = len(names)

    def function(*inputs: Array) -> tuple[Array, ...]:
        obs = jax.tree.unflatten(obs_form, inputs[:size])
        leaves = [jnp.zeros((inputs[0].shape[0], *x.shape[1:]), x.dtype) for x in memory_leaves]
        for i, leaf in zip(kept, inputs[size + 1 :], strict=True):
            leaves[i] = leaf
        start = None if policy.memoryless else inputs[size]
        found, after = act(jax.tree.unflatten(memory_form, leaves), (obs, start))
        return (*jax.tree.leaves(found), *(jax.tree.leaves(after)[i] for i in kept))

    memories = [f"memory_{i}" for i in range(len(kept))]
    inputs = dict(zip(names, obs_leaves, strict=True))
    inputs |= {} if policy.memoryless else {"start": start}
    inputs |= {name: memory_leaves[i] for name, i in zip(memories, kept, strict=True)}
    return Portable(function, inputs, (*outputs, *(f"next_{x}" for x in memories)), len(kept))


def _stablehlo(policy: LoadedPolicy, portable: Portable, texts: dict[str, str]) -> bytes:
    with switch.using(switch.ELSEWHERE):  # no tricks for the platform at hand
        exported = jax.export.export(jax.jit(portable.function), platforms=PLATFORMS)(
            *portable.inputs.values()
        )
    _check("stablehlo", policy, portable, exported.call)
    return bytes(exported.serialize())


def _onnx(policy: LoadedPolicy, portable: Portable, texts: dict[str, str]) -> bytes:
    converter, runtime = _converter()
    try:
        with switch.using(switch.ELSEWHERE):
            model = converter.to_onnx(
                portable.function,
                list(portable.inputs.values()),
                model_name=f"{policy.config.algorithm.name} on {policy.config.env_name}",
                input_names=list(portable.inputs),
                output_names=list(portable.outputs),
            )
    except Exception as error:  # whatever another library's converter raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"onnx cannot hold this policy: {reason}; stablehlo can") from error
    for name, value in texts.items():
        model.metadata_props.add(key=name, value=value)
    content = model.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def call(*inputs: np.ndarray) -> list[np.ndarray]:
        return session.run(None, dict(zip(portable.inputs, inputs, strict=True)))

    _check("onnx", policy, portable, call)
    return content


def _safetensors(policy: LoadedPolicy, portable: Portable, texts: dict[str, str]) -> bytes:
    leaves = jax.tree_util.tree_leaves_with_path(policy.params)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves
    }
    return arrays.to_bytes(named, texts)


def _converter() -> tuple[ModuleType, ModuleType]:
    """The libraries that write and run ONNX."""
    try:
        return importlib.import_module("jax2onnx"), importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ValueError(
            f"to onnx needs {error.name or 'jax2onnx'}, which is not installed: "
            f"{how_to_install('onnx')}"
        ) from None


def _check(
    name: str, policy: LoadedPolicy, portable: Portable, call: Callable[..., PyTree]
) -> None:
    """Raise `ValueError` unless a file does what the policy does, for an episode's first steps."""
    env, env_params = policy.trainer.env, policy.trainer.env_params
    keys = jax.random.split(jax.random.key(0), NUM_CHECKED)
    obs = jax.tree.leaves(jax.vmap(env.reset, in_axes=(0, None))(keys, env_params)[0])
    shapes = list(portable.inputs.values())
    rest = [np.zeros((NUM_CHECKED, *x.shape[1:]), x.dtype) for x in shapes[len(obs) :]]
    if rest:
        rest[0][:] = True
    inputs = [np.asarray(x, y.dtype) for x, y in zip(obs, shapes, strict=False)] + rest
    for _ in range(2):
        expected, found = jax.jit(portable.function)(*inputs), call(*inputs)
        for output, x, y in zip(portable.outputs, expected, found, strict=True):
            if not np.allclose(x, y, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                worst = float(np.abs(np.asarray(x, float) - np.asarray(y, float)).max())
                raise ValueError(f"{name} does not hold this policy: its {output} is {worst:g} off")
        if (remembered := portable.num_memories) == 0:
            return
        inputs = [*inputs[:-remembered], *map(np.asarray, expected[-remembered:])]
        inputs[-remembered - 1] = np.zeros(NUM_CHECKED, bool)


def _names(prefix: str, tree: PyTree) -> tuple[str, ...]:
    """A name for each leaf: the prefix alone for a single one."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    parts = [jax.tree_util.keystr(path, simple=True, separator="_") for path in paths]
    return tuple(f"{prefix}_{part}" if part else prefix for part in parts)
