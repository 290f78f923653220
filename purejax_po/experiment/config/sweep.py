"""A sweep: named axes of traced numbers, every point of which is run with every seed.

Points are lanes of one compiled program, since every float of the hyperparameters and of the
environment's parameters is traced. Lanes are numbered point by point, and seed by seed within each.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from purejax_po.checks import check_choice
from purejax_po.environments import parameters, randomized
from purejax_po.experiment.config import ENV_PARAMS, MAX_SEEDS, ExperimentConfig
from purejax_po.reads import fields_read
from purejax_po.types import EnvParams, Trainer

Point = dict[str, float]
"""A value of each axis, by the axis's label."""

RESERVED = (
    *("algorithm", "env", "seed", "update", "step"),
    *("num_episodes", "episode_return", "episode_return_std", "episode_length"),
    *("final_return", "diverged_at", "seeds", "steps"),
    *("evaluation", "evaluation_return", "final_evaluation", "solved_at"),
)
"""Names that no axis may have: results have something else by them."""


def check(config: ExperimentConfig, env_params: EnvParams) -> None:
    """Check every name and value of a sweep without compiling anything.

    Args:
        config: of the experiment, checked except for its sweep.
        env_params: of its environment.

    Raises:
        ValueError: in one line; for a name that is not traced it lists those that are.
    """
    for name, values in config.sweep.items():
        allowed = traced_names(config, env_params)
        if name not in allowed and _is_static(config, name):
            raise ValueError(
                f"sweep must be over traced numbers, got {name!r}, which shapes the program; "
                f"traced are {', '.join(allowed)}"
            )
        check_choice("sweep", name, allowed)
        if isinstance(values, str) or np.ndim(values) != 1 or len(values) == 0:
            raise ValueError(f"sweep.{name} must hold at least one value, got {values!r}")
        for value in values:
            single = config.at({name: value})
            single.algorithm.check()
            single.set_env_params(env_params)
        if len(set(listed := np.asarray(values).tolist())) < len(listed):
            raise ValueError(f"sweep.{name} must hold each value once, got {_text(listed)}")
    if config.num_lanes > MAX_SEEDS:
        raise ValueError(
            f"sweep must have at most {MAX_SEEDS} points × seeds, "
            f"got {config.num_points} × {config.num_seeds}"
        )


def check_effect(config: ExperimentConfig, trainer: Trainer) -> None:
    """Check that training reads every field that is swept or set; by an abstract update.

    Raises:
        ValueError: naming one that has no effect, and those that have.
    """
    set_params = {f"{ENV_PARAMS}{name}": name for name in config.env_params}
    if not (config.sweep or set_params):
        return
    hyperparams, env_params = fields_read(trainer)
    swept = {name.removeprefix(ENV_PARAMS) for name in config.sweep if ENV_PARAMS in name}
    followed = parameters.sources(config.env_name, swept | set(config.env_params))
    drawn = {randomized.parse(text)[0] for text in config.randomize}
    for name in {**config.sweep, **set_params}:
        bare = name.removeprefix(ENV_PARAMS)
        if bare in drawn and name not in config.sweep:  # it is what evaluations have
            continue
        read = hyperparams if bare == name else env_params | followed
        if bare in read:
            continue
        what = f"{config.algorithm.name} with these options" if bare == name else config.env_name
        raise ValueError(
            f"{name} must be read by {what}, and has no effect there; read are "
            f"{', '.join(sorted(read))}"
        )


def traced_names(config: ExperimentConfig, env_params: EnvParams) -> tuple[str, ...]:
    """Return what can be swept: the hyperparameters, and the numbers among `env_params`."""
    hyperparams = [f.name for f in dataclasses.fields(config.algorithm.hyperparams)]
    numbers = [
        f.name
        for f in dataclasses.fields(env_params)
        if isinstance(value := getattr(env_params, f.name), int | float)
        and not isinstance(value, bool)
    ]
    return (*hyperparams, *(f"{ENV_PARAMS}{name}" for name in numbers))


def axes(config: ExperimentConfig) -> dict[str, list[float]]:
    """Return each axis's values by its label, which is a name without dots."""
    return {label(config, name): np.asarray(v).tolist() for name, v in config.sweep.items()}


def label(config: ExperimentConfig, name: str) -> str:
    """Return `gravity` for `env_params.gravity`, unless something else has that name."""
    bare = name.removeprefix(ENV_PARAMS)
    hyperparams = {f.name for f in dataclasses.fields(config.algorithm.hyperparams)}
    if bare != name and bare in hyperparams | set(RESERVED):
        return name.replace(".", "_")
    return bare


def points(config: ExperimentConfig) -> list[Point]:
    """Return the points in the order of their lanes: the last axis changes fastest."""
    named = axes(config)
    return [dict(zip(named, values, strict=True)) for values in itertools.product(*named.values())]


def find(config: ExperimentConfig, point: Mapping[str, float] | None) -> tuple[int, Point]:
    """Return a point's number, and the point by the names that `config.at` takes.

    Raises:
        ValueError: for a point that the sweep does not hold, or none where there is a sweep.
    """
    given = {label(config, name): value for name, value in (point or {}).items()}
    named = axes(config)
    if set(given) != set(named):
        expected = ", ".join(named) if named else "nothing, for this run is no sweep"
        raise ValueError(f"point must give {expected}; got {in_words(given) or 'none'}")
    for name, value in given.items():
        if value not in named[name]:
            raise ValueError(f"point {name} must be one of {_text(named[name])}, got {value:g}")
    number = points(config).index(given)
    return number, {name: given[label(config, name)] for name in config.sweep}


def columns(
    config: ExperimentConfig, numbers: Sequence[int] | np.ndarray
) -> dict[str, list[float]]:
    """Return what tells lanes apart, by their numbers: `seeds`, and a list for each axis."""
    places, seeds = split(config, np.asarray(numbers))
    named = axes(config)
    *along, _ = np.unravel_index(places, (*map(len, named.values()), 1))  # 1: there may be no axis
    return {
        "seeds": seeds.tolist(),
        **{
            name: [values[i] for i in place]
            for (name, values), place in zip(named.items(), along, strict=True)
        },
    }


def split(config: ExperimentConfig, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which point lanes are at, and their seeds, by the lanes' numbers."""
    places, seeds = np.divmod(numbers, config.num_seeds)
    return places, config.first_seed + seeds


def names(config: ExperimentConfig, numbers: Sequence[int] | np.ndarray) -> list[str]:
    """Return a name for each lane: `seed-3`, of a sweep `clip_eps=0.1,discount=0.9/seed-3`."""
    found = columns(config, numbers)
    seeds = [f"seed-{seed}" for seed in found.pop("seeds")]
    rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    places = [",".join(f"{k}={v}" for k, v in row.items()) for row in rows]
    return [f"{p}/{s}" for p, s in zip(places, seeds, strict=True)] if places else seeds


def describe(config: ExperimentConfig, number: int) -> str:
    """Name a lane in words: `seed 3`, of a sweep with its point."""
    found = {name: values[0] for name, values in columns(config, [number]).items()}
    seed = f"seed {found.pop('seeds')}"
    return f"{seed} at {in_words(found)}" if found else seed


def parse(assignments: Sequence[str], flag: str = "set") -> dict[str, tuple[float, ...]]:
    """Turn `NAME=VALUE,VALUE,…`, as on a command line, into a sweep.

    Raises:
        ValueError: for what does not read so, or a name given twice.
    """
    found: dict[str, tuple[float, ...]] = {}
    for assignment in assignments:
        name, equals, values = assignment.partition("=")
        name = name.strip().replace("-", "_").removeprefix("hyperparams.")
        try:
            numbers = tuple(float(value) for value in values.split(","))
        except ValueError:
            numbers = ()
        if not (name and equals and numbers):
            raise ValueError(
                f"{flag} must be NAME=VALUE,VALUE,… with numbers, got {assignment!r}; "
                "for example learning_rate=1e-4,3e-4"
            )
        if name in found:
            raise ValueError(f"{flag} must give each name once, got {name} twice")
        found[name] = numbers
    return found


def parse_point(assignments: Sequence[str]) -> Point:
    """Turn `NAME=VALUE` for each axis into a point.

    Raises:
        ValueError: for what does not read so.
    """
    found = parse(assignments, "point")
    for name, values in found.items():
        if len(values) != 1:
            raise ValueError(f"point must give one value of {name}, got {_text(values)}")
    return {name: values[0] for name, values in found.items()}


def _is_static(config: ExperimentConfig, name: str) -> bool:
    owners = (config, config.algorithm, config.algorithm.network)
    fields = {f.name for owner in owners for f in dataclasses.fields(owner)}
    return name.rpartition(".")[2] in fields


def in_words(point: Mapping[str, float]) -> str:
    """Name a point: `gravity = 9.8, discount = 0.9`."""
    return ", ".join(f"{name} = {value:g}" for name, value in point.items())


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
