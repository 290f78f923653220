"""A random search for the zoo's settings: candidates and their seeds are lanes of few programs."""

import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import zoo_tasks
from measure import commit
from zoo_tasks import TASKS

import purejax_po as po
from purejax_po.experiment import files as atomic
from purejax_po.experiment.config import algorithm_config
from purejax_po.experiment.config.stored import from_dict, to_dict
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run.devices import choose_width, lanes_per_core
from purejax_po.experiment.run.trainer import build_trainer
from purejax_po.training import seed_keys, window_lengths

SEARCH_SEEDS = range(1_000_000, 1_000_003)
"""Of every candidate; no seed of a result is among them."""
FRESH_SEEDS = range(512)
"""Of what is reported of a cell, which may take some of them."""
FINAL_SEEDS = range(1_000_100, 1_000_164)
"""Of the finalists, which are not the search's either; `num_final` says how many."""
WINDOWS = 50


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
    commit: str = ""
    """At which they trained; nothing if that is not known."""


def search(algorithm: str, env: str, place: Path, num_shapes: int | None = None) -> Search:
    """Try candidates of one shape after the other, until enough of them are good.

    What a file holds already of the same search is read.

    Args:
        algorithm, env: the cell.
        place: directory of the files.
        num_shapes: shapes to try at most.
    """
    task = TASKS[env]
    found: list[Candidate] = []
    stem = f"{algorithm}-{env.replace('/', '-')}"
    for i, shape in enumerate(zoo_tasks.shapes_of(algorithm, env)[:num_shapes]):
        if sum(_score(x) >= task.enough for x in found) >= task.finalists:
            break
        tried = _proposed(algorithm, env, shape, seed=i)
        found += _trained(place / f"{stem}-{i}.json", [tried], env, SEARCH_SEEDS, steps_of(env))
    finals = _trained(
        place / f"{stem}-finals-{len(found)}.json",
        _finalists(found, algorithm, env),
        env,
        final_seeds(algorithm, env),
        TASKS[env].final_steps or steps_of(env),
    )
    return Search(found, finals, _commit(place / f"{stem}-finals-{len(found)}.json"))


def _commit(path: Path) -> str:
    """At which commit a file was made, if it says so."""
    held = json.loads(path.read_text())
    return "" if isinstance(held, list) else held["commit"]


def _trained(
    path: Path, programs: Sequence[Sequence[Any]], env: str, seeds: range, steps: int
) -> list[Candidate]:
    """What a file holds of the same settings, or what is trained and written there.

    Args:
        path: the file. One of before files told what was asked is taken as it is.
        programs: settings that differ in their floats alone, for each program.
        env, seeds, steps: as `train`.
    """
    asked = {
        "algorithms": [to_dict(algorithm) for same in programs for algorithm in same],
        "settings": {k: list(x) if k == "wrappers" else x for k, x in TASKS[env].settings.items()},
        **{"seeds": [seeds.start, len(seeds)], "steps": steps},
    }
    asked = json.loads(json.dumps(asked))
    held = json.loads(path.read_text()) if path.exists() else {}
    if isinstance(held, list):
        return [Candidate(**row) for row in held]
    if held.get("asked") != asked:
        made = [x for same in programs for x in train(same, env, seeds, steps)]
        rows = [candidate._asdict() for candidate in made]
        held = {"asked": asked, "commit": commit(), "candidates": rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(path, held)
    return [Candidate(**row) for row in held["candidates"]]


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the highest score."""
    return max(candidates, key=_score)


def _score(candidate: Candidate) -> float:
    return -np.inf if candidate.score is None else candidate.score


def settings_of(candidate: Candidate) -> Any:
    """The configuration of a candidate's algorithm."""
    return from_dict(candidate.algorithm)


def final_seeds(algorithm: str, env: str) -> range:
    """The seeds of a cell's finalists."""
    return FINAL_SEEDS[: zoo_tasks.num_final(algorithm, env)]


def fresh_seeds(algorithm: str, env: str) -> range:
    """The seeds of what is reported of a cell."""
    first = zoo_tasks.SEEN.get((algorithm, env), 0)
    return FRESH_SEEDS[first : first + zoo_tasks.num_fresh(algorithm, env)]


def steps_of(env: str) -> int:
    """Environment steps of an environment's candidates."""
    return TASKS[env].search_steps or TASKS[env].total_steps


def experiment(algorithm: Any, env: str) -> po.ExperimentConfig:
    """The experiment of a cell, with one seed."""
    task = TASKS[env]
    return po.ExperimentConfig(
        algorithm=algorithm, env=env, total_steps=task.total_steps, **task.settings
    )


def draw(algorithm: str, number: int, seed: int, env: str = "") -> dict[str, list[float]]:
    """Draw floats `[number]` by name, the first ones the defaults where the task has none."""
    rng = np.random.default_rng([seed, *algorithm.encode()])
    default = algorithm_config(algorithm)().hyperparams
    own = TASKS[env].floats if env else {}
    ranges = zoo_tasks.floats_of(algorithm, env) if env else zoo_tasks.FLOATS[algorithm]
    columns = {}
    for name, values in ranges.items():
        if isinstance(values, zoo_tasks.Log):
            column = np.exp(rng.uniform(*np.log(values), number))
        elif isinstance(values, zoo_tasks.Uniform):
            column = rng.uniform(*values, number)
        else:
            column = rng.choice(values, number)
        if name not in own:
            column[0] = getattr(default, name)
        columns[name] = [float(f"{x:.3g}") for x in column]
    return columns


def _proposed(algorithm: str, env: str, shape: Mapping[str, Any], seed: int) -> list[Any]:
    """All candidates of one shape."""
    number = TASKS[env].candidates * zoo_tasks.times(algorithm, env)
    default = dataclasses.replace(algorithm_config(algorithm)(), **shape)
    columns = draw(algorithm, number, seed, env)
    rows = [{name: values[i] for name, values in columns.items()} for i in range(number)]
    return [
        dataclasses.replace(default, hyperparams=default.hyperparams.replace(**row)) for row in rows
    ]


def _finalists(candidates: Sequence[Candidate], algorithm: str, env: str) -> list[list[Any]]:
    """The best candidates by program, for further seeds: with few of them luck is what is best."""
    order = sorted(candidates, key=_score)
    programs: dict[str, list[Any]] = {}
    for candidate in order[-TASKS[env].finalists * zoo_tasks.times(algorithm, env) :]:
        shape = {k: v for k, v in candidate.algorithm.items() if k != "hyperparams"}
        programs.setdefault(json.dumps(shape), []).append(settings_of(candidate))
    return list(programs.values())


def train(algorithms: Sequence[Any], env: str, seeds: Sequence[int], steps: int) -> list[Candidate]:
    """Train settings that differ in their floats alone, each with all seeds."""
    start = time.perf_counter()
    config = experiment(algorithms[0], env)
    config = dataclasses.replace(config, num_windows=WINDOWS, total_steps=steps)
    config.check()
    trainer = build_trainer(config)
    run_one = po.make_train(trainer, num_updates=config.num_updates, log_every=config.log_every)
    lanes = [(algorithm, seed) for algorithm in algorithms for seed in seeds]
    width = choose_width(len(lanes), 1, "cpu", lanes_per_core(config.algorithm))

    @functools.partial(jax.jit, compiler_options=po.compiler_options())
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
    told = f"{len(algorithms)} candidates × {len(seeds)} seeds, {seconds * len(algorithms):.0f} s"
    print(
        f"{found[0].algorithm['name']} on {env}: {told}, best {_score(best(found)):.1f}", flush=True
    )
    return found
