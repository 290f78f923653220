"""A random search for the zoo's settings: candidates and their seeds are lanes of few programs."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import purejax_po as po
from purejax_po.experiment import files as atomic
from purejax_po.experiment.config import algorithm_config
from purejax_po.experiment.config.stored import from_dict, to_dict
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run.trainer import build_trainer
from purejax_po.training import seed_keys, window_lengths

SEARCH_SEEDS = range(1_000_000, 1_000_003)
"""Of every candidate; no seed of a result is among them."""
FRESH_SEEDS = range(16)
"""Of what is reported of a cell."""
CANDIDATES = 12
"""Of each shape; the first one has the default floats."""
LANES = 18
"""Of a program, side by side."""
WINDOWS = 50

BUDGETS = {
    "CartPole-v1": 100_000,
    "Acrobot-v1": 100_000,
    "Pendulum-v1": 200_000,
    "Catch-bsuite": 100_000,
    "MountainCar-v0": 200_000,
}
"""Environment steps per seed."""


class Log(NamedTuple):
    """Floats whose logarithm is uniform."""

    low: float
    high: float


class Uniform(NamedTuple):
    """Floats that are uniform."""

    low: float
    high: float


Floats = Mapping[str, Log | Uniform | Sequence[float]]
ACTOR_CRITIC: Floats = {
    "learning_rate_decay": (0.0, 1.0),
    "discount": (0.97, 0.98, 0.99, 0.995),
    "gae_lambda": Uniform(0.8, 0.98),
    "entropy_coef": (0.0, 0.001, 0.01),
}
NATURAL: Floats = {
    "max_kl": Log(0.005, 0.1),
    "discount": (0.97, 0.98, 0.99, 0.995),
    "gae_lambda": Uniform(0.8, 0.98),
    "critic_learning_rate": Log(1e-3, 1e-2),
}
FLOATS: dict[str, Floats] = {
    "ppo": {"learning_rate": Log(3e-4, 5e-3), "clip_eps": Uniform(0.1, 0.3), **ACTOR_CRITIC},
    "a2c": {"learning_rate": Log(5e-4, 1e-2), **ACTOR_CRITIC},
    "reinforce": {
        "learning_rate": Log(1e-3, 2e-2),
        "critic_learning_rate": Log(1e-3, 2e-2),
        "discount": (0.97, 0.98, 0.99, 0.995),
    },
    "npg": NATURAL,
    "trpo": NATURAL,
}
SHAPES: dict[str, list[dict[str, Any]]] = {
    "ppo": [
        {"num_envs": 8, "num_steps": 32, "num_epochs": 10, "num_minibatches": 4},
        {"num_envs": 8, "num_steps": 128, "num_epochs": 10, "num_minibatches": 8},
    ],
    "a2c": [{"num_envs": 8, "num_steps": 8}, {"num_envs": 8, "num_steps": 32}],
    "reinforce": [
        {"num_envs": 2, "num_steps": 500},
        {"num_envs": 4, "num_steps": 500, "normalize_advantage": True},
    ],
    "npg": [{}, {"num_envs": 8, "num_steps": 64, "critic_minibatch_size": 64}],
    "trpo": [{}, {"num_envs": 8, "num_steps": 64, "critic_minibatch_size": 64}],
}
"""What shapes a program: each is one."""


class Candidate(NamedTuple):
    """Settings that a search has tried."""

    algorithm: dict[str, Any]
    score: float | None
    """Mean over the search's seeds of the return at the end of training; None if one diverged."""
    seconds: float
    """Its share of the program's time, compilation included."""


def search(algorithm: str, env: str, place: Path, number: int = CANDIDATES) -> list[Candidate]:
    """Try candidates of every shape; a shape that a file holds already is read."""
    found = []
    for i, shape in enumerate(SHAPES[algorithm]):
        path = place / f"{algorithm}-{env.replace('/', '-')}-{i}.json"
        if not path.exists():
            tried = _try(algorithm, env, shape, number, seed=i)
            atomic.write_json(path, [candidate._asdict() for candidate in tried])
        found += [Candidate(**row) for row in json.loads(path.read_text())]
    return found


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the highest score."""
    return max(candidates, key=lambda x: -np.inf if x.score is None else x.score)


def settings_of(candidate: Candidate) -> Any:
    """The configuration of a candidate's algorithm."""
    return from_dict(candidate.algorithm)


def draw(algorithm: str, number: int, seed: int) -> dict[str, Any]:
    """Draw floats `[number]` by name, the first ones the defaults."""
    rng = np.random.default_rng([seed, *algorithm.encode()])
    default = algorithm_config(algorithm)().hyperparams
    columns = {}
    for name, values in FLOATS[algorithm].items():
        if isinstance(values, Log):
            column = np.exp(rng.uniform(*np.log(values), number))
        elif isinstance(values, Uniform):
            column = rng.uniform(*values, number)
        else:
            column = rng.choice(values, number)
        column[0] = getattr(default, name)
        columns[name] = [float(f"{x:.3g}") for x in column]
    return columns


def _try(
    algorithm: str, env: str, shape: dict[str, Any], number: int, seed: int
) -> list[Candidate]:
    """Train all candidates of one shape."""
    start = time.perf_counter()
    config = po.ExperimentConfig(
        algorithm=dataclasses.replace(algorithm_config(algorithm)(), **shape),
        env=env,
        total_steps=BUDGETS[env],
        num_windows=WINDOWS,
    )
    config.check()
    trainer = build_trainer(config)
    columns = draw(algorithm, number, seed)
    train = po.make_train(trainer, num_updates=config.num_updates, log_every=config.log_every)
    lanes = [(i, s) for i in range(number) for s in SEARCH_SEEDS]
    default = config.algorithm.hyperparams

    @jax.jit
    def run(keys: Any, floats: Any) -> Any:
        def one(key: Any, floats: Any) -> Any:
            found = train(key, default.replace(**floats))
            return found.log, found.state.diverged_at

        return jax.vmap(one)(keys, floats)

    logs, diverged = [], []
    for begin in range(0, len(lanes), LANES):
        part = [lanes[min(begin + j, len(lanes) - 1)] for j in range(LANES)]
        floats = {k: np.float32([v[i] for i, _ in part]) for k, v in columns.items()}
        log, at = jax.device_get(run(seed_keys([s for _, s in part]), floats))
        logs.append(log)
        diverged.append(at)
    log = jax.tree.map(lambda *x: np.concatenate(x)[: len(lanes)], *logs)
    ends = np.cumsum(window_lengths(config.num_updates, config.log_every))
    per_update = trainer.steps_per_update
    dataset = results.to_dataset(
        log, seeds=np.arange(len(lanes)), updates=ends, steps_per_update=per_update
    )
    final = dataset["final_return"].values.reshape(number, -1)
    is_sound = (np.concatenate(diverged)[: len(lanes)] < 0).reshape(number, -1).all(axis=1)
    seconds = (time.perf_counter() - start) / number
    found = []
    for i in range(number):
        floats = {name: values[i] for name, values in columns.items()}
        hyperparams = default.replace(**floats)
        settings = to_dict(dataclasses.replace(config.algorithm, hyperparams=hyperparams))
        score = float(final[i].mean()) if is_sound[i] and np.isfinite(final[i]).all() else None
        found.append(Candidate(settings, score, seconds))
    scores = [-np.inf if x.score is None else x.score for x in found]
    print(
        f"{algorithm} on {env}, {shape}: default {scores[0]:.1f}, best {max(scores):.1f}, "
        f"{seconds * number:.0f} s",
        flush=True,
    )
    return found
