"""A random search for the zoo's settings: candidates and their seeds are lanes of few programs."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
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
FINAL_SEEDS = range(1_000_100, 1_000_108)
"""Of the finalists, which are not the search's either."""
FINALISTS = 3
CANDIDATES = 8
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
    "MountainCarContinuous-v0": 200_000,
    "DeepSea-bsuite": 200_000,
    "FourRooms-misc": 200_000,
    "PointRobot-misc": 200_000,
    "Reacher-misc": 200_000,
}
"""Environment steps per seed."""


CEILINGS = {"CartPole-v1": 499.5, "Catch-bsuite": 0.999}
"""Returns beyond which nothing is left to search for."""


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


class Search(NamedTuple):
    """What a search of a cell has tried."""

    candidates: list[Candidate]
    finals: list[Candidate]
    """The best candidates, with further seeds: the first of them is chosen."""


def search(
    algorithm: str,
    env: str,
    place: Path,
    number: int = CANDIDATES,
    num_shapes: int | None = None,
) -> Search:
    """Try candidates of every shape, until one reaches the highest return that there is.

    What a file holds already is read.

    Args:
        algorithm, env: the cell.
        place: directory of the files.
        number: candidates of each shape.
        num_shapes: shapes to try at most.
    """
    found: list[Candidate] = []
    stem = f"{algorithm}-{env.replace('/', '-')}"
    for i, shape in enumerate(SHAPES[algorithm][:num_shapes]):
        if found and (best(found).score or -np.inf) >= CEILINGS.get(env, np.inf):
            break
        tried = functools.partial(_try, algorithm, env, shape, number, seed=i)
        found += _kept(place / f"{stem}-{i}.json", tried)
    finals = _kept(place / f"{stem}-finals-{len(found)}.json", lambda: _finals(found, env))
    return Search(found, finals)


def _kept(path: Path, make: Callable[[], list[Candidate]]) -> list[Candidate]:
    """What a file holds, or what is made and written there."""
    if not path.exists():
        atomic.write_json(path, [candidate._asdict() for candidate in make()])
    return [Candidate(**row) for row in json.loads(path.read_text())]


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
    default = dataclasses.replace(algorithm_config(algorithm)(), **shape)
    columns = draw(algorithm, number, seed)
    rows = [{name: values[i] for name, values in columns.items()} for i in range(number)]
    tried = [
        dataclasses.replace(default, hyperparams=default.hyperparams.replace(**row)) for row in rows
    ]
    return train(tried, env, SEARCH_SEEDS)


def _finals(candidates: Sequence[Candidate], env: str) -> list[Candidate]:
    """Train the best candidates with further seeds: with few of them luck is what is best."""
    order = sorted(candidates, key=lambda x: -np.inf if x.score is None else x.score)
    found: list[Candidate] = []
    for candidate in order[-FINALISTS:]:
        found += train([settings_of(candidate)], env, FINAL_SEEDS)
    return found


def train(algorithms: Sequence[Any], env: str, seeds: Sequence[int]) -> list[Candidate]:
    """Train settings that differ in their floats alone, each with all seeds."""
    start = time.perf_counter()
    config = po.ExperimentConfig(
        algorithm=algorithms[0], env=env, total_steps=BUDGETS[env], num_windows=WINDOWS
    )
    config.check()
    trainer = build_trainer(config)
    run_one = po.make_train(trainer, num_updates=config.num_updates, log_every=config.log_every)
    lanes = [(algorithm, seed) for algorithm in algorithms for seed in seeds]
    width = min(LANES, len(lanes))

    @jax.jit
    def run(keys: Any, hyperparams: Any) -> Any:
        def one(key: Any, hyperparams: Any) -> Any:
            found = run_one(key, hyperparams)
            return found.log, found.state.diverged_at

        return jax.vmap(one)(keys, hyperparams)

    logs, diverged = [], []
    for begin in range(0, len(lanes), width):
        part = [lanes[min(begin + j, len(lanes) - 1)] for j in range(width)]
        floats = jax.tree.map(lambda *x: np.float32(x), *[a.hyperparams for a, _ in part])
        log, at = jax.device_get(run(seed_keys([s for _, s in part]), floats))
        logs.append(log)
        diverged.append(at)
    log = jax.tree.map(lambda *x: np.concatenate(x)[: len(lanes)], *logs)
    dataset = results.to_dataset(
        log,
        seeds=np.arange(len(lanes)),
        updates=np.cumsum(window_lengths(config.num_updates, config.log_every)),
        steps_per_update=trainer.steps_per_update,
    )
    final = dataset["final_return"].values.reshape(len(algorithms), -1)
    is_sound = np.isfinite(final) & (np.concatenate(diverged)[: len(lanes)] < 0).reshape(
        final.shape
    )
    seconds = (time.perf_counter() - start) / len(algorithms)
    found = [
        Candidate(to_dict(algorithm), float(x.mean()) if sound.all() else None, seconds)
        for algorithm, x, sound in zip(algorithms, final, is_sound, strict=True)
    ]
    scores = [-np.inf if x.score is None else x.score for x in found]
    told = f"{len(algorithms)} candidates × {len(seeds)} seeds, {seconds * len(algorithms):.0f} s"
    print(f"{found[0].algorithm['name']} on {env}: {told}, best {max(scores):.1f}", flush=True)
    return found
